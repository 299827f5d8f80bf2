"""Route messages built by hand, as the kernel has them on the wire."""

from __future__ import annotations

import socket
import struct

from xdpecmp.model.values import Route
from xdpecmp.netlink.routes import parse_route
from xdpecmp.netlink.wire import attribute

V4, V6 = socket.AF_INET, socket.AF_INET6
UNICAST = 1
DST, SRC, OIF, GATEWAY, PRIORITY, METRICS, MULTIPATH = 1, 2, 4, 5, 6, 8, 9
CACHEINFO, TABLE, VIA, ENCAP_TYPE, ENCAP, EXPIRES, NH_ID = 12, 15, 18, 21, 22, 23, 30
TEN = bytes((10, 0, 0, 0))
GATEWAY1, GATEWAY2 = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
GATEWAY6 = socket.inet_pton(socket.AF_INET6, "fe80::1")


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def u16(value: int) -> bytes:
    return struct.pack("=H", value)


def route(*attrs: tuple[int, bytes], **fields: int) -> bytes:
    """An RTM_NEWROUTE message without netlink header: by default IPv4, /8, unicast, main."""
    header = {
        "family": V4, "dst_len": 8, "src_len": 0, "tos": 0,
        "table": 254, "protocol": 3, "scope": 0, "type": UNICAST, "flags": 0,
    } | fields  # fmt: skip
    return struct.pack("=BBBBBBBBI", *header.values()) + b"".join(attribute(*a) for a in attrs)


def hop(ifindex: int, *attrs: tuple[int, bytes], hops: int = 0, flags: int = 0) -> bytes:
    """A struct rtnexthop with its attributes."""
    inner = b"".join(attribute(*a) for a in attrs)
    return struct.pack("=HBBi", 8 + len(inner), flags, hops, ifindex) + inner


def datagram(*messages: bytes, kind: int = 24, flags: int = 2) -> bytes:
    """Messages, each with its netlink header."""
    return b"".join(
        struct.pack("=IHHII", 16 + len(m), kind, flags, 1, 0) + m + bytes(-len(m) % 4)
        for m in messages
    )


TO_TEN = ((TABLE, u32(254)), (DST, TEN))
VIA_ONE = ((GATEWAY, GATEWAY1), (OIF, u32(7)))


def parsed(*attrs: tuple[int, bytes], **fields: int) -> Route:
    result = parse_route(route(*attrs, **fields))
    assert result is not None
    return result
