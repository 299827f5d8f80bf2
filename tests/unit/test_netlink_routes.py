"""Route messages built by hand come out as the right `Route`, by the fast path as by the slow."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.route_messages import (
    CACHEINFO,
    DST,
    ENCAP,
    ENCAP_TYPE,
    GATEWAY,
    GATEWAY1,
    GATEWAY2,
    GATEWAY6,
    METRICS,
    MULTIPATH,
    NH_ID,
    OIF,
    PRIORITY,
    SRC,
    TABLE,
    TEN,
    TO_TEN,
    V4,
    V6,
    VIA,
    VIA_ONE,
    datagram,
    hop,
    parsed,
    route,
    u16,
    u32,
)
from xdpecmp.errors import DumpInterrupted, MalformedMessage
from xdpecmp.model.packed import prefixes_in
from xdpecmp.model.values import NextHop, Path, Prefix, Route, RouteKind
from xdpecmp.netlink.routedump import RouteReader
from xdpecmp.netlink.routes import RouteMemo, parse_route
from xdpecmp.netlink.wire import NLM_F_DUMP_INTR, attribute


def test_single_path() -> None:
    assert parsed(*TO_TEN, (PRIORITY, u32(20)), *VIA_ONE, tos=8, scope=253, protocol=186) == Route(
        prefix=Prefix(TEN, 8),
        table=254,
        metric=20,
        kind=RouteKind.UNICAST,
        paths=(Path(NextHop(GATEWAY1, 7)),),
        protocol=186,
        scope=253,
        tos=8,
    )


def test_what_more_than_the_destination_chooses() -> None:
    assert not parsed(*TO_TEN, *VIA_ONE).selective
    assert parsed(*TO_TEN, *VIA_ONE, tos=8).selective
    assert parsed(*TO_TEN, *VIA_ONE, src_len=8).selective


def test_no_destination_is_the_default_route_and_no_priority_metric_0() -> None:
    result = parsed(*VIA_ONE, dst_len=0)
    assert result.prefix == Prefix(bytes(4), 0)
    assert result.metric == 0


def test_paths_keep_order_weights_and_flags() -> None:
    block = hop(7, (GATEWAY, GATEWAY2), hops=4) + hop(8, (GATEWAY, GATEWAY1), flags=0x11)
    assert parsed(*TO_TEN, (MULTIPATH, block)).paths == (
        Path(NextHop(GATEWAY2, 7), 5, 0),
        Path(NextHop(GATEWAY1, 8), 1, 0x11),
    )


def test_flags_of_a_single_path_are_the_low_byte_of_the_routes() -> None:
    (path,) = parsed(*TO_TEN, *VIA_ONE, flags=0x4000 | 0x14).paths
    assert path.flags == 0x14
    assert path.linkdown


def test_ipv4_over_an_ipv6_gateway() -> None:
    via = (VIA, u16(V6) + GATEWAY6)
    block = hop(7, via) + hop(8)
    assert parsed(*TO_TEN, via, (OIF, u32(7))).paths == (Path(NextHop(GATEWAY6, 7)),)
    result = parsed(*TO_TEN, (MULTIPATH, block))
    assert [p.nexthop for p in result.paths] == [NextHop(GATEWAY6, 7), NextHop(b"", 8)]
    assert result.kind is RouteKind.UNICAST


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (1, RouteKind.UNICAST),
        (2, RouteKind.LOCAL),
        (3, RouteKind.SPECIAL),
        (4, RouteKind.LOCAL),
        (5, RouteKind.SPECIAL),
        (6, RouteKind.SPECIAL),
        (7, RouteKind.SPECIAL),
        (8, RouteKind.SPECIAL),
        (9, RouteKind.UNSUPPORTED),  # throw
        (10, RouteKind.UNSUPPORTED),  # nat
        (11, RouteKind.UNSUPPORTED),  # xresolve
        (200, RouteKind.UNSUPPORTED),
    ],
)
def test_kinds(number: int, kind: RouteKind) -> None:
    assert parsed(*TO_TEN, *VIA_ONE, type=number).kind is kind


@pytest.mark.parametrize(
    "attr",
    [
        (ENCAP_TYPE, u16(1)),
        (ENCAP, b""),
        (SRC, bytes(4)),
        (METRICS, attribute(2, u32(1400))),
        (METRICS, attribute(1, u32(1 << 8))),
    ],
    ids=["encap type", "encap", "source", "mtu", "lock"],
)
def test_what_the_data_path_does_not_do(attr: tuple[int, bytes]) -> None:
    result = parsed(*TO_TEN, *VIA_ONE, attr)
    assert result.kind is RouteKind.UNSUPPORTED
    assert result.paths  # still shown


@pytest.mark.parametrize(
    "shown",
    [
        (),
        VIA_ONE,
        ((MULTIPATH, hop(7, (GATEWAY, GATEWAY1), hops=255) + hop(8, (GATEWAY, GATEWAY2))),),
    ],
    ids=["compat mode off", "single", "group"],
)
def test_a_nexthop_object_holds_the_paths(shown: tuple[tuple[int, bytes], ...]) -> None:
    """RTA_MULTIPATH shows its weights cut to a byte: not to be used even where it is there."""
    result = parsed(*TO_TEN, (NH_ID, u32(0xFFFFFFFE)), *shown, protocol=186)
    assert result == Route(Prefix(TEN, 8), 254, 0, RouteKind.UNICAST, protocol=186, nhid=0xFFFFFFFE)


@pytest.mark.parametrize(
    ("kind", "attrs", "meaning"),
    [
        (6, (), RouteKind.SPECIAL),
        (1, ((METRICS, attribute(2, u32(1400))),), RouteKind.UNSUPPORTED),
        (1, ((ENCAP_TYPE, u16(1)), (ENCAP, b"")), RouteKind.UNSUPPORTED),
        (9, (), RouteKind.UNSUPPORTED),
    ],
    ids=["blackhole", "mtu", "encap", "throw"],
)
def test_a_nexthop_object_allows_nothing_more(
    kind: int, attrs: tuple[tuple[int, bytes], ...], meaning: RouteKind
) -> None:
    result = parsed(*TO_TEN, (NH_ID, u32(5)), *attrs, type=kind)
    assert (result.kind, result.nhid, result.paths) == (meaning, 5, ())


def test_unsupported_for_other_reasons() -> None:
    block = hop(7, (GATEWAY, GATEWAY1)) + hop(8, (ENCAP_TYPE, u16(1)), (ENCAP, b""))
    assert parsed(*TO_TEN, (MULTIPATH, block)).kind is RouteKind.UNSUPPORTED
    assert parsed(*TO_TEN, (VIA, u16(28) + b"\0\0\0"), (OIF, u32(7))).kind is RouteKind.UNSUPPORTED
    assert parsed(*TO_TEN).kind is RouteKind.UNSUPPORTED  # unicast to nowhere


def test_harmless_metrics() -> None:
    metrics = attribute(8, u32(1400)) + attribute(11, u32(10))  # advmss, initcwnd
    assert parsed(*TO_TEN, *VIA_ONE, (METRICS, metrics)).kind is RouteKind.UNICAST


def test_a_blackhole_has_no_path() -> None:
    assert parsed(*TO_TEN, type=6).paths == ()


@pytest.mark.parametrize("table", [254, 255, 253])
def test_tables_that_count(table: int) -> None:
    assert parsed((TABLE, u32(table)), (DST, TEN), *VIA_ONE, table=0).table == table


@pytest.mark.parametrize(
    "message",
    [
        route(*TO_TEN, *VIA_ONE, flags=0x200),
        route((TABLE, u32(100)), (DST, TEN), *VIA_ONE),
        route((TABLE, u32(1000)), (DST, TEN), *VIA_ONE, table=252),
    ],
    ids=["cloned", "table 100", "table 1000"],
)
def test_left_out(message: bytes) -> None:
    assert parse_route(message) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        route()[:-1],
        route(family=28),
        route((DST, bytes(16))),
        route((GATEWAY, bytes(5)), (OIF, u32(1))),
        route((OIF, bytes(3))),
        route(*TO_TEN)[:-1],
        route((MULTIPATH, struct.pack("=HBBi", 7, 0, 0, 1))),
        route((MULTIPATH, struct.pack("=HBBi", 12, 0, 0, 1))),
        route() + struct.pack("=HH", 3, 1),
    ],
)
def test_malformed(message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_route(message)


# The fast path

DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)

attr_values = st.one_of(st.binary(max_size=20), st.integers(0, 300).map(u32))
# All but RTA_DST, which comes once at most: of two, each path would take another one.
attrs = st.lists(st.tuples(st.sampled_from([*range(2, 31)]), attr_values), max_size=5)
bodies = st.builds(
    lambda default, lead, more, fields: route(*(TO_TEN[:1] if default else lead), *more, **fields),
    st.booleans(),
    st.binary(min_size=4, max_size=4).map(lambda a: (TO_TEN[0], (DST, a))),
    attrs,
    st.fixed_dictionaries(
        {},
        optional={
            "dst_len": st.integers(0, 32),
            "type": st.integers(0, 11),
            "flags": st.sampled_from([0, 4, 0x200]),
            "tos": st.integers(0, 255),
        },
    ),
)


def slow(messages: list[bytes]) -> list[Route] | None:
    try:
        found = [parse_route(m) for m in messages]
    except MalformedMessage:
        return None
    return [r for r in found if r is not None]


class Reader(RouteReader):
    """One that can say what it read."""

    def __init__(self, family: int) -> None:
        self.known: dict[Route, int] = {}
        super().__init__(family, self.known)

    @property
    def routes(self) -> list[Route]:
        keys, numbers = self.result()
        known = list(self.known)
        return [
            known[number]._replace(prefix=prefix)
            for prefix, number in zip(prefixes_in(keys), numbers, strict=True)
        ]


@given(st.lists(bodies, max_size=6), st.sampled_from([1, 2, 40]))
def test_the_fast_path_tells_what_the_slow_one_does(messages: list[bytes], times: int) -> None:
    """Forty times the same is enough for it to look at many together."""
    messages = [message for message in messages for _ in range(times)]
    expected = slow(messages)
    reader = Reader(V4)
    data = datagram(*messages)
    if expected is None:
        with pytest.raises(MalformedMessage):
            reader.take(data + DONE)
    else:
        assert reader.take(data + DONE) == len(data)
        assert reader.routes == expected


@given(st.lists(bodies, max_size=6))
def test_single_messages_are_parsed_from_memory(messages: list[bytes]) -> None:
    memo = RouteMemo(V4)
    for message in messages * 2:
        expected = slow([message])
        if expected is None:
            with pytest.raises(MalformedMessage):
                memo.parse(datagram(message))
        else:
            assert memo.parse(datagram(message)) == (expected[0] if expected else None)


def test_it_is_fast_for_what_kernels_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """RTA_TABLE, RTA_DST, the rest: one message is parsed, the others are looked up."""
    calls: list[bytes] = []

    def counted(message: bytes) -> Route | None:
        calls.append(message)
        return parse_route(message)

    monkeypatch.setattr("xdpecmp.netlink.routedump.parse_route", counted)
    for family, size in ((V4, 4), (V6, 16)):
        calls.clear()
        reader = Reader(family)
        messages = [
            route(
                (TABLE, u32(254)), (DST, bytes([i]) * size), (OIF, u32(3)),
                family=family, dst_len=8 + i % 8,
            )
            for i in range(1, 100)
        ]  # fmt: skip
        assert reader.take(datagram(*messages)) == len(datagram(*messages))
        assert [r.prefix.address[0] for r in reader.routes] == list(range(1, 100))
        assert [r.prefix.length for r in reader.routes] == [8 + i % 8 for i in range(1, 100)]
        assert len(calls) == 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_interrupted_dump_is_noticed_anywhere(place: int) -> None:
    pieces = [datagram(route(*TO_TEN, *VIA_ONE)) for _ in range(3)]
    pieces[place] = datagram(route(*TO_TEN, *VIA_ONE), flags=2 | NLM_F_DUMP_INTR)
    with pytest.raises(DumpInterrupted):
        Reader(V4).take(b"".join(pieces))


@given(st.binary(max_size=200), st.sampled_from([V4, V6]))
def test_arbitrary_bytes(data: bytes, family: int) -> None:
    with contextlib.suppress(MalformedMessage, DumpInterrupted):
        Reader(family).take(data)


@given(bodies, st.data())
def test_damaged_messages(body: bytes, data: st.DataObject) -> None:
    """Cut short, or with a byte changed: a route, or MalformedMessage, never another error."""
    whole = bytearray(datagram(body, body))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage, DumpInterrupted):
        Reader(V4).take(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(("ticks", "kind"), [
    (0, RouteKind.UNICAST), (1, RouteKind.UNSUPPORTED), (-100, RouteKind.UNSUPPORTED),
])  # fmt: skip
def test_routes_that_end_are_left_to_linux(ticks: int, kind: RouteKind) -> None:
    cache = struct.pack("=IIiIIIII", 0, 0, ticks, 0, 0, 0, 0, 0)
    assert parsed(*TO_TEN, *VIA_ONE, (CACHEINFO, cache)).kind is kind


# Weights
