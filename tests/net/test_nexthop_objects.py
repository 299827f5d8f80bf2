"""Routes over nexthop objects (`ip nexthop`), as FRR makes them: XDP picks Linux's server.

What Linux would do is asked for flow by flow (`ip route get`), or was recorded before xdpecmp was
attached. Every test leaves the group as it found it, since the kernel deletes what loses its link.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from tests.net.topology import DEADLINE, SEED, VIP, VIP_PREFIX, Anycast, batch, gateway
from tests.net.traffic import PORT, Answer, Flow, Load, Servers
from tests.netns import wait_until
from xdpecmp.abi import GroupKind
from xdpecmp.hashing import bounds, select
from xdpecmp.model import Prefix
from xdpecmp.netlink import wire
from xdpecmp.view import RouteView

pytestmark = pytest.mark.root

FLOWS = 100
FAMILIES = (4, 6)
GROUP = {4: 10, 6: 110}
WEIGHTS = {1: 1, 2: 2, 3: 5}
"""By server, as everywhere in here."""
BUCKETS = 64
RTM_NEWNEXTHOP = 104
CREATE_OR_REPLACE = 0x400 | wire.NLM_F_REPLACE
NHA_ID, NHA_GROUP = 1, 2


def member(family: int, server: int) -> int:
    """The id of the object that is that server's gateway."""
    return (0 if family == 4 else 100) + server


def set_group(net: Anycast, family: int, weights: Mapping[int, int], nhid: int = 0) -> None:
    """Make or replace a group, also with weights that iproute2 before 6.13 does not know."""
    block = b"".join(
        struct.pack("=IHH", member(family, server), weight - 1, 0)
        for server, weight in weights.items()
    )
    request = bytes(8) + wire.attribute(NHA_ID, struct.pack("=I", nhid or GROUP[family]))
    request += wire.attribute(NHA_GROUP, block)
    with net.ns.enter(), wire.Socket() as connection:
        connection.tell(RTM_NEWNEXTHOP, CREATE_OR_REPLACE, request, "nexthop group")


def build_objects(net: Anycast) -> None:
    """All objects and the anycast routes over them, whatever of it is there."""
    for family in FAMILIES:
        for server in WEIGHTS:
            via = gateway(server, family)
            net.ns.ip(f"nexthop replace id {member(family, server)} via {via} dev e{server}")
        set_group(net, family, WEIGHTS)
        route_over(net, family, GROUP[family])


def route_over(net: Anycast, family: int, nhid: int) -> None:
    """Let the anycast route lead to that object."""
    net.ns.ip(f"{f'-{family}'} route replace {VIP_PREFIX[family]} nhid {nhid}")


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 1, 1)) as made:
        made.policy(1)
        for family in FAMILIES:
            made.ns.ip(f"-{family} route del {VIP_PREFIX[family]}")
        build_objects(made)
        yield made


@pytest.fixture(scope="module")
def servers(net: Anycast) -> Iterator[Servers]:
    with Servers(net) as made:
        yield made


@pytest.fixture(scope="module")
def flows(servers: Servers) -> Iterator[dict[int, list[Flow]]]:
    with servers.flows(4, FLOWS) as ipv4, servers.flows(6, FLOWS) as ipv6:
        yield {4: ipv4, 6: ipv6}


Recorded = dict[tuple[int, int], list[Answer]]


@pytest.fixture(scope="module")
def recorded(net: Anycast, servers: Servers, flows: dict[int, list[Flow]]) -> Recorded:
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


# --- what both say --------------------------------------------------------------------------------


def linux_says(net: Anycast, flows: Sequence[Flow]) -> list[int]:
    """The server that the kernel would send each flow to now."""
    questions = [
        f"route get {VIP[flow.family]} from {flow.source} iif c0 ipproto udp"
        f" sport {flow.port} dport {PORT}"
        for flow in flows
    ]
    done = net.ns.run("ip", "-batch", "-", input="\n".join(questions) + "\n")
    devices = [
        line.split(" dev ")[1].split()[0] for line in done.stdout.splitlines() if " dev " in line
    ]
    assert len(devices) == len(flows), done.stdout
    return [int(device.removeprefix("e")) for device in devices]


def xdp_says(net: Anycast, servers: Servers, flows: Sequence[Flow]) -> list[int]:
    """The server that answers each flow, all of them having gone by XDP."""
    before = net.reason("FORWARDED")
    answers = servers.all_answers(flows)
    # answers go by XDP or not, as they like: their ingress is another
    assert net.reason("FORWARDED") - before == len(flows)
    return [answer.server for answer in answers]


def predicted(flows: Sequence[Flow], weights: Mapping[int, int]) -> list[int]:
    """By the model."""
    order, limits = list(weights), bounds(list(weights.values()))
    return [order[select(limits, flow.key(1).hash(SEED))] for flow in flows]


def weights_shown(route: RouteView | None) -> dict[str | None, int]:
    return {path.via: path.weight for path in route.paths} if route else {}


def wait_for_weights(net: Anycast, family: int, weights: Mapping[int, int]) -> None:
    """Until the data path has these servers and weights, and can send to all of them."""
    wanted = {gateway(server, family): weight for server, weight in weights.items()}

    def reached(route: RouteView | None) -> bool:
        return weights_shown(route) == wanted and all(path.state == "up" for path in route.paths)

    net.wait_for_route(VIP_PREFIX[family], reached, f"weights {wanted}")


@contextmanager
def restored(net: Anycast) -> Iterator[None]:
    """Whatever happens inside, afterwards the objects are as they were."""
    try:
        yield
    finally:
        build_objects(net)
        for family in FAMILIES:
            wait_for_weights(net, family, WEIGHTS)


# --- hash-threshold groups ------------------------------------------------------------------------


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_flow_keeps_its_server(
    net: Anycast,
    servers: Servers,
    flows: dict[int, list[Flow]],
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


@pytest.mark.usefixtures("attached")
def test_weights_are_changed_at_the_object(net: Anycast) -> None:
    before = net.ns.ip("nexthop show")
    done = net.run("weights", VIP[4], "10.0.1.2=3", status=2)
    assert net.ns.ip("nexthop show") == before
    assert done.stdout == ""
    assert len(done.lines) == 1
    assert f"nexthop object {GROUP[4]}" in done.stderr
    assert f"ip nexthop replace id {GROUP[4]} group" in done.stderr


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "weights", [{1: 65535, 2: 257, 3: 30000}, {3: 512, 1: 256, 2: 258}, {1: 65535, 3: 65535}]
)
def test_weights_of_16_bits(
    net: Anycast,
    servers: Servers,
    flows: dict[int, list[Flow]],
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


def group_number(net: Anycast, family: int) -> int | None:
    with net.ns.enter(), net.instance.open_maps() as maps:
        return maps.group_of(Prefix.parse(VIP_PREFIX[family]))


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("server", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_failed_neighbour_is_skipped(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int, server: int
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
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int
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


def revive(net: Anycast) -> None:
    """Server 2's link comes back, with what it lost."""
    batch(
        net.servers[1],
        "link set eth0 up",
        f"addr replace {gateway(2, 6)}/64 dev eth0",
        "route replace default via 10.0.2.1",
        "route replace default via 2001:db8:2::1",
    )
    wait_until(
        lambda: "LOWER_UP" in net.ns.ip("link show dev e2"), "the link of e2 is back", DEADLINE
    )


# --- other objects --------------------------------------------------------------------------------


@pytest.mark.usefixtures("attached")
def test_ipv4_over_ipv6(net: Anycast, servers: Servers, flows: dict[int, list[Flow]]) -> None:
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
def test_a_single_object(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int
) -> None:
    with restored(net):
        route_over(net, family, member(family, 2))
        wait_for_weights(net, family, {2: 1})
        (route,) = net.json("routes", VIP_PREFIX[family])
        assert route["kind"] == "single"
        assert set(xdp_says(net, servers, flows[family][:10])) == {2}


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_blackhole(
    net: Anycast, flows: dict[int, list[Flow]], family: int, grouped: bool
) -> None:
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


# --- resilient groups -----------------------------------------------------------------------------


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


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_buckets_as_linux(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int
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


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", FAMILIES)
def test_buckets_in_use_stay_though_linux_moves_them(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int
) -> None:
    """To Linux all of them are idle, as it sees no packets. A new agent keeps them too."""
    with resilient(net, family, 600, WEIGHTS) as nhid:
        before = our_buckets(net, family)
        active, busy = active_flows(flows[family])
        assert xdp_says(net, servers, active) == by_bucket(active, before)
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(family, NEW)} idle_timer 600")
        theirs = kernel_buckets(net, family, nhid)
        ours = [before[i] if i in busy else theirs[i] for i in range(BUCKETS)]
        assert ours != theirs
        wait_for_buckets(net, family, lambda: ours)
        assert xdp_says(net, servers, active) == by_bucket(active, before)
        net.kill_agent()
        net.attach("c0")
        assert our_buckets(net, family) == ours
        assert xdp_says(net, servers, active) == by_bucket(active, before)
        assert kernel_buckets(net, family, nhid) == theirs


@pytest.mark.usefixtures("attached")
def test_buckets_that_fall_idle_follow_linux(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]]
) -> None:
    with resilient(net, 4, 2, WEIGHTS) as nhid:
        active, _ = active_flows(flows[4])
        xdp_says(net, servers, active)
        net.ns.ip(f"nexthop replace id {nhid} {resilient_words(4, NEW)} idle_timer 2")
        wait_for_buckets(net, 4, lambda: kernel_buckets(net, 4, nhid))
        assert Counter(our_buckets(net, 4)) == {1: 48, 2: 8, 3: 8}
        assert xdp_says(net, servers, active) == by_bucket(active, our_buckets(net, 4))


@pytest.mark.usefixtures("attached")
def test_what_linux_moves_later_is_followed(net: Anycast, flows: dict[int, list[Flow]]) -> None:
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


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("by", ["deletion", "link"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_member_that_leaves_loses_its_buckets_at_once(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int, by: str
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
