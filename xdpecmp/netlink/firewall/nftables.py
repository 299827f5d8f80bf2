"""nftables: base chains on the way of forwarded packets that have rules, or drop by policy.

How many rules a base chain has is in the dump of chains (`use`), so no rule is read for that. Rules
are only read if the kernel does not list its hooks (see `hooks`): to see whether an expression
has connections tracked, be it in a chain for packets to this host.

iptables-nft makes the same tables, and an empty chain that accepts for each hook it has ever used.

Source: nf_tables_fill_chain_info() and its neighbours in net/netfilter/nf_tables_api.c,
include/uapi/linux/netfilter/nf_tables.h. Its numbers are in network order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from errno import EINVAL, EOPNOTSUPP

from ...errors import KernelRefused
from ...model.values import EGRESS, INGRESS, Filter
from .. import wire
from .message import (
    HEADER_SIZE,
    NF_INET_INGRESS,
    NF_NETDEV_EGRESS,
    NF_NETDEV_INGRESS,
    NFPROTO_ARP,
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFPROTO_NETDEV,
    OFF_THE_WAY,
    header,
)
from .tracking import NEVER_SAFE, SAFE_EXPRESSIONS, SAFE_EXTENSIONS, SAFE_OBJECTS

GROUP = 7
"""NFNLGRP_NFTABLES."""
_SUBSYSTEM = 10 << 8
_GETTABLE, _GETCHAIN, _GETRULE = _SUBSYSTEM | 1, _SUBSYSTEM | 4, _SUBSYSTEM | 7
_GETSET, _GETOBJ, _GETFLOWTABLE = _SUBSYSTEM | 10, _SUBSYSTEM | 19, _SUBSYSTEM | 23
_NEWSETELEM, _DELSETELEM, _NEWGEN = _SUBSYSTEM | 12, _SUBSYSTEM | 14, _SUBSYSTEM | 15
UNINTERESTING = frozenset({_NEWSETELEM, _DELSETELEM, _NEWGEN})
"""Events that change no chain, rule or flowtable. NEWGEN follows each transaction."""

_TABLE_NAME, _TABLE_FLAGS = 1, 2
_DORMANT = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_USE = 1, 3, 4, 5, 6
_HOOK_NUMBER, _HOOK_DEVICE, _HOOK_DEVICES = 1, 3, 4
_DEVICE_NAME = 1
_ACCEPT = 1
_HAS_POLICY = struct.pack("=HH", 8, _CHAIN_POLICY)
"""How NFTA_CHAIN_POLICY begins, which base chains alone have."""
_RULE_EXPRESSIONS, _EXPRESSION_NAME, _EXPRESSION_DATA, _EXTENSION_NAME = 4, 1, 2, 1
_OBJECT_TYPE = 3
_FLOWTABLE_TABLE, _FLOWTABLE_NAME = 1, 2

_FAMILIES = {
    NFPROTO_INET: "inet",
    NFPROTO_IPV4: "ip",
    NFPROTO_ARP: "arp",
    NFPROTO_NETDEV: "netdev",
    NFPROTO_BRIDGE: "bridge",
    NFPROTO_IPV6: "ip6",
}
_IP = frozenset({NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6})
_SIDES = {
    (NFPROTO_INET, NF_INET_INGRESS): INGRESS,
    (NFPROTO_NETDEV, NF_NETDEV_INGRESS): INGRESS,
    (NFPROTO_NETDEV, NF_NETDEV_EGRESS): EGRESS,
}


def read(connection: wire.Socket, devices: Mapping[str, int]) -> list[Filter]:
    """What counts. `devices`: indexes by name. Raises XdpecmpError."""
    chains = [
        found
        for message in _dump(connection, _GETCHAIN, "nftables chains")
        if _HAS_POLICY in message  # there may be thousands without
        for found in parse_chain(message, devices)
    ]
    chains += [parse_flowtable(m) for m in _dump(connection, _GETFLOWTABLE, "nftables flowtables")]
    if not chains:
        return []
    dormant = {parse_dormant(m) for m in _dump(connection, _GETTABLE, "nftables tables")}
    return [found for table, found in chains if table not in dormant]


def tracks(connection: wire.Socket) -> tuple[bool, bool]:
    """Whether rules, objects or sets may have connections tracked: of IPv4, of IPv6."""
    families = set[int]()
    for message in _dump(connection, _GETRULE, "nftables rules"):
        if message[0] not in families and rule_tracks(message):
            families.add(message[0])
    for message in _dump(connection, _GETOBJ, "nftables objects"):
        kind = _number(wire.attribute_map(message, HEADER_SIZE, len(message)), _OBJECT_TYPE)
        if kind not in SAFE_OBJECTS:
            families.add(message[0])
    for message in _dump(connection, _GETSET, "nftables sets"):
        if NEVER_SAFE in message:
            families.add(message[0])
    of = _both(families)
    return of[0], of[1]


def _both(families: set[int]) -> tuple[bool, bool]:
    """The bridge family has both tracked; netdev and arp cannot have any."""
    families -= {NFPROTO_NETDEV, NFPROTO_ARP}
    return bool(families - {NFPROTO_IPV6}), bool(families - {NFPROTO_IPV4})


def _dump(connection: wire.Socket, kind: int, what: str) -> list[bytes]:
    try:
        return connection.dump(kind, header(0), what)
    except KernelRefused as error:
        if error.errno in (EINVAL, EOPNOTSUPP):  # a kernel without nftables, or without these
            return []
        raise


# --- single messages, without netlink header -----------------------------------------------------

_Table = tuple[int, bytes]
"""Family and name."""


def parse_dormant(message: bytes) -> _Table | None:
    """The table, if none of its chains is in force."""
    told = wire.attribute_map(message, HEADER_SIZE, len(message))
    flags = _number(told, _TABLE_FLAGS) or 0
    return (message[0], told[_TABLE_NAME]) if flags & _DORMANT else None


def parse_flowtable(message: bytes) -> tuple[_Table, Filter]:
    told = wire.attribute_map(message, HEADER_SIZE, len(message))
    table, name = told.get(_FLOWTABLE_TABLE, b""), told.get(_FLOWTABLE_NAME, b"")
    family = _FAMILIES.get(message[0], str(message[0]))
    what = f"nftables flowtable {family} {_text(table)} {_text(name)}"
    return (message[0], table), Filter(what)


def parse_chain(message: bytes, devices: Mapping[str, int]) -> Iterator[tuple[_Table, Filter]]:
    """What an NFT_MSG_NEWCHAIN says, if that counts: for a device each, if it names devices.
    What it does not tell is taken for the worst. Raises MalformedMessage."""
    told = wire.attribute_map(message, HEADER_SIZE, len(message))
    if _CHAIN_HOOK not in told or message[0] == NFPROTO_ARP:
        return
    family, table = message[0], told.get(_CHAIN_TABLE, b"")
    block = told[_CHAIN_HOOK]
    hook = wire.attribute_map(block, 0, len(block))
    number = _number(hook, _HOOK_NUMBER)
    ruled = _number(told, _CHAIN_USE) != 0
    if family in _IP and number in OFF_THE_WAY:
        return
    if not ruled and _number(told, _CHAIN_POLICY) == _ACCEPT:
        return
    kind = _FAMILIES.get(family, str(family))
    what = f"nftables chain {kind} {_text(table)} {_text(told.get(_CHAIN_NAME, b''))}"
    if not ruled:
        what += " (policy drop)"
    side = _SIDES.get((family, number or 0), "") if number is not None else ""
    counts = Filter(
        what,
        ipv4=family != NFPROTO_IPV6,
        ipv6=family != NFPROTO_IPV4,
        bridged=family == NFPROTO_BRIDGE,
    )
    indexes = _devices(hook, devices) if side else None
    if indexes is None:
        yield (family, table), counts
        return
    for ifindex in indexes:
        yield (family, table), counts._replace(ifindex=ifindex, side=side)


def _devices(hook: Mapping[int, bytes], devices: Mapping[str, int]) -> list[int] | None:
    """Of those, the ones that a chain is on; None if that is not clear."""
    names = [hook[_HOOK_DEVICE]] if _HOOK_DEVICE in hook else []
    block = hook.get(_HOOK_DEVICES, b"")
    for kind, start, end in wire.attributes(block, 0, len(block)):
        if kind != _DEVICE_NAME:  # a prefix, since Linux 6.16
            return None
        names.append(block[start:end])
    return [devices[_text(name)] for name in names if _text(name) in devices] if names else None


def rule_tracks(message: bytes) -> bool:
    """Whether a rule (NFT_MSG_NEWRULE) may have connections tracked."""
    if NEVER_SAFE in message:
        return True
    told = wire.attribute_map(message, HEADER_SIZE, len(message))
    block = told.get(_RULE_EXPRESSIONS, b"")
    for _, start, end in wire.attributes(block, 0, len(block)):
        expression = wire.attribute_map(block, start, end)
        name = _text(expression.get(_EXPRESSION_NAME, b""))
        if name in ("match", "target"):
            data = expression.get(_EXPRESSION_DATA, b"")
            extension = wire.attribute_map(data, 0, len(data)).get(_EXTENSION_NAME)
            if extension is None or _text(extension) not in SAFE_EXTENSIONS:
                return True
        elif name not in SAFE_EXPRESSIONS:
            return True
    return False


def _number(told: Mapping[int, bytes], kind: int) -> int | None:
    return int.from_bytes(told[kind], "big") if kind in told else None


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode(errors="replace")
