"""weights: which path is meant, what would move, what is refused."""

from __future__ import annotations

import ipaddress

import pytest

from xdpecmp.errors import RouteNotFound, RouteNotWeighable
from xdpecmp.model import Link, NextHop, Path, Prefix, Route, RouteKind
from xdpecmp.weights import Selector, check_owner, plan

LINKS = {
    index: Link(index, name, bytes(6), 1500, True) for index, name in ((2, "eth0"), (3, "eth1"))
}
PREFIX = Prefix.parse("192.0.2.0/24")


def hop(via: str, ifindex: int = 2) -> NextHop:
    return NextHop(ipaddress.ip_address(via).packed if via else b"", ifindex)


def route(*paths: Path, kind: RouteKind = RouteKind.UNICAST, metric: int = 0) -> Route:
    return Route(PREFIX, 254, metric, kind, paths)


TWO = route(Path(hop("10.0.0.1"), 1), Path(hop("10.0.0.2"), 2))
LINK_LOCAL = route(Path(hop("fe80::1", 2)), Path(hop("fe80::1", 3)), Path(hop("", 3)))


def planned(chosen: Route, **wanted: int) -> tuple[int, ...]:
    selectors = {Selector.parse(text): weight for text, weight in wanted.items()}
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
        plan([TWO], LINKS, Prefix.parse("198.51.100.0/24"), {})


def test_the_route_in_force_is_the_one_with_the_lowest_metric() -> None:
    other = route(Path(hop("10.0.0.1"), 7), Path(hop("10.0.0.2"), 7), metric=5)
    assert plan([other, TWO], LINKS, PREFIX, {}).route is TWO


def test_the_share_that_moves_is_exact() -> None:
    """1:2 → 2:1 moves the third between the two bounds, to within one part in 2^31."""
    change = plan([TWO], LINKS, PREFIX, {Selector.parse("10.0.0.1"): 4})
    assert change.moved * 2**31 == 1431655764 - 715827882
    row = change.as_json()
    assert row["moved_share"] == pytest.approx(1 / 3)
    assert [n["new_share"] for n in row["nexthops"]] == pytest.approx([2 / 3, 1 / 3])
    assert [n["old_weight"] for n in row["nexthops"]] == [1, 2]


@pytest.mark.parametrize(("protocol", "owned"), [(2, False), (3, False), (4, False), (186, True),
                                                 (11, True), (12, True), (77, True)])  # fmt: skip
def test_a_daemons_route_is_left_alone(protocol: int, owned: bool) -> None:
    chosen = TWO._replace(protocol=protocol)
    if owned:
        with pytest.raises(RouteNotWeighable, match="routing daemon"):
            check_owner(chosen)
    else:
        check_owner(chosen)


@pytest.mark.parametrize("text", ["", "x", "10.0.0.1.2", "%"])
def test_what_names_no_next_hop(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Selector.parse(text)
