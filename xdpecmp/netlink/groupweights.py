"""Setting the weights of a group of nexthop objects, and nothing else about it; who uses it.

The group is replaced under its id (`ip nexthop replace`): members in their order, type and protocol
stay, and so do a resilient group's buckets and timers, which the kernel keeps if a request does
not name them.

Source: rtm_to_nh_config(), replace_nexthop_grp() in net/ipv4/nexthop.c.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import KernelRefused, RouteNotFound
from ..model.values import Prefix
from . import wire
from .nexthops import (
    GROUP_ENTRY,
    NEXTHOP_HEADER,
    NHA_GROUP,
    NHA_GROUP_TYPE,
    NHA_HW_STATS_ENABLE,
    NHA_ID,
    NHA_OP_FLAGS,
    RESERVED_ARE_ZERO,
)
from .routes import ROUTE_HEADER, RTA_DST, RTA_NH_ID, RTM_F_CLONED, dump_request
from .rtnetlink import ADDRESS_SIZE, RTM_GETNEXTHOP, RTM_GETROUTE, RTM_NEWNEXTHOP

_MOST = 65_535
_MOST_OF_A_BYTE = 255
"""Before Linux 6.12: nh_check_attr_group() refuses a byte (weight - 1) above 254."""


class GroupMembers(NamedTuple):
    """What a group says of itself."""

    protocol: int
    """RTPROT_*: who made it."""
    members: tuple[tuple[int, int], ...]
    """Ids and weights, in the kernel's order."""
    max_weight: int


class Users(NamedTuple):
    """The routes that lead to a group, in all tables."""

    routes: int
    first: tuple[Prefix, ...]
    """A few of them."""


def read_group(connection: wire.Socket, nhid: int) -> GroupMembers:
    """Raises RouteNotFound if there is no such group (any more)."""
    message = _ask(connection, nhid)
    found = wire.attribute_map(message, NEXTHOP_HEADER.size, len(message))
    if NHA_GROUP not in found:
        raise _gone(nhid)
    wide = _has_wide_weights(found)
    members = tuple(
        (member, (low | (high << 8 if wide else 0)) + 1)
        for member, low, high in GROUP_ENTRY.iter_unpack(found[NHA_GROUP])
    )
    protocol = NEXTHOP_HEADER.unpack_from(message)[2]
    return GroupMembers(protocol, members, _MOST if wide else _MOST_OF_A_BYTE)


def set_group_weights(
    connection: wire.Socket, nhid: int, members: Sequence[int], weights: Sequence[int]
) -> None:
    """Give the members of a group, which are these ids in this order, these weights. Raises
    RouteNotFound if the group is another by now, NotPermitted, KernelRefused."""
    message = _ask(connection, nhid)
    request = with_group_weights(message, members, weights)
    if request is None:
        raise _gone(nhid)
    connection.tell(RTM_NEWNEXTHOP, wire.NLM_F_REPLACE, request, f"nexthop group {nhid}")


def with_group_weights(
    message: bytes, members: Sequence[int], weights: Sequence[int]
) -> bytes | None:
    """A group's message (without netlink header) as a request for other weights; None if it is
    no group, or has other members."""
    found = wire.attribute_map(message, NEXTHOP_HEADER.size, len(message))
    held = [member for member, _, _ in GROUP_ENTRY.iter_unpack(found.get(NHA_GROUP, b""))]
    if not held or held != list(members):
        return None
    protocol = NEXTHOP_HEADER.unpack_from(message)[2]
    block = b"".join(
        GROUP_ENTRY.pack(member, (weight - 1) & 0xFF, (weight - 1) >> 8)
        for member, weight in zip(members, weights, strict=True)
    )
    request = NEXTHOP_HEADER.pack(socket.AF_UNSPEC, 0, protocol, 0)
    request += wire.attribute(NHA_ID, found[NHA_ID]) + wire.attribute(NHA_GROUP, block)
    if NHA_GROUP_TYPE in found:
        request += wire.attribute(NHA_GROUP_TYPE, found[NHA_GROUP_TYPE])
    if any(found.get(NHA_HW_STATS_ENABLE, b"")):
        request += wire.attribute(NHA_HW_STATS_ENABLE, found[NHA_HW_STATS_ENABLE])
    return request


def read_users(connection: wire.Socket, nhid: int, most: int) -> Users:
    """The routes that use an object, and the first `most` of them."""
    needle = wire.attribute(RTA_NH_ID, struct.pack("=I", nhid))
    count, first = 0, list[Prefix]()

    def take(datagram: bytes) -> int:
        nonlocal count
        for kind, flags, start, end in wire.messages(datagram):
            if flags & wire.NLM_F_DUMP_INTR:
                raise wire.interrupted()
            if kind in (wire.NLMSG_DONE, wire.NLMSG_ERROR):
                return start
            if datagram.find(needle, start, end) < 0:
                continue
            message = datagram[start + wire.HEADER_SIZE : end]
            prefix = _user(message, nhid)
            if prefix is not None:
                count += 1
                if len(first) < most:
                    first.append(prefix)
        return len(datagram)

    def attempt() -> None:
        nonlocal count
        count = 0
        first.clear()
        for family in ADDRESS_SIZE:
            connection.stream(RTM_GETROUTE, dump_request(family), take, "routes")

    wire.uninterrupted(attempt)
    return Users(count, tuple(first))


def _user(message: bytes, nhid: int) -> Prefix | None:
    """The prefix of a route that uses that object."""
    family, bits, *_, flags = ROUTE_HEADER.unpack_from(message)
    found = wire.attribute_map(message, ROUTE_HEADER.size, len(message))
    if flags & RTM_F_CLONED or wire.number(found.get(RTA_NH_ID, bytes(4))) != nhid:
        return None
    return Prefix(found.get(RTA_DST, bytes(ADDRESS_SIZE[family])), bits)


def _ask(connection: wire.Socket, nhid: int) -> bytes:
    request = NEXTHOP_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0)
    request += wire.attribute(NHA_ID, struct.pack("=I", nhid))
    try:
        return connection.ask(RTM_GETNEXTHOP, request, f"nexthop object {nhid}")
    except KernelRefused:
        raise _gone(nhid) from None


def _has_wide_weights(found: dict[int, bytes]) -> bool:
    return bool(wire.number(found.get(NHA_OP_FLAGS, bytes(4))) & RESERVED_ARE_ZERO)


def _gone(nhid: int) -> RouteNotFound:
    return RouteNotFound(
        f"the kernel has no nexthop group {nhid} with these members (any more)",
        "list them: ip nexthop show groups",
    )
