"""Whether IPsec has a say in forwarding: then Linux must, since XDP comes before it.

It has if there are policies, and if the default for what meets none is to block it.

Source: xfrm_get_spdinfo(), xfrm_get_default() in net/xfrm/xfrm_user.c; ip_forward() asks for "fwd"
and "out": __xfrm_check_nopolicy(), xfrm_route_forward() in include/net/xfrm.h.
"""

from __future__ import annotations

import struct
from errno import EINVAL

from ..errors import KernelRefused, MalformedMessage
from . import wire

NETLINK_XFRM = 6
XFRMNLGRP_POLICY = 4
"""Events of policies and of the default."""

_XFRM_MSG_GETSPDINFO = 0x25
_XFRMA_SPD_INFO = 1
_COUNTS = struct.Struct("=3I")
"""Beginning of struct xfrmu_spdinfo: policies for input, output, forwarding."""
_FLAGS = struct.Struct("=I")

_XFRM_MSG_GETDEFAULT = 0x28
_DEFAULT = struct.Struct("=3B")
"""struct xfrm_userpolicy_default: input, forwarding, output."""
_XFRM_USERPOLICY_BLOCK = 1


def parse_has_policies(message: bytes) -> bool:
    """Whether policies count in forwarding, by a XFRM_MSG_NEWSPDINFO message without its netlink
    header."""
    block = wire.attribute_map(message, _FLAGS.size, len(message)).get(_XFRMA_SPD_INFO, b"")
    if len(block) < _COUNTS.size:
        return False
    _, output, forward = _COUNTS.unpack_from(block)
    return bool(output or forward)


def parse_blocks(message: bytes) -> bool:
    """Whether forwarding takes a policy, by the answer to XFRM_MSG_GETDEFAULT without its netlink
    header. MalformedMessage if it is too short."""
    if len(message) < _DEFAULT.size:
        raise MalformedMessage(f"default IPsec policy of {len(message)} bytes")
    _, forward, output = _DEFAULT.unpack_from(message)
    return _XFRM_USERPOLICY_BLOCK in (forward, output)


def read_has_a_say(connection: wire.Socket | None) -> bool:
    """`connection` is None if the kernel knows no IPsec."""
    if connection is None:
        return False
    policies = connection.ask(_XFRM_MSG_GETSPDINFO, _FLAGS.pack(0), "IPsec policies")
    return parse_has_policies(policies) or _blocks(connection)


def _blocks(connection: wire.Socket) -> bool:
    try:
        answer = connection.ask(_XFRM_MSG_GETDEFAULT, _DEFAULT.pack(0, 0, 0), "IPsec default")
    except KernelRefused as error:
        if error.errno == EINVAL:  # before Linux 5.15, which accepts
            return False
        raise
    return parse_blocks(answer)
