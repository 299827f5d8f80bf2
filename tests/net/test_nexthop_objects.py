"""Routes over nexthop objects (`ip nexthop`), as FRR makes them: XDP picks Linux's server.

What that is was recorded before xdpecmp was attached, or is asked for flow by flow.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.waiting import wait_until
from tests.capabilities import Since, since
from tests.net.objects import (
    FAMILIES,
    FLOWS,
    GROUP,
    WEIGHTS,
    linux_says,
    member,
    over_objects,
    predicted,
    restored,
    revive,
    route_over,
    set_group,
    wait_for_weights,
    weights_shown,
    xdp_says,
)
from tests.net.topology import DEADLINE, SEED, VIP_PREFIX, Anycast, gateway
from tests.net.traffic import Answer, Flows, Load, Servers
from xdpecmp.hashing import bounds
from xdpecmp.model.values import Prefix

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with over_objects() as made:
        yield made


Recorded = dict[tuple[int, int], list[Answer]]


@pytest.fixture(scope="module")
def recorded(net: Anycast, servers: Servers, flows: Flows) -> Recorded:
    """What Linux alone does, by family and policy."""
    answers = {}
    for policy in (0, 1):
        net.policy(policy)
        for family in FAMILIES:
            answers[family, policy] = servers.all_answers(flows[family])
    return answers


@pytest.fixture(scope="module")
def attached(net: Anycast, recorded: Recorded) -> Iterator[None]:
    net.attach("c0", "--mode", "native")
    yield
    net.detach()
    assert not net.remains()


# --- hash-threshold groups ------------------------------------------------------------------------


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_flow_keeps_its_server(
    net: Anycast,
    servers: Servers,
    flows: Flows,
    recorded: Recorded,
    family: int,
    policy: int,
) -> None:
    net.policy(policy)
    try:
        before = net.reason("FORWARDED")
        answers = servers.all_answers(flows[family])
        assert net.reason("FORWARDED") - before == FLOWS
    finally:
        net.policy(1)
    assert answers == recorded[family, policy]
    assert len({answer.server for answer in answers}) == len(WEIGHTS)
    if policy == 1:
        alone = [answer.server for answer in answers]
        assert alone == linux_says(net, flows[family]) == predicted(flows[family], WEIGHTS)


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
def test_routes_show_the_group(net: Anycast, family: int) -> None:
    (route,) = net.json("routes", VIP_PREFIX[family])
    assert route["kind"] == "threshold"
    assert [(path["via"], path["dev"], path["weight"]) for path in route["nexthops"]] == [
        (gateway(server, family), f"e{server}", weight) for server, weight in WEIGHTS.items()
    ]
    assert [path["share"] for path in route["nexthops"]] == [0.125, 0.25, 0.625]
    assert {path["state"] for path in route["nexthops"]} == {"up"}


@since(Since.WIDE_WEIGHTS)
@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "weights", [{1: 65535, 2: 257, 3: 30000}, {3: 512, 1: 256, 2: 258}, {1: 65535, 3: 65535}]
)
def test_weights_of_16_bits(
    net: Anycast,
    servers: Servers,
    flows: Flows,
    family: int,
    weights: dict[int, int],
) -> None:
    """Which routes themselves show cut to 8."""
    with restored(net):
        set_group(net, family, weights)
        wait_for_weights(net, family, weights)
        expected = predicted(flows[family], weights)
        assert linux_says(net, flows[family]) == expected
        assert xdp_says(net, servers, flows[family]) == expected
        assert len(set(expected)) > 1


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_group_replaced_under_load(net: Anycast, servers: Servers, family: int) -> None:
    """Nothing is lost, and each flow moves once at most: if its part of the hashes does."""
    new = {1: 4, 2: 2, 3: 5}
    with restored(net), servers.flows(family, FLOWS, first=FLOWS) as mine:
        with Load(servers, mine) as load:
            set_group(net, family, new)
            wait_for_weights(net, family, new)
            load.wait_for_rounds()
        old, changed = predicted(mine, WEIGHTS), predicted(mine, new)
        assert load.lost == 0
        assert (load.servers(0), load.servers(-1)) == (old, changed)
        assert load.moves == [int(a != b) for a, b in zip(old, changed, strict=True)]
        assert sum(load.moves) > 0


def group_number(net: Anycast, family: int) -> int | None:
    with net.ns.enter(), net.instance.open_maps() as maps:
        return maps.group_of(Prefix.parse(VIP_PREFIX[family]))


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_member_deleted_under_load(net: Anycast, servers: Servers, family: int) -> None:
    """Only the groups say so, routes don't; down to the last member the routes stay where they
    are."""
    number = group_number(net, family)
    with restored(net), servers.flows(family, FLOWS, first=FLOWS) as mine:
        with Load(servers, mine) as load:
            for server in (2, 3):
                net.ns.ip(f"nexthop del id {member(family, server)}")
                left = {s: w for s, w in WEIGHTS.items() if s not in range(2, server + 1)}
                wait_for_weights(net, family, left)
                load.wait_for_rounds()
                assert load.servers(-1) == predicted(mine, left)
                assert group_number(net, family) == number
        assert load.lost == 0
        assert load.servers(0) == predicted(mine, WEIGHTS)


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("server", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_failed_neighbour_is_skipped(
    net: Anycast, servers: Servers, flows: Flows, family: int, server: int
) -> None:
    """Whatever fib_multipath_use_neigh says. Its hashes go to the next good one or, those above
    the last good one, to the first."""
    device = f"e{server}"
    others = {s: w for s, w in WEIGHTS.items() if s != server}
    nobody = f"10.0.{server}.77" if family == 4 else f"2001:db8:{server}::77"
    with restored(net):
        net.ns.ip(f"nexthop replace id {member(family, server)} via {nobody} dev {device}")
        net.ns.ip(f"neigh replace {nobody} dev {device} nud failed")
        wait_for_weights(net, family, others)
        limits = bounds(list(WEIGHTS.values()))
        expected = []
        for flow in flows[family]:
            hash31 = flow.key(1).hash(SEED)
            good = [
                s
                for s, bound in zip(WEIGHTS, limits, strict=True)
                if s in others and hash31 <= bound
            ]
            expected.append(good[0] if good else min(others))
        assert linux_says(net, flows[family]) == expected
        assert xdp_says(net, servers, flows[family]) == expected
        (route,) = net.json("routes", VIP_PREFIX[family])
        shares = {path["via"]: path["share"] for path in route["nexthops"]}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares.keys() == {gateway(s, family) for s in others}


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_link_down_shrinks_the_group(
    net: Anycast, servers: Servers, flows: Flows, family: int
) -> None:
    """Of which the kernel says nothing."""
    with restored(net):
        net.servers[1].ip("link set eth0 down")
        try:
            left = {s: w for s, w in WEIGHTS.items() if s != 2}
            wait_for_weights(net, family, left)
            expected = predicted(flows[family], left)
            assert linux_says(net, flows[family]) == expected
            assert xdp_says(net, servers, flows[family]) == expected
        finally:
            revive(net)


# --- other objects --------------------------------------------------------------------------------


@pytest.mark.usefixtures("attached")
def test_ipv4_over_ipv6(net: Anycast, servers: Servers, flows: Flows) -> None:
    """RFC 8950: an IPv4 route whose next hops are IPv6 neighbours."""
    with restored(net):
        route_over(net, 4, GROUP[6])
        wanted = {gateway(server, 6): weight for server, weight in WEIGHTS.items()}
        net.wait_for_route(
            VIP_PREFIX[4], lambda route: weights_shown(route) == wanted, "IPv6 next hops"
        )
        expected = predicted(flows[4], WEIGHTS)
        assert linux_says(net, flows[4]) == expected
        assert xdp_says(net, servers, flows[4]) == expected


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_object(net: Anycast, servers: Servers, flows: Flows, family: int) -> None:
    with restored(net):
        route_over(net, family, member(family, 2))
        wait_for_weights(net, family, {2: 1})
        (route,) = net.json("routes", VIP_PREFIX[family])
        assert route["kind"] == "single"
        assert set(xdp_says(net, servers, flows[family][:10])) == {2}


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_blackhole(net: Anycast, flows: Flows, family: int, grouped: bool) -> None:
    """Linux takes the packet, to drop it."""
    with restored(net):
        try:
            net.ns.ip(f"-{family} nexthop add id 50 blackhole")
            net.ns.ip("nexthop add id 51 group 50")
            route_over(net, family, 51 if grouped else 50)
            net.wait_for_route(
                VIP_PREFIX[family], lambda route: route.kind == "pass", "the blackhole"
            )
            (route,) = net.json("routes", VIP_PREFIX[family])
            assert (route["reason"], route["nexthops"]) == ("ROUTE_SPECIAL", [])
            before = net.reason("ROUTE_SPECIAL")
            for flow in flows[family][:5]:
                flow.send()
            wait_until(lambda: net.reason("ROUTE_SPECIAL") == before + 5, "five passed", DEADLINE)
        finally:
            route_over(net, family, GROUP[family])
            net.ns.ip("nexthop del id 50")
