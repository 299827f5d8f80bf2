"""Nexthop objects: the next hops and groups that routes refer to by an id (RTA_NH_ID).

They are read by themselves rather than from the routes that use them, because those show weights
cut to a byte and no buckets. One dump gives all objects; another one, made only where there is a
resilient group, gives the buckets of all of these.

Source: nh_fill_node() and nh_fill_res_bucket() in net/ipv4/nexthop.c, include/uapi/linux/nexthop.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import MalformedMessage
from ..model import NextHop, NexthopGroup, Path, RouteKind
from . import wire

RTM_GETNEXTHOP = 106
RTM_GETNEXTHOPBUCKET = 118

NEXTHOP_HEADER = struct.Struct("=BBBxI")
"""nhmsg: family, scope, protocol, flags (RTNH_F_*)."""
GROUP_ENTRY = struct.Struct("=IBBxx")
"""nexthop_grp: id of the member, low and (since Linux 6.12) high byte of its weight - 1."""

NHA_ID = 1
NHA_GROUP = 2
NHA_GROUP_TYPE = 3
NHA_BLACKHOLE = 4
NHA_OIF = 5
NHA_GATEWAY = 6
_NHA_RES_GROUP = 12
_NHA_RES_BUCKET = 13
NHA_OP_FLAGS = 14
_NHA_GROUP_STATS = 15
_NHA_HW_STATS_ENABLE = 16
_NHA_HW_STATS_USED = 17
_NHA_RES_GROUP_BUCKETS = 1
_NHA_RES_GROUP_IDLE_TIMER = 2
_NHA_RES_GROUP_UNBALANCED_TIMER = 3
"""In USER_HZ, whatever the kernel's own HZ."""
_NHA_RES_BUCKET_INDEX = 1
_NHA_RES_BUCKET_NH_ID = 3

_BUCKET = struct.Struct("=8x4sI2xH4sHxx4sI")
_BUCKET_HEADERS = (
    wire.attribute(NHA_ID, bytes(4))[:4],
    _NHA_RES_BUCKET | 0x8000,  # NLA_F_NESTED
    wire.attribute(_NHA_RES_BUCKET_INDEX, bytes(2))[:4],
    wire.attribute(_NHA_RES_BUCKET_NH_ID, bytes(4))[:4],
)
"""A bucket as kernels send it: the id of its group, then, nested, its index and its member. There
may be tens of thousands; in another order they are read the slow way."""

_GROUP_TYPE_MPATH = 0
_GROUP_TYPE_RES = 1
RESERVED_ARE_ZERO = 1 << 31
"""NHA_OP_FLAG_RESP_GRP_RESVD_0. Kernels that do not set it have no 16-bit weights, and may leave
anything in the high byte."""

_OF_A_SINGLE = frozenset({NHA_ID, NHA_OIF, NHA_GATEWAY})
_OF_A_GROUP = frozenset(
    {NHA_ID, NHA_GROUP, NHA_GROUP_TYPE, _NHA_RES_GROUP, NHA_OP_FLAGS, _NHA_GROUP_STATS}
    | {_NHA_HW_STATS_ENABLE, _NHA_HW_STATS_USED}
)
"""Attributes that we understand. Any other may change where packets go: NHA_FDB, NHA_ENCAP …"""

_ADDRESS_SIZE: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}
_ATTEMPTS = 3


class Single(NamedTuple):
    """What one message says of a next hop; `path` is None unless it is UNICAST."""

    kind: RouteKind
    path: Path | None


class Group(NamedTuple):
    """What one message says of a group: its members by id and weight."""

    kind: RouteKind
    members: tuple[tuple[int, int], ...]
    resilient: bool
    bucket_count: int
    idle_s: float = 0.0
    unbalanced_s: float = 0.0


_Buckets = Mapping[int, Mapping[int, int]]
"""By id of the group, by index of the bucket: id of the member that it holds."""


def parse_nexthop(message: bytes) -> tuple[int, Single | Group]:
    """One RTM_NEWNEXTHOP message, without its netlink header: id and meaning of the object.

    Raises MalformedMessage.
    """
    if len(message) < NEXTHOP_HEADER.size:
        raise MalformedMessage(f"nexthop message of {len(message)} bytes")
    family, _, _, flags = NEXTHOP_HEADER.unpack_from(message)
    found = wire.attribute_map(message, NEXTHOP_HEADER.size, len(message))
    if NHA_ID not in found:
        raise MalformedMessage("nexthop message without an id")
    parsed = _group(found) if NHA_GROUP in found else _single(found, family, flags)
    return wire.number(found[NHA_ID]), parsed


def _single(found: Mapping[int, bytes], family: int, flags: int) -> Single:
    if NHA_BLACKHOLE in found:
        return Single(RouteKind.SPECIAL, None)
    size = _ADDRESS_SIZE.get(family)
    if found.keys() - _OF_A_SINGLE or size is None or NHA_OIF not in found:
        return Single(RouteKind.UNSUPPORTED, None)
    via = found.get(NHA_GATEWAY, b"")
    if via and len(via) != size:
        raise MalformedMessage(f"nexthop of family {family} with an address of {len(via)} bytes")
    # The flags are those of its creation, OFFLOAD and TRAP apart.
    path = Path(NextHop(via, wire.number(found[NHA_OIF])), 1, flags & 0xFF)
    return Single(RouteKind.UNICAST, path)


def _group(found: Mapping[int, bytes]) -> Group:
    entries = found[NHA_GROUP]
    if len(entries) % GROUP_ENTRY.size:
        raise MalformedMessage(f"nexthop group of {len(entries)} bytes")
    op_flags = wire.number(found.get(NHA_OP_FLAGS, bytes(4)))
    high_counts = bool(op_flags & RESERVED_ARE_ZERO)
    members = tuple(
        (member, (low | (high << 8 if high_counts else 0)) + 1)
        for member, low, high in GROUP_ENTRY.iter_unpack(entries)
    )
    kind = wire.number(found.get(NHA_GROUP_TYPE, bytes(2)))
    known = kind in (_GROUP_TYPE_MPATH, _GROUP_TYPE_RES) and not found.keys() - _OF_A_GROUP
    block = found.get(_NHA_RES_GROUP, b"")
    resilience = wire.attribute_map(block, 0, len(block))
    return Group(
        kind=RouteKind.UNICAST if known and members else RouteKind.UNSUPPORTED,
        members=members,
        resilient=kind == _GROUP_TYPE_RES,
        bucket_count=wire.number(resilience.get(_NHA_RES_GROUP_BUCKETS, bytes(2))),
        idle_s=_seconds(resilience, _NHA_RES_GROUP_IDLE_TIMER),
        unbalanced_s=_seconds(resilience, _NHA_RES_GROUP_UNBALANCED_TIMER),
    )


def _seconds(attributes: Mapping[int, bytes], kind: int) -> float:
    """A timer, which is in clock_t."""
    return wire.number(attributes.get(kind, bytes(4))) / os.sysconf("SC_CLK_TCK")


def parse_bucket(message: bytes) -> tuple[int, int, int]:
    """One RTM_NEWNEXTHOPBUCKET message, without its netlink header: ids of group and member with
    the index of the bucket between them. Raises MalformedMessage."""
    if len(message) >= _BUCKET.size:
        a, group, b, c, index, d, member = _BUCKET.unpack_from(message)
        if (a, b, c, d) == _BUCKET_HEADERS:
            return group, index, member
    found = wire.attribute_map(message, NEXTHOP_HEADER.size, len(message))
    block = found.get(_NHA_RES_BUCKET, b"")
    inner = wire.attribute_map(block, 0, len(block))
    try:
        values = found[NHA_ID], inner[_NHA_RES_BUCKET_INDEX], inner[_NHA_RES_BUCKET_NH_ID]
    except KeyError as missing:
        raise MalformedMessage(f"nexthop bucket without attribute {missing}") from None
    group, index, member = map(wire.number, values)
    return group, index, member


def combine(objects: Mapping[int, Single | Group], buckets: _Buckets) -> dict[int, NexthopGroup]:
    """Put members into their groups, and buckets.

    A group of which something is missing (or that makes no sense otherwise) becomes UNSUPPORTED:
    it changed while it was read.
    """
    return {
        nhid: _combine_group(nhid, parsed, objects, buckets.get(nhid, {}))
        if isinstance(parsed, Group)
        else NexthopGroup(nhid, parsed.kind, (parsed.path,) if parsed.path else (), single=True)
        for nhid, parsed in objects.items()
    }


def _combine_group(
    nhid: int, group: Group, objects: Mapping[int, Single | Group], held: Mapping[int, int]
) -> NexthopGroup:
    kinds, paths = set(), []
    for member, weight in group.members:
        single = objects.get(member)
        # Groups do not nest.
        kinds.add(single.kind if isinstance(single, Single) else RouteKind.UNSUPPORTED)
        if isinstance(single, Single) and single.path is not None:
            paths.append(single.path._replace(weight=weight))
    kind = group.kind
    if kind is RouteKind.UNICAST:
        # A blackhole can only be in a group by itself (valid_group_nh).
        kind = kinds.pop() if len(kinds) == 1 else RouteKind.UNSUPPORTED
    buckets: tuple[int, ...] = ()
    if group.resilient and kind is RouteKind.UNICAST:
        buckets = _buckets(group, held)
        if not buckets:
            kind = RouteKind.UNSUPPORTED
    return NexthopGroup(
        nhid,
        kind,
        tuple(paths),
        single=False,
        resilient=group.resilient,
        buckets=buckets,
        idle_s=group.idle_s,
        unbalanced_s=group.unbalanced_s,
    )


def _buckets(group: Group, held: Mapping[int, int]) -> tuple[int, ...]:
    """The place of the member that each bucket holds; () if it does not fit the group."""
    places = {member: place for place, (member, _) in enumerate(group.members)}
    try:
        return tuple(places[held[index]] for index in range(group.bucket_count))
    except KeyError:
        return ()


def read_nexthops(connection: wire.Socket) -> dict[int, NexthopGroup]:
    """All nexthop objects by id.

    Objects and buckets come from two dumps. Where they do not fit each other both are made again;
    what does not fit the third time is UNSUPPORTED, and Linux handles its packets.
    """
    objects: dict[int, Single | Group] = {}
    buckets: _Buckets = {}
    for _ in range(_ATTEMPTS):
        objects = _read_objects(connection)
        resilient = {n: o for n, o in objects.items() if isinstance(o, Group) and o.resilient}
        if not resilient:
            break
        buckets = _read_buckets(connection)
        if all(_buckets(group, buckets.get(n, {})) for n, group in resilient.items()):
            break
    return combine(objects, buckets)


def _read_objects(connection: wire.Socket) -> dict[int, Single | Group]:
    request = NEXTHOP_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0)
    return dict(map(parse_nexthop, connection.dump(RTM_GETNEXTHOP, request, "nexthop objects")))


def _read_buckets(connection: wire.Socket) -> _Buckets:
    request = NEXTHOP_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0)
    buckets: dict[int, dict[int, int]] = {}
    for message in connection.dump(RTM_GETNEXTHOPBUCKET, request, "nexthop buckets"):
        group, index, member = parse_bucket(message)
        buckets.setdefault(group, {})[index] = member
    return buckets
