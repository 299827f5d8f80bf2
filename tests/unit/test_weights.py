"""weights: which path is meant, what would move, what is refused."""

from __future__ import annotations

import ipaddress
import pathlib
from fractions import Fraction

import pytest

from xdpecmp.cli import asjson
from xdpecmp.control import networkd
from xdpecmp.control.owners import PROTOCOL_NAMES, WeightedHop, owner_of
from xdpecmp.control.weightplan import HeldWeights, Selector, plan, wanted_buckets
from xdpecmp.errors import RouteNotFound, RouteNotWeighable
from xdpecmp.model.values import Link, NextHop, NexthopGroup, Path, Prefix, Route, RouteKind

LINKS = {
    index: Link(index, name, bytes(6), 1500, True) for index, name in ((2, "eth0"), (3, "eth1"))
}
PREFIX = Prefix.parse("192.0.2.0/24")


def hop(via: str, ifindex: int = 2) -> NextHop:
    return NextHop(ipaddress.ip_address(via).packed if via else b"", ifindex)


def route(*paths: Path, kind: RouteKind = RouteKind.UNICAST, metric: int = 0) -> Route:
    return Route(PREFIX, 254, metric, kind, paths)


TWO = route(Path(hop("10.0.0.1"), 1), Path(hop("10.0.0.2"), 2))
TWICE = route(Path(hop("10.0.0.1")), Path(hop("10.0.0.1"), 2), Path(hop("10.0.0.2")))
LINK_LOCAL = route(Path(hop("fe80::1", 2)), Path(hop("fe80::1", 3)), Path(hop("", 3)))


def planned(chosen: Route, **wanted: int) -> tuple[int, ...]:
    selectors = [(Selector.parse(text), weight) for text, weight in wanted.items()]
    return plan([chosen], LINKS, PREFIX, selectors).new


@pytest.mark.parametrize(
    ("chosen", "wanted", "expected"),
    [
        (TWO, {"10.0.0.1": 5}, (5, 2)),
        (TWO, {"10.0.0.1": 5, "10.0.0.2%eth0": 256}, (5, 256)),
        (LINK_LOCAL, {"fe80::1%eth1": 9}, (1, 9, 1)),
        (LINK_LOCAL, {"%eth1": 9}, (1, 1, 9)),
    ],
)
def test_the_path_that_is_meant(
    chosen: Route, wanted: dict[str, int], expected: tuple[int, ...]
) -> None:
    assert planned(chosen, **wanted) == expected


@pytest.mark.parametrize(
    ("chosen", "wanted", "error", "words"),
    [
        (TWO, {"10.0.0.3": 1}, RouteNotFound, "not a next hop"),
        (TWO, {"10.0.0.1%eth1": 1}, RouteNotFound, "not a next hop"),
        (LINK_LOCAL, {"fe80::1": 1}, RouteNotFound, "ambiguous"),
        (TWICE, {"10.0.0.1": 3}, RouteNotWeighable, "2 times, so its weights"),
        (TWO, {"10.0.0.1": 3, "10.0.0.1%eth0": 5}, RouteNotWeighable, "same next hop"),
        (TWO, {"10.0.0.1": 0}, RouteNotWeighable, "outside 1 to 256"),
        (TWO, {"10.0.0.1": 257}, RouteNotWeighable, "outside 1 to 256"),
        (TWO, {"10.0.0.1": -1}, RouteNotWeighable, "outside 1 to 256"),
        (route(Path(hop("10.0.0.1"))), {"10.0.0.1": 1}, RouteNotWeighable, "one next hop"),
        (route(kind=RouteKind.SPECIAL), {"10.0.0.1": 1}, RouteNotWeighable, "one next hop"),
        (route(kind=RouteKind.UNSUPPORTED), {"10.0.0.1": 1}, RouteNotWeighable, "leaves to Linux"),
    ],
)
def test_what_is_refused(
    chosen: Route, wanted: dict[str, int], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        planned(chosen, **wanted)


def test_an_unknown_prefix() -> None:
    with pytest.raises(RouteNotFound, match=r"no route 198\.51\.100\.0/24"):
        plan([TWO], LINKS, Prefix.parse("198.51.100.0/24"), [])


def test_the_route_in_force_is_the_one_with_the_lowest_metric() -> None:
    other = route(Path(hop("10.0.0.1"), 7), Path(hop("10.0.0.2"), 7), metric=5)
    assert plan([other, TWO], LINKS, PREFIX, []).route is TWO


def test_the_share_that_moves_is_exact() -> None:
    """1:2 → 2:1 moves the third between the two bounds, to within one part in 2^31."""
    change = plan([TWO], LINKS, PREFIX, [(Selector.parse("10.0.0.1"), 4)])
    assert change.moved * 2**31 == 1431655764 - 715827882
    row = asjson.weights(change, None)
    assert row["moved_share"] == pytest.approx(1 / 3)
    assert [n["new_share"] for n in row["nexthops"]] == pytest.approx([2 / 3, 1 / 3])
    assert [n["old_weight"] for n in row["nexthops"]] == [1, 2]


# --- nexthop groups -------------------------------------------------------------------------------


def held(*members: Path, buckets: tuple[int, ...] = (), most: int = 65_535) -> HeldWeights:
    group = NexthopGroup(10, RouteKind.UNICAST, members, resilient=bool(buckets), buckets=buckets)
    ids = tuple(range(1, len(members) + 1))
    return HeldWeights(group, 0, ids, most, 2, (PREFIX, Prefix.parse("10.9.0.0/16")))


OVER_OBJECTS = route()._replace(nhid=10)


def test_a_group_holds_the_weights() -> None:
    found = held(*TWO.paths)
    change = plan(
        [OVER_OBJECTS], LINKS, PREFIX, [(Selector.parse("10.0.0.2"), 60_000)], lambda nhid: found
    )
    assert (change.old, change.new) == ((1, 2), (1, 60_000))
    assert asjson.weights(change, None)["nexthop_group"] == {
        "id": 10,
        "resilient": False,
        "routes": 2,
        "first_routes": ["192.0.2.0/24", "10.9.0.0/16"],
    }


@pytest.mark.parametrize(
    ("weight", "found", "words"),
    [
        (256, held(*TWO.paths, most=255), "outside 1 to 255"),
        (65_536, held(*TWO.paths), "outside 1 to 65535"),
        (2, held(TWO.paths[0]), "one next hop"),
        (2, None, "no group with weights"),
    ],
)
def test_what_is_refused_of_groups(weight: int, found: HeldWeights | None, words: str) -> None:
    wanted = [(Selector.parse("10.0.0.1"), weight)]
    with pytest.raises(RouteNotWeighable, match=words):
        plan([OVER_OBJECTS], LINKS, PREFIX, wanted, lambda nhid: found)


def test_buckets_that_move_are_those_held_beyond_what_is_wanted() -> None:
    found = held(*TWO.paths, buckets=(0, 1, 1, 0, 1, 1, 1, 1))
    wanted = [(Selector.parse("10.0.0.1"), 2)]
    change = plan([OVER_OBJECTS], LINKS, PREFIX, wanted, lambda nhid: found)
    assert change.moved == Fraction(2, 8)  # 2 and 6 are held, 4 and 4 wanted
    rows = asjson.weights(change, None)["nexthops"]
    assert [(row["old_share"], row["new_share"]) for row in rows] == [(0.25, 0.5), (0.75, 0.5)]


@pytest.mark.parametrize(
    ("weights", "count", "wanted"),
    [((1, 1, 1), 32, [11, 10, 11]), ((1, 255), 8, [0, 8]), ((3, 1), 4, [3, 1])],
)
def test_wanted_buckets(weights: tuple[int, ...], count: int, wanted: list[int]) -> None:
    assert wanted_buckets(weights, count) == wanted


# --- owners --------------------------------------------------------------------------------------

HOPS = (WeightedHop("10.0.0.1", "eth0", 3), WeightedHop("fe80::2", "eth1", 1))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_handmade_routes_belong_to_nobody(protocol: int) -> None:
    assert plan([TWO._replace(protocol=protocol)], LINKS, PREFIX, []).owner() is None
    assert owner_of(protocol, protocol, "10.0.0.0/8", HOPS) is None


OWNERS = {
    (186, 186): ("FRR's zebra", "set extcommunity bandwidth"),
    (11, 186): ("FRR's zebra", "3 for 10.0.0.1"),
    (11, 196): ("FRR's zebra", "static routes know no weights"),
    (196, 196): ("FRR's zebra", "static routes know no weights"),
    (188, 188): ("FRR's zebra", "ospf knows no weights"),
    (195, 195): ("FRR's zebra", "nexthop 10.0.0.1 eth0 weight 3"),
    (12, 12): ("BIRD", "route 10.0.0.0/8 via 10.0.0.1 weight 3 via fe80::2%eth1 weight 1;"),
    (18, 18): ("keepalived", "nexthop via 10.0.0.1 dev eth0 weight 3"),
    (16, 16): ("the DHCP client", "a route of your own"),
    (9, 9): ("router advertisements", "a route of your own"),
    (42, 42): ("babel", "change the weights there"),
    (77, 77): ("whoever installs routes with protocol 77", "change the weights there"),
}
"""By the protocol of what holds the weights, and the route's: who it is, and what to type there."""


@pytest.mark.parametrize("protocols", OWNERS)
def test_owners_by_their_names(protocols: tuple[int, int]) -> None:
    name, advice = OWNERS[protocols]
    owner = owner_of(*protocols, "10.0.0.0/8", HOPS)
    assert owner
    assert owner.name == name
    assert advice in owner.advice
    assert "routing daemon" not in owner.undoes + owner.advice


def test_networkd_is_known_by_its_devices() -> None:
    """Its routes are static ones, as those of others are."""
    assert owner_of(4, 4, "10.0.0.0/8", HOPS, networkd={"eth9"}) is None
    assert owner_of(3, 3, "10.0.0.0/8", HOPS, networkd={"eth0"}) is None
    owner = owner_of(4, 4, "10.0.0.0/8", HOPS, networkd={"eth0"})
    assert owner
    assert owner.name == "systemd-networkd"
    assert "MultiPathRoute=10.0.0.1@eth0 3" in owner.advice
    owner = owner_of(4, 4, "10.0.0.0/8", HOPS, networkd={"eth0"}, group=5)
    assert owner
    assert "Id=5" in owner.advice


def test_the_devices_of_networkd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2").write_text("ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/a\n")
    (tmp_path / "3").write_text("ADMIN_STATE=unmanaged\n")
    monkeypatch.setattr(networkd, "_is_first_namespace", lambda: True)
    assert networkd.networkd_devices(LINKS, tmp_path) == {"eth0"}
    assert networkd.networkd_devices(LINKS, tmp_path / "none") == set()
    monkeypatch.setattr(networkd, "_is_first_namespace", lambda: False)
    assert networkd.networkd_devices(LINKS, tmp_path) == set()


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOL_NAMES) - {0, 2, 3, 4}))
def test_what_somebody_owns_is_left_alone(protocol: int) -> None:
    change = plan([TWO._replace(protocol=protocol)], LINKS, PREFIX, [])
    with pytest.raises(RouteNotWeighable, match=r"192\.0\.2\.0/24 belongs to") as refusal:
        change.check_owner()
    assert "--force" in refusal.value.hint


@pytest.mark.parametrize("text", ["", "x", "10.0.0.1.2", "%"])
def test_what_names_no_next_hop(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Selector.parse(text)
