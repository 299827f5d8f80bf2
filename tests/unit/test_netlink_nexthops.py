"""Nexthop messages built by hand come out as the right `NexthopGroup`s."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.errors import MalformedMessage
from xdpecmp.model.nexthoptable import Group, NexthopTable, Single
from xdpecmp.model.values import NextHop, NexthopGroup, Path, RouteKind
from xdpecmp.netlink.nexthops import (
    combine,
    parse_bucket,
    parse_nexthop,
    read_nexthops,
)
from xdpecmp.netlink.wire import attribute

V4, V6 = socket.AF_INET, socket.AF_INET6
ID, GROUP, GROUP_TYPE, BLACKHOLE, OIF, GATEWAY, ENCAP_TYPE, ENCAP = 1, 2, 3, 4, 5, 6, 7, 8
FDB, RES_GROUP, RES_BUCKET, OP_FLAGS = 11, 12, 13, 14
NESTED = 0x8000
GATEWAY1, GATEWAY2 = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
GATEWAY6 = socket.inet_pton(socket.AF_INET6, "fe80::1")
UNICAST, SPECIAL, UNSUPPORTED = RouteKind.UNICAST, RouteKind.SPECIAL, RouteKind.UNSUPPORTED


def u16(value: int) -> bytes:
    return struct.pack("=H", value)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def message(
    nhid: int, *attrs: tuple[int, bytes], family: int = socket.AF_UNSPEC, flags: int = 0
) -> bytes:
    """An RTM_NEWNEXTHOP message without netlink header."""
    header = struct.pack("=BBBBI", family, 0, 0, 0, flags)
    return header + b"".join(attribute(*a) for a in ((ID, u32(nhid)), *attrs))


def single(nhid: int, *attrs: tuple[int, bytes], family: int = V4, flags: int = 0) -> bytes:
    return message(nhid, *attrs, family=family, flags=flags)


def group(
    nhid: int,
    *members: tuple[int, int],
    buckets: int | None = None,
    idle: int = 12000,
    op_flags: int | None = 1 << 31,
    more: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    """Members as (id, the 16 bits of weight - 1); `idle` in hundredths of a second."""
    block = b"".join(struct.pack("=IHH", member, bits, 0) for member, bits in members)
    attrs = [(GROUP_TYPE, u16(buckets is not None)), (GROUP, block)]
    if buckets is not None:
        timers = attribute(2, u32(idle)) + attribute(3, u32(0))
        attrs.append((RES_GROUP | NESTED, attribute(1, u16(buckets)) + timers))
    if op_flags is not None:
        attrs.append((OP_FLAGS, u32(op_flags)))
    return message(nhid, *attrs, *more)


def bucket(nhid: int, index: int, member: int, shuffled: bool = False) -> bytes:
    """An RTM_NEWNEXTHOPBUCKET message without netlink header."""
    inner = [attribute(1, u16(index)), attribute(3, u32(member)), attribute(2, bytes(8))]
    if shuffled:
        inner.reverse()
    return message(nhid, (RES_BUCKET | NESTED, b"".join(inner)))


ONE = single(1, (OIF, u32(7)), (GATEWAY, GATEWAY1))
TWO = single(2, (OIF, u32(8)), (GATEWAY, GATEWAY2), flags=4)
SIX = single(6, (OIF, u32(7)), (GATEWAY, GATEWAY6), family=V6)
HOLE = single(9, (BLACKHOLE, b""))
TUNNEL = single(10, (OIF, u32(7)), (ENCAP, b""), (ENCAP_TYPE, u16(1)))
PATH1, PATH2 = Path(NextHop(GATEWAY1, 7)), Path(NextHop(GATEWAY2, 8), flags=4)
PATH6 = Path(NextHop(GATEWAY6, 7))


def groups(*messages: bytes, buckets: tuple[bytes, ...] = ()) -> NexthopTable:
    """What these messages come to, without a kernel."""
    return read_nexthops(Script([list(messages)], [list(buckets)]))  # type: ignore[arg-type]


@dataclass
class Script:
    """Stands in for `wire.Socket`: answers dumps in turn, the last answer again and again."""

    objects: list[list[bytes]]
    buckets: list[list[bytes]] = field(default_factory=list)
    asked: list[tuple[int, bytes]] = field(default_factory=list)

    def dump(self, kind: int, body: bytes, what: str, torn: bool = False) -> list[bytes]:
        self.asked.append((kind, body))
        answers = {106: self.objects, 118: self.buckets}[kind]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.mark.parametrize(
    ("parsed", "kind", "path"),
    [
        (ONE, UNICAST, PATH1),
        (TWO, UNICAST, PATH2),
        (SIX, UNICAST, PATH6),
        (single(1, (OIF, u32(7))), UNICAST, Path(NextHop(b"", 7))),
        (single(1, (OIF, u32(7)), family=V6), UNICAST, Path(NextHop(b"", 7))),
        (HOLE, SPECIAL, None),
        (single(9, (BLACKHOLE, b""), family=V6), SPECIAL, None),
        (TUNNEL, UNSUPPORTED, None),
        (single(1, (FDB, b""), (GATEWAY, GATEWAY1)), UNSUPPORTED, None),
        (single(1, (OIF, u32(7)), family=28), UNSUPPORTED, None),
        (single(1, (OIF, u32(7)), (99, b"")), UNSUPPORTED, None),
        (single(1, (GATEWAY, GATEWAY1)), UNSUPPORTED, None),
    ],
    ids=[
        "IPv4", "onlink", "IPv6", "device", "device IPv6", "blackhole", "blackhole IPv6",
        "encap", "fdb", "family", "unknown attribute", "no device",
    ],
)  # fmt: skip
def test_single(parsed: bytes, kind: RouteKind, path: Path | None) -> None:
    nhid, found = parse_nexthop(parsed)
    assert found == Single(kind, path)
    members = () if path is None else (path,)
    assert groups(parsed) == {nhid: NexthopGroup(nhid, kind, members, single=True)}


@pytest.mark.parametrize(
    ("bits", "op_flags", "weight"),
    [
        (0, 1 << 31, 1),
        (255, 1 << 31, 256),
        (256, 1 << 31, 257),
        (0xFFFE, 1 << 31, 65535),
        (0xFFFF, 1 << 31, 65536),
        (0xFE05, None, 6),  # before Linux 6.12 the high byte is reserved, and may hold anything
        (0xFE05, 0, 6),
        (0xFE05, (1 << 31) | 1, 0xFE06),
    ],
)
def test_weights(bits: int, op_flags: int | None, weight: int) -> None:
    found = groups(ONE, TWO, group(3, (2, bits), (1, 0), op_flags=op_flags))[3]
    members = (PATH2._replace(weight=weight), PATH1)
    assert found == NexthopGroup(3, UNICAST, members, idle_s=0.0)
    assert not found.single


def test_members_keep_the_groups_order_and_come_from_anywhere_in_the_dump() -> None:
    found = groups(group(1, (6, 4), (5, 0), (3, 9)), *(
        single(i, (OIF, u32(i)), (GATEWAY, GATEWAY1)) for i in (3, 5, 6)
    ))  # fmt: skip
    assert [(m.nexthop.ifindex, m.weight) for m in found[1].members] == [(6, 5), (5, 1), (3, 10)]


def test_one_group_may_hold_both_families() -> None:
    assert groups(ONE, SIX, group(3, (1, 0), (6, 1)))[3].members == (
        PATH1, PATH6._replace(weight=2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ((HOLE, group(3, (9, 0))), SPECIAL),
        ((HOLE, ONE, group(3, (9, 0), (1, 0))), UNSUPPORTED),
        ((TUNNEL, ONE, group(3, (1, 0), (10, 0))), UNSUPPORTED),
        ((TUNNEL, group(3, (10, 0))), UNSUPPORTED),
        ((ONE, group(3, (1, 0), (2, 0))), UNSUPPORTED),
        ((ONE, group(2, (1, 0)), group(3, (2, 0))), UNSUPPORTED),
        ((ONE, group(3, (1, 0), more=((FDB, b""),))), UNSUPPORTED),
        ((ONE, group(3, (1, 0), more=((99, b""),))), UNSUPPORTED),
        ((ONE, group(3, (1, 0), more=((GROUP_TYPE, u16(2)),))), UNSUPPORTED),
        ((ONE, group(3)), UNSUPPORTED),
        ((ONE, group(3, (1, 0), more=((15, b""), (16, u32(0)), (17, u32(0))))), UNICAST),
    ],
    ids=[
        "blackhole", "blackhole with another", "encap member", "encap only", "missing member",
        "nested", "fdb", "unknown attribute", "unknown type", "empty", "statistics",
    ],
)  # fmt: skip
def test_kinds_of_group(messages: tuple[bytes, ...], kind: RouteKind) -> None:
    assert groups(*messages)[3].kind is kind


RESILIENT = group(3, (2, 1), (1, 0), buckets=4)


def test_resilient_group() -> None:
    buckets = tuple(bucket(3, i, member) for i, member in enumerate((2, 1, 2, 2)))
    found = groups(ONE, TWO, RESILIENT, buckets=buckets[::-1])[3]
    members = (PATH2._replace(weight=2), PATH1)
    assert found == NexthopGroup(
        3, UNICAST, members, resilient=True, buckets=(0, 1, 0, 0), idle_s=120.0
    )


@pytest.mark.parametrize(
    ("idle", "seconds"), [(0, 0.0), (1, 0.01), (150, 1.5), (12000, 120.0), (2**32 - 1, 42949672.95)]
)
def test_idle_time_is_in_hundredths(idle: int, seconds: float) -> None:
    """USER_HZ is 100 on every architecture that has BPF."""
    buckets = tuple(bucket(3, i, 1) for i in range(4))
    messages = (ONE, TWO, group(3, (2, 1), (1, 0), buckets=4, idle=idle))
    assert groups(*messages, buckets=buckets)[3].idle_s == seconds


def test_resilient_blackhole() -> None:
    buckets = tuple(bucket(3, i, 9) for i in range(2))
    found = groups(HOLE, group(3, (9, 0), buckets=2), buckets=buckets)[3]
    assert (found.kind, found.members, found.buckets) == (SPECIAL, (), ())


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))
def test_bucket(nhid: int, index: int, member: int) -> None:
    for shuffled in (False, True):  # the fast way and the slow one
        assert parse_bucket(bucket(nhid, index, member, shuffled)) == (nhid, index, member)


def test_without_resilient_groups_buckets_are_not_asked_for() -> None:
    script = Script([[ONE, TWO, group(3, (1, 0), (2, 0))]])
    assert set(read_nexthops(script)) == {1, 2, 3}  # type: ignore[arg-type]
    assert script.asked == [(106, bytes(8))]
    assert read_nexthops(Script([[]])) == {}  # type: ignore[arg-type]


def test_one_dump_for_the_buckets_of_all_groups() -> None:
    script = Script(
        [[ONE, TWO, *(group(i, (1, 0), (2, 0), buckets=2) for i in (3, 4))]],
        [[bucket(3, 0, 1), bucket(3, 1, 2), bucket(4, 0, 2), bucket(4, 1, 1), bucket(5, 0, 1)]],
    )
    found = read_nexthops(script)  # type: ignore[arg-type]
    assert (found[3].buckets, found[4].buckets) == ((0, 1), (1, 0))
    assert script.asked == [(106, bytes(8)), (118, bytes(8))]


FULL = [bucket(3, i, 1) for i in range(4)]


@pytest.mark.parametrize(
    "torn",
    [FULL[:3], [], [*FULL[:3], bucket(3, 3, 7)], [bucket(4, i, 1) for i in range(4)]],
    ids=["one missing", "none", "of no member", "of another group"],
)
def test_buckets_that_do_not_fit_are_read_again(torn: list[bytes]) -> None:
    script = Script([[ONE, TWO, RESILIENT]], [torn, FULL])
    assert read_nexthops(script)[3].buckets == (1, 1, 1, 1)  # type: ignore[arg-type]
    assert [kind for kind, _ in script.asked] == [106, 118] * 2
    script = Script([[ONE, TWO, RESILIENT]], [torn])
    found = read_nexthops(script)  # type: ignore[arg-type]
    assert (found[3].kind, found[3].buckets) == (UNSUPPORTED, ())
    assert found[1].kind is UNICAST
    assert [kind for kind, _ in script.asked] == [106, 118] * 3


def test_what_is_unsupported_anyway_is_not_read_again() -> None:
    members = ((1, 0), (10, 0))
    script = Script([[ONE, TUNNEL, group(3, *members, buckets=4)]], [FULL])
    assert read_nexthops(script)[3].kind is UNSUPPORTED  # type: ignore[arg-type]
    assert len(script.asked) == 2


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        ONE[:7],
        ONE[:8],
        ONE[:-1],
        single(1, (OIF, bytes(3))),
        single(1, (OIF, u32(7)), (GATEWAY, GATEWAY6)),
        single(1, (OIF, u32(7)), (GATEWAY, GATEWAY1), family=V6),
        message(3, (GROUP, bytes(7))),
        message(3, (GROUP, bytes(8)), (GROUP_TYPE, bytes(3))),
        message(3, (GROUP, bytes(8)), (RES_GROUP, attribute(1, bytes(3)))),
    ],
)
def test_malformed(damaged: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_nexthop(damaged)


@pytest.mark.parametrize(
    "damaged", [b"", bytes(8), message(3), bucket(3, 1, 2, shuffled=True)[:-1]]
)
def test_malformed_bucket(damaged: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_bucket(damaged)


@given(st.sampled_from([ONE, RESILIENT, FULL[0], bucket(1, 2, 3, True), b""]), st.data())
def test_damaged_messages(whole: bytes, data: st.DataObject) -> None:
    """Cut short, or with bytes changed: something of the right type, or MalformedMessage."""
    damaged = bytearray(whole + data.draw(st.binary(max_size=20)))
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(MalformedMessage):
        nhid, parsed = parse_nexthop(cut)
        assert isinstance(parsed, Single | Group)
        (combined,) = combine({nhid: parsed}, {}).values()
        assert combined.kind is not UNICAST or combined.members
    with contextlib.suppress(MalformedMessage):
        assert len(parse_bucket(cut)) == 3
