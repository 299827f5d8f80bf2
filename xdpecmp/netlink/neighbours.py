"""Neighbours: reading them, and having the kernel keep them resolved.

Packets that XDP forwards confirm no neighbour, so an entry would go stale, be forgotten, and its
next hop fall back to the slow path. NTF_EXT_MANAGED (Linux 5.16) makes the kernel keep probing an
entry. Asking for it has side effects, which __neigh_update() in net/core/neighbour.c shows: an
administrative update *sets* the flags to those that it names, so one for NTF_USE alone ends
NTF_EXT_MANAGED, and it takes NUD_PERMANENT away, MAC and all. Hence: look at the entry first,
repeat its flags, and keep off those that somebody else maintains.

Changes are made by `wire` too: pyroute2 before 0.9, as packaged in Debian 12 and 13 and Ubuntu
24.04, leaves NDA_FLAGS_EXT out of a request without an error, and nothing would become managed.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from errno import ENOENT
from itertools import islice
from types import MappingProxyType

from ..errors import KernelRefused, MalformedMessage, XdpecmpError
from ..model.values import Neighbour
from . import wire
from .rtnetlink import ADDRESS_SIZE, RTM_GETNEIGH, RTM_NEWNEIGH, family_of

NEIGHBOUR_HEADER = struct.Struct("=BxxxiHBB")
"""ndmsg: family, ifindex, state (NUD_*), flags (NTF_*), type (RTN_*)."""
NDA_DST = 1
NDA_LLADDR = 2
NDA_FLAGS_EXT = 15

NUD_FAILED = 0x20
NUD_NOARP = 0x40
NUD_PERMANENT = 0x80
NTF_USE = 0x01
NTF_PROXY = 0x08
NTF_EXT_LEARNED = 0x10
NTF_EXT_MANAGED = 0x01

MOST_ASKED = 256
_NONE: Mapping[tuple[bytes, int], Neighbour] = MappingProxyType({})


def parse_neighbour(message: bytes) -> tuple[Neighbour, int] | None:
    """One RTM_NEWNEIGH message, without its netlink header, as a Neighbour and its NTF_* flags.

    None for a proxy entry and for other families (a bridge's forwarding table). Raises
    MalformedMessage.
    """
    if len(message) < NEIGHBOUR_HEADER.size:
        raise MalformedMessage(f"neighbour message of {len(message)} bytes")
    family, ifindex, state, flags, _ = NEIGHBOUR_HEADER.unpack_from(message)
    if family not in ADDRESS_SIZE or flags & NTF_PROXY:
        return None
    found = wire.attribute_map(message, NEIGHBOUR_HEADER.size, len(message))
    address = found.get(NDA_DST, b"")
    if len(address) != ADDRESS_SIZE[family]:
        raise MalformedMessage(f"neighbour with an address of {len(address)} bytes")
    mac = found.get(NDA_LLADDR, b"")
    extended = wire.number(found.get(NDA_FLAGS_EXT, bytes(4)))
    neighbour = Neighbour(
        address=address,
        ifindex=ifindex,
        mac=mac if len(mac) == 6 else b"",
        state=state,
        managed=bool(extended & NTF_EXT_MANAGED),
    )
    return neighbour, flags


def read_neighbours(
    connection: wire.Socket, known: Mapping[tuple[bytes, int], Neighbour] = _NONE
) -> dict[tuple[bytes, int], Neighbour]:
    """All neighbours of both families by (packed address, ifindex).

    While entries come and go, or the table grows, a dump leaves out others without a word
    (neigh_dump_table() counts its way through the hash buckets). So those that were `known` to be
    usable and are missing are asked for one by one, up to MOST_ASKED.
    """
    request = NEIGHBOUR_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    neighbours = {}
    for message in connection.dump(RTM_GETNEIGH, request, "neighbours"):
        parsed = None
        with suppress(MalformedMessage):  # what leads to one that makes no sense passes
            parsed = parse_neighbour(message)
        if parsed is not None:
            neighbour = parsed[0]
            neighbours[neighbour.address, neighbour.ifindex] = neighbour
    missing = (key for key, each in known.items() if each.usable and key not in neighbours)
    for key in list(islice(missing, MOST_ASKED)):
        with suppress(XdpecmpError):  # its device has gone
            found = read_neighbour(connection, *key)
            if found is not None:
                neighbours[key] = found[0]
    return neighbours


def read_neighbour(
    connection: wire.Socket, address: bytes, ifindex: int
) -> tuple[Neighbour, int] | None:
    """One neighbour and its NTF_* flags, or None. Raises NoSuchInterface."""
    request = NEIGHBOUR_HEADER.pack(family_of(address), ifindex, 0, 0, 0) + wire.attribute(
        NDA_DST, address
    )
    try:
        message = connection.ask(RTM_GETNEIGH, request, _name(address, ifindex))
    except KernelRefused as error:
        if error.errno == ENOENT:
            return None
        raise
    return parse_neighbour(message)


def manage(connection: wire.Socket, address: bytes, ifindex: int) -> bool:
    """Have the kernel resolve a neighbour and keep it resolved.

    An entry that exists keeps its state and MAC. Returns False, having changed nothing, for one
    that is maintained by someone else: permanent, NOARP, or learned by a control plane (EVPN).
    Raises NoSuchInterface, NotPermitted, KernelRefused.
    """
    found = read_neighbour(connection, address, ifindex)
    if found is not None:
        neighbour, flags = found
        if neighbour.managed:
            return True
        if neighbour.state & (NUD_PERMANENT | NUD_NOARP) or flags & NTF_EXT_LEARNED:
            return False
    _update(connection, address, ifindex, flags=0, extended=NTF_EXT_MANAGED)
    return True


def use(connection: wire.Socket, address: bytes, ifindex: int) -> bool:
    """Have the kernel look after an entry as if it had sent a packet there: STALE is probed.

    Returns False, having changed nothing, if there is no entry or nothing to probe. Errors as
    for `manage`.
    """
    found = read_neighbour(connection, address, ifindex)
    if found is None or found[0].state & (NUD_PERMANENT | NUD_NOARP):
        return False
    neighbour, flags = found
    extended = NTF_EXT_MANAGED if neighbour.managed else 0
    _update(connection, address, ifindex, NTF_USE | flags & NTF_EXT_LEARNED, extended)
    return True


def release(connection: wire.Socket, address: bytes, ifindex: int) -> bool:
    """Undo `manage`: the kernel no longer probes, and may forget the entry when unused.

    Its state and MAC stay. Returns whether the entry was managed. Errors as for `manage`.
    """
    found = read_neighbour(connection, address, ifindex)
    if found is None or not found[0].managed:
        return False
    _, flags = found
    # An update for NTF_USE without the managed flag is the one that leaves all else alone.
    _update(connection, address, ifindex, NTF_USE | flags & NTF_EXT_LEARNED, extended=0)
    return True


def _update(
    connection: wire.Socket, address: bytes, ifindex: int, flags: int, extended: int
) -> None:
    """Update a neighbour's NTF_* and NTF_EXT_* flags, or create it unresolved."""
    request = NEIGHBOUR_HEADER.pack(family_of(address), ifindex, 0, flags, 0)
    request += wire.attribute(NDA_DST, address)
    if extended:
        request += wire.attribute(NDA_FLAGS_EXT, struct.pack("=I", extended))
    update = wire.NLM_F_CREATE | wire.NLM_F_REPLACE
    connection.tell(RTM_NEWNEIGH, update, request, _name(address, ifindex))


def _name(address: bytes, ifindex: int) -> str:
    return f"neighbour {ipaddress.ip_address(address)} on device #{ifindex}"
