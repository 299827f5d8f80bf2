"""Policy rules: whether there are any besides the default ones.

With other rules a packet's route may depend on its source, mark or interface, and the mirrored
tables alone no longer tell it.

Source: fib_nl_fill_rule() in net/core/fib_rules.c, include/uapi/linux/fib_rules.h.
"""

from __future__ import annotations

import socket
import struct

from ..errors import DumpInterrupted, MalformedMessage
from . import wire
from .rtnetlink import RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTM_GETRULE

RULE_HEADER = struct.Struct("=BBBBBxxBI")
"""fib_rule_hdr: family, dst_len, src_len, tos, table, action, flags."""
_FRA_PRIORITY = 6
_FRA_SUPPRESS_PREFIXLEN = 14
_FRA_TABLE = 15
_FRA_PROTOCOL = 21
_FR_ACT_TO_TBL = 1
_NONE = 0xFFFFFFFF

_DEFAULTS: dict[int, list[tuple[int, int]]] = {
    socket.AF_INET: [(0, RT_TABLE_LOCAL), (32766, RT_TABLE_MAIN), (32767, RT_TABLE_DEFAULT)],
    socket.AF_INET6: [(0, RT_TABLE_LOCAL), (32766, RT_TABLE_MAIN)],
}
"""(priority, table) of the rules that a fresh namespace has."""


def plain_rule(message: bytes) -> tuple[int, int] | None:
    """Priority and table of a rule that sends *every* packet to a table; None for any other.

    `message` is one RTM_NEWRULE without its netlink header. Raises MalformedMessage.
    """
    if len(message) < RULE_HEADER.size:
        raise MalformedMessage(f"rule message of {len(message)} bytes")
    _, to_bits, from_bits, tos, table, action, flags = RULE_HEADER.unpack_from(message)
    found = wire.attribute_map(message, RULE_HEADER.size, len(message))
    found.pop(_FRA_PROTOCOL, None)  # who installed it
    priority = wire.number(found.pop(_FRA_PRIORITY, bytes(4)))  # absent for 0
    table = wire.number(found.pop(_FRA_TABLE, bytes([table])))
    suppressed = wire.number(found.pop(_FRA_SUPPRESS_PREFIXLEN, b"\xff" * 4))
    matches = to_bits or from_bits or tos or flags or found
    if matches or action != _FR_ACT_TO_TBL or suppressed != _NONE:
        return None
    return priority, table


def read_custom_rules(connection: wire.Socket) -> tuple[bool, bool]:
    """Whether the IPv4 rules, and the IPv6 rules, are other than the default ones."""
    ipv4, ipv6 = (_custom(connection, family) for family in _DEFAULTS)
    return ipv4, ipv6


def _custom(connection: wire.Socket, family: int) -> bool:
    request = RULE_HEADER.pack(family, 0, 0, 0, 0, 0, 0)
    try:
        rules = [plain_rule(rule) for rule in connection.dump(RTM_GETRULE, request, "rules")]
    except (DumpInterrupted, MalformedMessage):  # the family passes to Linux until they are known
        return True
    return rules != _DEFAULTS[family]
