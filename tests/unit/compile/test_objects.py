"""compile: what routes over nexthop objects (`ip nexthop`) come to.

The expectations are net/ipv4/nexthop.c's: nh_hthr_group_rebalance(), nexthop_select_path_hthr(),
nexthop_select_path_res().
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.compile import (
    LAST_BOUND,
    TABLE_MAIN,
    Group,
    PathEntry,
    Resilient,
    Tables,
    compile_tables,
)
from xdpecmp.hashing import bounds, select, shares
from xdpecmp.model.values import (
    InterfaceSettings,
    Link,
    Neighbour,
    NextHop,
    NexthopGroup,
    Path,
    Prefix,
    Route,
    RouteKind,
    Settings,
    Snapshot,
)
from xdpecmp.program.abi import MAX_BUCKETS, MAX_PATHS, Reason

REACHABLE, STALE, INCOMPLETE, FAILED, NONE = 0x02, 0x04, 0x01, 0x20, 0x00
DEAD, LINKDOWN = 0x01, 0x10
MAC = bytes.fromhex("020000000001")
LINKS = {
    2: Link(2, "eth0", MAC, 1500, True, xdp_prog_id=7, xdp_mode="native"),
    3: Link(3, "eth1", MAC, 1500, True),
}
UNICAST, SPECIAL, UNSUPPORTED = RouteKind.UNICAST, RouteKind.SPECIAL, RouteKind.UNSUPPORTED
KEY = ("object", 9)
NET4, NET6 = "10.0.0.0/8", "2001:db8:1::/48"


def hop(via: str, ifindex: int = 3) -> NextHop:
    return NextHop(ipaddress.ip_address(via).packed if via else b"", ifindex)


A, B, C = hop("10.1.0.1"), hop("10.1.0.2"), hop("10.1.0.3", 2)
A6, B6 = hop("2001:db8::1"), hop("2001:db8::2")


def group(*members: tuple[NextHop, int], **more: object) -> NexthopGroup:
    """Object 9: members as (next hop, weight)."""
    whole = NexthopGroup(9, UNICAST, tuple(Path(*member) for member in members))
    return replace(whole, **more)  # type: ignore[arg-type]


def compiled(
    found: NexthopGroup | None,
    states: Mapping[NextHop, int] | None = None,
    nets: Sequence[str] = (NET4,),
    settings: Settings | None = None,
    extra: Sequence[Route] = (),
) -> Tables:
    """Tables for routes that refer to object 9, with neighbours in these NUD states."""
    routes = [Route(Prefix.parse(net), TABLE_MAIN, 0, UNICAST, nhid=9) for net in nets]
    neighbours = {
        (nexthop.via, nexthop.ifindex): Neighbour(*nexthop, MAC if state & 0xDE else b"", state)
        for nexthop, state in (states or {}).items()
    }
    snapshot = Snapshot(
        links=LINKS,
        neighbours=neighbours,
        routes=(*routes, *extra),
        settings=settings or Settings(seed=1),
        nexthop_groups={9: found} if found else {},
    )
    return compile_tables(snapshot, {2})


def target(found: NexthopGroup | None, net: str = NET4) -> object:
    return compiled(found, nets=(net,)).routes[Prefix.parse(net)]


def group_of(found: NexthopGroup, states: Mapping[NextHop, int] | None = None) -> Group:
    tables = compiled(found, states)
    assert tables.routes == {Prefix.parse(NET4): KEY}
    return tables.groups[KEY]


def paths_of(found: NexthopGroup, states: Mapping[NextHop, int] | None = None) -> list[PathEntry]:
    entries = group_of(found, states)
    assert not isinstance(entries, Resilient)
    return list(entries)


# --- what a route leads to ------------------------------------------------------------------------

RESILIENT = group((A, 3), (B, 1), resilient=True, buckets=(0, 1, 0, 0), idle_s=5.0)

TARGETS = [
    ("one next hop", group((A, 1), single=True), A),
    ("one by IPv6, under an IPv4 route", group((A6, 1), single=True), A6),
    ("one without an address", group((hop(""), 1), single=True), hop("")),
    ("a group", group((A, 1), (B, 1)), KEY),
    ("a group of one", group((A, 7)), KEY),
    ("a resilient group", RESILIENT, KEY),
    ("a group of both families", group((A, 1), (A6, 1)), KEY),
    ("blackhole", group(kind=SPECIAL, single=True), Reason.ROUTE_SPECIAL),
    ("a group that is a blackhole", group(kind=SPECIAL), Reason.ROUTE_SPECIAL),
    ("a resilient blackhole", group(kind=SPECIAL, resilient=True), Reason.ROUTE_SPECIAL),
    ("unsupported", group((A, 1), kind=UNSUPPORTED, single=True), Reason.ROUTE_UNSUPPORTED),
    ("a group with an unsupported one", group((A, 1), kind=UNSUPPORTED), Reason.ROUTE_UNSUPPORTED),
    ("an object that has just gone", None, Reason.ROUTE_UNSUPPORTED),
    (
        "more than the data path searches",
        group(*((hop(f"10.{i >> 8}.{i & 255}.1"), 1) for i in range(MAX_PATHS + 1))),
        Reason.ROUTE_UNSUPPORTED,
    ),
    (
        "more buckets than fit",
        replace(RESILIENT, buckets=(0,) * (MAX_BUCKETS + 1)),
        Reason.ROUTE_UNSUPPORTED,
    ),
]


@pytest.mark.parametrize(
    ("found", "expected"), [row[1:] for row in TARGETS], ids=[row[0] for row in TARGETS]
)
@pytest.mark.parametrize("net", [NET4, NET6])
def test_target(net: str, found: NexthopGroup | None, expected: object) -> None:
    assert target(found, net) == expected


def test_all_members_have_an_adjacency_and_are_kept_resolved() -> None:
    """Those too that get no packets now: a bad neighbour, a member that holds no bucket."""
    for found in (group((A, 1), (B, 1)), replace(RESILIENT, buckets=(0, 0))):
        tables = compiled(found, {B: FAILED})
        assert tables.nexthops.keys() == {A, B} == set(tables.gateways)


def test_all_routes_of_an_object_share_its_group() -> None:
    tables = compiled(group((A, 1), (B, 1)), nets=("10.0.0.0/8", "11.0.0.0/8", NET6))
    assert set(tables.routes.values()) == {KEY} == tables.groups.keys()


CHANGES = [
    ("weights", group((A, 1), (B, 200))),
    ("a member more", group((A, 1), (B, 1), (C, 1))),
    ("a member less", group((A, 1))),
    ("other members", group((C, 1), (A6, 1))),
    ("resilient", RESILIENT),
]


@pytest.mark.parametrize("after", [row[1] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_a_change_of_the_group_changes_no_route(after: NexthopGroup) -> None:
    before = compiled(group((A, 1), (B, 1)))
    assert compiled(after).routes == before.routes
    assert compiled(after).groups != before.groups


def usable(group: object) -> list[NextHop]:
    """The next hops of a hash-threshold group."""
    assert isinstance(group, tuple)
    return [entry.nexthop for entry in group]


def test_an_object_is_not_the_route_of_equal_paths() -> None:
    """Neighbours count for the one and not for the other."""
    classic = Route(Prefix.parse("11.0.0.0/8"), TABLE_MAIN, 0, UNICAST, (Path(A), Path(B)))
    tables = compiled(group((A, 1), (B, 1)), {B: FAILED}, extra=[classic])
    assert len(tables.groups) == 2
    assert usable(tables.groups[KEY]) == [A]
    (other,) = [entries for key, entries in tables.groups.items() if key != KEY]
    assert usable(other) == [A, B]


# --- hash-threshold -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights", [(1,), (1, 1), (1, 2, 5), (65535, 1), (1, 65535), (65535, 65535, 65534), (257, 3)]
)
def test_bounds(weights: tuple[int, ...]) -> None:
    """By hand, as nh_hthr_group_rebalance() says: DIV_ROUND_CLOSEST(sum << 31, total) - 1."""
    members = [(hop(f"10.1.0.{i}"), weight) for i, weight in enumerate(weights)]
    total, expected, so_far = sum(weights), [], 0
    for nexthop, weight in members:
        so_far += weight
        expected.append(PathEntry(((so_far << 31) + total // 2) // total - 1, nexthop, weight))
    assert paths_of(group(*members)) == expected
    assert expected[-1].bound == LAST_BOUND


@pytest.mark.parametrize("flags", [DEAD, LINKDOWN, DEAD | LINKDOWN])
@pytest.mark.parametrize("ignore_linkdown", [False, True])
def test_flags_of_members_do_not_count(flags: int, ignore_linkdown: bool) -> None:
    """They are those of the object's creation."""
    interfaces = {3: InterfaceSettings(ignore_linkdown4=ignore_linkdown)}
    found = NexthopGroup(9, UNICAST, (Path(A, 1, flags), Path(B, 1, flags)))
    tables = compiled(found, settings=Settings(seed=1, interfaces=interfaces))
    assert usable(tables.groups[KEY]) == [A, B]


THIRDS = bounds([1, 1, 1])

BAD = [
    ("none is known", {}, [(THIRDS[0], A, 1), (THIRDS[1], B, 1), (LAST_BOUND, C, 1)]),
    (
        "the first",
        {A: FAILED},
        [(THIRDS[1], B, 1), (LAST_BOUND, C, 1)],  # the next good one by bound
    ),
    ("the middle one", {B: FAILED}, [(THIRDS[0], A, 1), (LAST_BOUND, C, 1)]),
    (
        "the last",
        {C: FAILED},
        [(THIRDS[0], A, 1), (THIRDS[1], B, 1), (LAST_BOUND, A, 0)],  # the first good one
    ),
    ("the first and the last", {A: FAILED, C: FAILED}, [(LAST_BOUND, B, 1)]),
    ("all but the last", {A: FAILED, B: FAILED}, [(LAST_BOUND, C, 1)]),
    ("all", {A: FAILED, B: FAILED, C: FAILED}, [(LAST_BOUND, A, 1)]),
    ("being resolved", {B: INCOMPLETE}, [(THIRDS[0], A, 1), (LAST_BOUND, C, 1)]),
    ("in no state", {B: NONE}, [(THIRDS[0], A, 1), (LAST_BOUND, C, 1)]),
    ("stale is good", {B: STALE}, [(THIRDS[0], A, 1), (THIRDS[1], B, 1), (LAST_BOUND, C, 1)]),
]


@pytest.mark.parametrize(
    ("states", "expected"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
@pytest.mark.parametrize("use_neigh", [False, True])
def test_bad_neighbours(
    use_neigh: bool, states: dict[NextHop, int], expected: list[tuple[int, NextHop, int]]
) -> None:
    """Whatever fib_multipath_use_neigh says."""
    settings = Settings(seed=1, use_neigh=use_neigh)
    tables = compiled(group((A, 1), (B, 1), (C, 1)), states, settings=settings)
    assert list(tables.groups[KEY]) == expected


def chosen_by_the_kernel(weights: Sequence[int], good: Sequence[bool], hash31: int) -> int:
    """nexthop_select_path_hthr(), word by word."""
    first_good = None
    for i, bound in enumerate(bounds(weights)):
        if not good[i]:
            continue
        if first_good is None:
            first_good = i
        if hash31 > bound:
            continue
        return i
    return first_good or 0


@given(
    st.lists(st.tuples(st.integers(1, 65535), st.booleans()), min_size=2, max_size=9),
    st.integers(0, LAST_BOUND),
)
def test_the_compiled_bounds_choose_as_the_kernel_does(
    rows: list[tuple[int, bool]], hash31: int
) -> None:
    weights, good = [weight for weight, _ in rows], [alive for _, alive in rows]
    members = [hop(f"10.1.0.{i}") for i in range(len(rows))]
    states = {m: REACHABLE if alive else FAILED for m, alive in zip(members, good, strict=True)}
    entries = paths_of(group(*zip(members, weights, strict=True)), states)
    chosen = entries[select([entry.bound for entry in entries], hash31)].nexthop
    assert chosen == members[chosen_by_the_kernel(weights, good, hash31)]
    limits = [entry.bound for entry in entries]
    assert limits == sorted(limits)
    assert sum(shares(limits)) == 1


# --- resilient ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [REACHABLE, FAILED])
def test_a_resilient_group_is_its_buckets_whatever_the_neighbours(state: int) -> None:
    assert group_of(RESILIENT, {A: state}) == Resilient((A, B, A, A), frozenset({A, B}), 5.0)


def test_a_member_that_holds_no_bucket_is_one_still() -> None:
    found = group_of(replace(RESILIENT, buckets=(0, 0, 0, 0)))
    assert found == Resilient((A, A, A, A), frozenset({A, B}), 5.0)


def test_a_resilient_group_of_one() -> None:
    found = group_of(group((A, 1), resilient=True, buckets=(0, 0), idle_s=1.0))
    assert found == Resilient((A, A), frozenset({A}), 1.0)


# --- directly connected ---------------------------------------------------------------------------


def test_neighbours_behind_an_object_without_an_address_get_host_routes() -> None:
    tables = compiled(group((hop(""), 1), single=True), {A: REACHABLE, C: REACHABLE})
    assert tables.routes == {
        Prefix.parse(NET4): hop(""),
        Prefix.parse("10.1.0.1/32"): A,  # and C is on another device
    }
    assert tables.gateways == frozenset()
