"""Links: the kernel's RTM_NEWLINK messages as `Link` values.

Source: rtnl_fill_ifinfo() in net/core/rtnetlink.c, include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from ..errors import MalformedMessage, NoSuchInterface, XdpecmpError
from ..model import Link
from . import wire
from .features import Offloads

RTM_GETLINK = 18

LINK_HEADER = struct.Struct("=BxHiII")
"""ifinfomsg: family, device type (ARPHRD_*), ifindex, flags (IFF_*), change mask."""

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_EXT_MASK = 29
_IFLA_LINK_NETNSID = 37
_IFLA_GSO_MAX_SEGS = 40
_IFLA_GSO_MAX_SIZE = 41
IFLA_XDP = 43
_IFLA_GSO_IPV4_MAX_SIZE = 63
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_VLAN_ID = 1
_IFLA_VLAN_PROTOCOL = 5
_IFLA_XDP_ATTACHED = 2
_IFLA_XDP_PROG_ID = 4
_IFLA_XDP_DRV_PROG_ID = 5

_ARPHRD_ETHER = 1
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_RTEXT_FILTER_SKIP_STATS = 8

_GSO_LIMITS = (_IFLA_GSO_MAX_SEGS, _IFLA_GSO_MAX_SIZE, _IFLA_GSO_IPV4_MAX_SIZE)
"""Where one is lower than packets can be, Linux splits them itself: gso_features_check() in
net/core/dev.c. The last came with Linux 6.3."""
_LARGEST = 0xFFFF

_XDP_MODES = {1: "native", 2: "generic", 3: "offload", 4: "native"}
"""XDP_ATTACHED_*; 4 (MULTI) is several at once, of which the native one sees packets first."""


def can_send(flags: int) -> bool:
    """Whether a device with these IFF_* is up and has carrier."""
    return bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)


def parse_link(message: bytes) -> Link:
    """One RTM_NEWLINK message, without its netlink header. Raises MalformedMessage."""
    if len(message) < LINK_HEADER.size:
        raise MalformedMessage(f"link message of {len(message)} bytes")
    _, hardware, ifindex, flags, _ = LINK_HEADER.unpack_from(message)
    found = wire.attribute_map(message, LINK_HEADER.size, len(message))
    mac = found.get(_IFLA_ADDRESS, b"")
    kind, vlan = _kind(found.get(_IFLA_LINKINFO, b""))
    lower = found.get(_IFLA_LINK) if kind == "vlan" and _IFLA_LINK_NETNSID not in found else None
    mode, program = _xdp(found.get(IFLA_XDP, b""))
    return Link(
        ifindex=ifindex,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        mac=mac if hardware == _ARPHRD_ETHER and len(mac) == 6 else b"",
        mtu=_number(found, _IFLA_MTU),
        up=can_send(flags),
        kind=kind,
        master=_number(found, _IFLA_MASTER),
        lower=wire.number(lower) if lower else 0,
        vlan_id=_number(vlan, _IFLA_VLAN_ID),
        # Unlike the id, the protocol is in network order.
        vlan_protocol=int.from_bytes(vlan.get(_IFLA_VLAN_PROTOCOL, b""), "big"),
        xdp_prog_id=program,
        xdp_mode=mode,
        segments_all=all(
            _number(found, limit) >= _LARGEST for limit in _GSO_LIMITS if limit in found
        ),
    )


def _kind(linkinfo: bytes) -> tuple[str, dict[int, bytes]]:
    """The device's kind, and IFLA_INFO_DATA if it is a VLAN device."""
    found = wire.attribute_map(linkinfo, 0, len(linkinfo))
    kind = _text(found.get(_IFLA_INFO_KIND, b""))
    data = found.get(_IFLA_INFO_DATA, b"") if kind == "vlan" else b""
    return kind, wire.attribute_map(data, 0, len(data))


def _xdp(block: bytes) -> tuple[str, int]:
    """Mode and id of the attached XDP program."""
    found = wire.attribute_map(block, 0, len(block))
    mode = _XDP_MODES.get(_number(found, _IFLA_XDP_ATTACHED), "")
    program = _number(found, _IFLA_XDP_DRV_PROG_ID) or _number(found, _IFLA_XDP_PROG_ID)
    return mode, program


def _number(found: Mapping[int, bytes], kind: int) -> int:
    return wire.number(found[kind]) if kind in found else 0


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode(errors="surrogateescape")


def _request(ifindex: int) -> bytes:
    header = LINK_HEADER.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
    return header + wire.attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))


def read_links(
    connection: wire.Socket,
    transmits: Mapping[int, bool] | None,
    strips_tags: Callable[[str], bool],
    offloads: Callable[[str], Offloads],
    merges: Callable[[str], frozenset[str]],
    known: Collection[int] = (),
) -> dict[int, Link]:
    """All links by index. `transmits` is what `features.read_transmits` told: None = cannot tell,
    and then what surely can counts; `strips_tags`, `offloads` and `merges` ask about a device by
    its name.

    A device that is not in `transmits` though others are appeared a moment ago: taken for not
    able, until its own notification has it read again. One that makes no sense is left out, so that
    what leads there passes.

    While devices come and go a dump may leave out others (before Linux 6.9). So those that were
    `known` and are missing are asked for one by one.
    """
    links = {}
    messages = connection.dump(RTM_GETLINK, _request(0), "links", torn=True)
    for link in _parsed(connection, messages, known):
        able = _surely_transmits(link) if transmits is None else transmits.get(link.ifindex)
        link = replace(link, can_transmit_xdp=bool(able))
        if link.kind != "veth" and link.mac and strips_tags(link.name):
            link = replace(link, strips_tags=True)
        if link.mac:
            found = offloads(link.name)
            link = replace(
                link,
                segments_all=link.segments_all and found.segments_all,
                merges_lists=found.merges_lists,
                offloads_received=found.offloads_received,
            )
        if link.mac and not link.kind and (how := merges(link.name)):
            link = replace(link, merges=how)
        links[link.ifindex] = link
    # what a bond or a bridge receives is what its members receive
    for ifindex in {link.master for link in links.values() if link.strips_tags} & links.keys():
        links[ifindex] = replace(links[ifindex], strips_tags=True)
    for ifindex in {link.master for link in links.values() if link.leaves_checksums} & links.keys():
        links[ifindex] = replace(links[ifindex], has_local_ports=True)
    return links


def _parsed(
    connection: wire.Socket, messages: Iterable[bytes], known: Collection[int]
) -> Iterator[Link]:
    missing = set(known)
    for message in messages:
        with suppress(MalformedMessage):
            link = parse_link(message)
            missing.discard(link.ifindex)
            yield link
    for ifindex in sorted(missing):
        with suppress(XdpecmpError):
            yield read_link(connection, ifindex)


def _surely_transmits(link: Link) -> bool:
    """Before Linux 6.3 nobody says. Hardware whose driver runs a program also sends XDP frames,
    often only while it does; of a veth, a bond and the like nobody can know, and frames would be
    lost unseen."""
    return link.xdp_mode == "native" and not link.kind


def read_link(connection: wire.Socket, ifindex: int) -> Link:
    """One link, without its XDP features. Raises NoSuchInterface."""
    if ifindex <= 0:
        raise NoSuchInterface(f"#{ifindex}")
    try:
        return parse_link(connection.ask(RTM_GETLINK, _request(ifindex), f"device #{ifindex}"))
    except NoSuchInterface:
        raise NoSuchInterface(f"#{ifindex}") from None
