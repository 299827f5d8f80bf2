"""Nexthop objects: the next hops and groups that routes refer to by an id (RTA_NH_ID).

They are read apart rather than from the routes that use them, because those show weights
cut to a byte and no buckets. One dump gives all objects; another one, made only if there is a
resilient group, gives the buckets of all of these.

Source: nh_fill_node() and nh_fill_res_bucket() in net/ipv4/nexthop.c, include/uapi/linux/nexthop.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from errno import EINVAL, ENOENT

from ..errors import KernelRefused, MalformedMessage
from ..model.nexthoptable import Buckets, Group, NexthopTable, Single
from ..model.values import NextHop, NexthopGroup, Path, RouteKind
from . import wire
from .rtnetlink import ADDRESS_SIZE, RTM_GETNEXTHOP, RTM_GETNEXTHOPBUCKET

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
NHA_HW_STATS_ENABLE = 16
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
    _NHA_RES_BUCKET | wire.NLA_F_NESTED,
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
    | {NHA_HW_STATS_ENABLE, _NHA_HW_STATS_USED}
)
"""Attributes that we understand. Any other may change where packets go: NHA_FDB, NHA_ENCAP …"""

_ATTEMPTS = 3


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
    size = ADDRESS_SIZE.get(family)
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


def combine(objects: Mapping[int, Single | Group], buckets: Buckets) -> dict[int, NexthopGroup]:
    """Put members into their groups, and buckets: see `NexthopTable`."""
    return dict(NexthopTable(objects, buckets))


def read_nexthops(connection: wire.Socket) -> NexthopTable:
    """All nexthop objects by id.

    A dump goes on by id, so an object that is there all the time is told once, whatever comes and
    goes meanwhile (NLM_F_DUMP_INTR): what does is left to its events. Objects and buckets come from
    two dumps. If they do not fit each other both are made again; what does not fit the third
    time is UNSUPPORTED, and Linux handles its packets.
    """
    objects: dict[int, Single | Group] = {}
    buckets: Buckets = {}
    for _ in range(_ATTEMPTS):
        objects = _read_objects(connection)
        if not any(isinstance(found, Group) and found.resilient for found in objects.values()):
            break
        buckets = _read_buckets(connection, 0)
        if NexthopTable(objects).fits(buckets):
            break
    return NexthopTable(objects, buckets)


def read_buckets(connection: wire.Socket, group: int) -> Mapping[int, int]:
    """The member in each bucket of one resilient group; {} if there is no such group."""
    try:
        return _read_buckets(connection, group).get(group, {})
    except KernelRefused as error:
        if error.errno in (ENOENT, EINVAL):
            return {}
        raise


def _read_objects(connection: wire.Socket) -> dict[int, Single | Group]:
    request = NEXTHOP_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0)
    messages = connection.dump(RTM_GETNEXTHOP, request, "nexthop objects", torn=True)
    objects: dict[int, Single | Group] = {}
    for message in messages:
        with suppress(MalformedMessage):  # not even its id: what refers to it finds nothing there
            nhid, meaning = parse_or_doubt(message)
            objects[nhid] = meaning
    return objects


def _read_buckets(connection: wire.Socket, group: int) -> Buckets:
    """Of one group, or (0) of all."""
    request = NEXTHOP_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0)
    if group:
        request += wire.attribute(NHA_ID, struct.pack("=I", group))
    buckets: dict[int, dict[int, int]] = {}
    for message in connection.dump(RTM_GETNEXTHOPBUCKET, request, "nexthop buckets", torn=True):
        with suppress(MalformedMessage):  # its group does not fit then, and passes
            nhid, index, member = parse_bucket(message)
            buckets.setdefault(nhid, {})[index] = member
    return buckets


def parse_or_doubt(message: bytes) -> tuple[int, Single | Group]:
    """As `parse_nexthop`; an object that makes no sense is UNSUPPORTED. Raises MalformedMessage
    if not even its id can be told."""
    try:
        return parse_nexthop(message)
    except MalformedMessage:
        found = wire.attribute_map(message, NEXTHOP_HEADER.size, len(message))
        nhid = wire.number(found.get(NHA_ID, b""))
        return nhid, Single(RouteKind.UNSUPPORTED, None)
