"""Resilient groups (`ip nexthop ... type resilient`): their buckets, Linux's and ours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from testbed.waiting import wait_until
from tests.net.objects import (
    FAMILIES,
    GROUP,
    WEIGHTS,
    linux_says,
    member,
    over_objects,
    restored,
    revive,
    route_over,
    xdp_says,
)
from tests.net.topology import DEADLINE, SEED, VIP_PREFIX, Anycast, gateway
from tests.net.traffic import Flow, Flows, Servers
from xdpecmp.model.values import Prefix
from xdpecmp.program.abi import GroupKind

pytestmark = pytest.mark.root

FLOWS = 100

BUCKETS = 64


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with over_objects() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def attached(net: Anycast) -> Iterator[None]:
    net.attach("c0", "--mode", "native")
    yield
    net.detach()
    assert not net.remains()


@contextmanager
def resilient(net: Anycast, family: int, idle_s: int, weights: Mapping[int, int]) -> Iterator[int]:
    """The anycast route leads to a resilient group, the number of which is given."""
    nhid = GROUP[family] + 1
    net.ns.ip(f"nexthop add id {nhid} {resilient_words(family, weights)} idle_timer {idle_s}")
    try:
        with restored(net):
            route_over(net, family, nhid)
            net.wait_for_route(
                VIP_PREFIX[family], lambda route: route.kind == "resilient", "a resilient group"
            )
            yield nhid
    finally:
        net.ns.ip(f"nexthop del id {nhid}")


def resilient_words(family: int, weights: Mapping[int, int]) -> str:
    members = "/".join(f"{member(family, server)},{weight}" for server, weight in weights.items())
    return f"group {members} type resilient buckets {BUCKETS}"


def kernel_buckets(net: Anycast, family: int, nhid: int) -> list[int]:
    """The server in each bucket, as Linux has it."""
    shown = [row["bucket"] for row in json.loads(net.ns.ip(f"-j nexthop bucket show id {nhid}"))]
    return [row["nhid"] % 100 for row in sorted(shown, key=lambda row: row["index"])]


def our_buckets(net: Anycast, family: int) -> list[int]:
    """Likewise, as the data path has it."""
    names = {ip_address(gateway(server, family)).packed: server for server in WEIGHTS}
    with net.ns.enter(), net.instance.open_maps() as maps:
        number = maps.group_of(Prefix.parse(VIP_PREFIX[family]))
        assert number is not None
        group, hops = maps["groups"].entries[number], maps["nexthops"].entries
        if group.kind != GroupKind.RESILIENT:
            return []
        held = [maps["buckets"].entries[group.first + i].nexthop for i in range(group.count)]
        vias = [bytes(hops[number].via)[: 4 if family == 4 else 16] for number in held]
    return [names[via] for via in vias]


def wait_for_buckets(net: Anycast, family: int, wanted: Callable[[], list[int]]) -> None:
    wait_until(lambda: our_buckets(net, family) == wanted(), "our buckets as wanted", 2 * DEADLINE)


def by_bucket(flows: Sequence[Flow], buckets: Sequence[int]) -> list[int]:
    return [buckets[flow.key(1).hash(SEED) % len(buckets)] for flow in flows]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_buckets_as_linux(
    net: Anycast, servers: Servers, flows: Flows, family: int
) -> None:
    with resilient(net, family, 600, WEIGHTS) as nhid:
        buckets = kernel_buckets(net, family, nhid)
        assert our_buckets(net, family) == buckets
        assert Counter(buckets) == {1: 8, 2: 16, 3: 40}
        (route,) = net.json("routes", VIP_PREFIX[family])
        assert route["kind"] == "resilient"
        shown = {path["via"]: (path["weight"], path["share"]) for path in route["nexthops"]}
        assert shown == {
            gateway(1, family): (8, 0.125),
            gateway(2, family): (16, 0.25),
            gateway(3, family): (40, 0.625),
        }
        expected = by_bucket(flows[family], buckets)
        assert xdp_says(net, servers, flows[family]) == expected
        assert linux_says(net, flows[family]) == expected


NEW = {1: 6, 2: 1, 3: 1}


def active_flows(flows: Sequence[Flow]) -> tuple[list[Flow], set[int]]:
    """Some, and the buckets that they are in."""
    chosen = list(flows[:15])
    return chosen, {flow.key(1).hash(SEED) % BUCKETS for flow in chosen}


@pytest.mark.parametrize("family", FAMILIES)
def test_buckets_in_use_stay_in_linux_too(
    net: Anycast, servers: Servers, flows: Flows, family: int
) -> None:
    """It hears of the use, and moves the others alone; ours move along. So no flow moves when the
    agent dies, at the next attach, or at detach."""
    with resilient(net, family, 600, WEIGHTS) as nhid:
        before = our_buckets(net, family)
        active, busy = active_flows(flows[family])
        expected = by_bucket(active, before)
        assert xdp_says(net, servers, active) == expected
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(family, NEW)} idle_timer 600")
        theirs = kernel_buckets(net, family, nhid)
        assert [theirs[i] for i in busy] == [before[i] for i in busy]
        assert theirs != before
        wait_for_buckets(net, family, lambda: theirs)
        assert xdp_says(net, servers, active) == expected
        net.kill_agent()
        wait_until(lambda: net.status()["lease_s"] == 0, "lease ran out", DEADLINE)
        assert [answer.server for answer in servers.all_answers(active)] == expected
        net.attach("c0")
        assert our_buckets(net, family) == kernel_buckets(net, family, nhid) == theirs
        assert xdp_says(net, servers, active) == expected
        net.detach()
        assert [answer.server for answer in servers.all_answers(active)] == expected
        net.attach("c0")


def test_a_bucket_that_moved_is_in_use_again(net: Anycast, servers: Servers, flows: Flows) -> None:
    """To Linux a bucket is idle right after it moved. When the server comes back that it moved from
    it stays where it is, since a packet has passed."""
    with resilient(net, 4, 600, WEIGHTS) as nhid:
        active, busy = active_flows(flows[4])
        xdp_says(net, servers, active)
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(4, {1: 1, 2: 2})} idle_timer 600")
        wait_for_buckets(net, 4, lambda: kernel_buckets(net, 4, nhid))
        without = our_buckets(net, 4)
        assert 3 not in without
        expected = by_bucket(active, without)
        assert xdp_says(net, servers, active) == expected
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(4, WEIGHTS)} idle_timer 600")
        back = kernel_buckets(net, 4, nhid)
        assert [back[i] for i in busy] == [without[i] for i in busy]
        assert 3 in back
        wait_for_buckets(net, 4, lambda: back)
        assert xdp_says(net, servers, active) == expected


def test_what_linux_served_after_the_lease_is_taken_over(
    net: Anycast, servers: Servers, flows: Flows
) -> None:
    """Buckets that were in use before are idle since, and have moved in Linux."""
    with resilient(net, 4, 2, WEIGHTS) as nhid:
        active, _ = active_flows(flows[4])
        xdp_says(net, servers, active)
        net.kill_agent()
        wait_until(lambda: net.status()["lease_s"] == 0, "lease ran out", DEADLINE)
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(4, NEW)} idle_timer 2")
        final = {1: 48, 2: 8, 3: 8}
        wait_until(
            lambda: Counter(kernel_buckets(net, 4, nhid)) == final, "Linux is done", 2 * DEADLINE
        )
        net.attach("c0")
        assert our_buckets(net, 4) == kernel_buckets(net, 4, nhid)


def test_buckets_that_fall_idle_follow_linux(net: Anycast, servers: Servers, flows: Flows) -> None:
    with resilient(net, 4, 2, WEIGHTS) as nhid:
        active, _ = active_flows(flows[4])
        xdp_says(net, servers, active)
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(4, NEW)} idle_timer 2")
        final = {1: 48, 2: 8, 3: 8}
        wait_until(lambda: Counter(our_buckets(net, 4)) == final, "all moved", 2 * DEADLINE)
        wait_for_buckets(net, 4, lambda: kernel_buckets(net, 4, nhid))
        assert xdp_says(net, servers, active) == by_bucket(active, our_buckets(net, 4))


def test_what_linux_moves_later_is_followed(net: Anycast, flows: Flows) -> None:
    """Buckets that Linux took for busy move when it finds them idle, one by one."""
    with resilient(net, 4, 4, WEIGHTS) as nhid:
        linux_says(net, flows[4])  # uses them
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(4, NEW)} idle_timer 4")
        final = {1: 48, 2: 8, 3: 8}
        assert Counter(kernel_buckets(net, 4, nhid)) != final
        wait_until(
            lambda: Counter(kernel_buckets(net, 4, nhid)) == final, "Linux is done", 2 * DEADLINE
        )
        wait_for_buckets(net, 4, lambda: kernel_buckets(net, 4, nhid))


@pytest.mark.parametrize("by", ["deletion", "link"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_member_that_leaves_loses_its_buckets_at_once(
    net: Anycast, servers: Servers, flows: Flows, family: int, by: str
) -> None:
    """In use or not; the others' stay where they are."""
    with resilient(net, family, 600, WEIGHTS) as nhid:
        before = our_buckets(net, family)
        assert xdp_says(net, servers, flows[family]) == by_bucket(flows[family], before)
        try:
            if by == "link":
                net.servers[1].ip("link set eth0 down")
            else:
                net.ns.ip(f"nexthop del id {member(family, 2)}")
            wait_until(
                lambda: 2 not in our_buckets(net, family), "server 2 has no bucket", DEADLINE
            )
            after = our_buckets(net, family)
            assert [b for a, b in zip(before, after, strict=True) if a != 2] == [
                a for a in before if a != 2
            ]
            assert after == kernel_buckets(net, family, nhid)
            assert xdp_says(net, servers, flows[family]) == by_bucket(flows[family], after)
        finally:
            if by == "link":
                revive(net)
