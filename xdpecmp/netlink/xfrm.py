"""Whether IPsec has a say in forwarding: then Linux must, since XDP comes before it.

Source: xfrm_get_spdinfo() in net/xfrm/xfrm_user.c; ip_forward() asks those of "fwd" and "out".
"""

from __future__ import annotations

import struct

from . import wire

NETLINK_XFRM = 6
_XFRM_MSG_GETSPDINFO = 0x25
_XFRMA_SPD_INFO = 1
_COUNTS = struct.Struct("=3I")
"""Beginning of struct xfrmu_spdinfo: policies for input, output, forwarding."""
_FLAGS = struct.Struct("=I")


def parse_has_policies(message: bytes) -> bool:
    """A XFRM_MSG_NEWSPDINFO message, without its netlink header."""
    block = wire.attribute_map(message, _FLAGS.size, len(message)).get(_XFRMA_SPD_INFO, b"")
    if len(block) < _COUNTS.size:
        return False
    _, output, forward = _COUNTS.unpack_from(block)
    return bool(output or forward)


def read_has_policies(connection: wire.Socket | None) -> bool:
    """Whether there are any; `connection` is None where the kernel knows no IPsec."""
    if connection is None:
        return False
    return parse_has_policies(
        connection.ask(_XFRM_MSG_GETSPDINFO, _FLAGS.pack(0), "IPsec policies")
    )
