"""The IPv4 addresses of devices: loose reverse-path filtering asks whether there is one, and none
of them is a source that may be forwarded.

Routes do not tell: a local route may lead to a device without addresses, an address on a device
that is down has no route, and somebody may have deleted it.

Source: inet_dump_ifaddr() in net/ipv4/devinet.c; `no_addr` in __fib_validate_source(), and
inet_lookup_ifaddr_rcu() in fib_validate_source().
"""

from __future__ import annotations

import socket
import struct

from ..errors import MalformedMessage
from . import wire
from .rtnetlink import RTM_GETADDR

_HEADER = struct.Struct("=BBBBi")
"""ifaddrmsg: family, prefix length, flags, scope, ifindex."""

_IFA_LOCAL = 2


def parse_address4(message: bytes) -> tuple[int, bytes]:
    """Device and packed address of an RTM_NEWADDR message, without its netlink header. Raises
    MalformedMessage."""
    if len(message) < _HEADER.size:
        raise MalformedMessage(f"address message of {len(message)} bytes")
    ifindex: int = _HEADER.unpack_from(message)[4]
    found = wire.attribute_map(message, _HEADER.size, len(message)).get(_IFA_LOCAL, b"")
    if len(found) != 4:
        raise MalformedMessage(f"IPv4 address of {len(found)} bytes")
    return ifindex, found


def read_addresses4(connection: wire.Socket) -> dict[int, frozenset[bytes]]:
    """By index of the device its packed IPv4 addresses, whatever their scope and its state."""
    request = _HEADER.pack(socket.AF_INET, 0, 0, 0, 0)
    found: dict[int, set[bytes]] = {}
    for message in connection.dump(RTM_GETADDR, request, "addresses"):
        ifindex, address = parse_address4(message)
        found.setdefault(ifindex, set()).add(address)
    return {ifindex: frozenset(held) for ifindex, held in found.items()}
