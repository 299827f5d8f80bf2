"""Which devices have an IPv4 address: loose reverse-path filtering asks for one.

Routes do not tell: a local route may lead to a device without addresses, and an address on a device
that is down has no route.

Source: inet_dump_ifaddr() in net/ipv4/devinet.c; `no_addr` in __fib_validate_source().
"""

from __future__ import annotations

import socket
import struct

from ..errors import MalformedMessage
from . import wire

_RTM_GETADDR = 22
_HEADER = struct.Struct("=BBBBi")
"""ifaddrmsg: family, prefix length, flags, scope, ifindex."""


def parse_ifindex(message: bytes) -> int:
    """The device of an RTM_NEWADDR message, without its netlink header. Raises MalformedMessage."""
    if len(message) < _HEADER.size:
        raise MalformedMessage(f"address message of {len(message)} bytes")
    ifindex: int = _HEADER.unpack_from(message)[4]
    return ifindex


def read_devices_with_address4(connection: wire.Socket) -> set[int]:
    """Indexes of the devices that have an IPv4 address, whatever its scope and their state."""
    request = _HEADER.pack(socket.AF_INET, 0, 0, 0, 0)
    return {
        parse_ifindex(message) for message in connection.dump(_RTM_GETADDR, request, "addresses")
    }
