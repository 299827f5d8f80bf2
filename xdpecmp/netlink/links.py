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
from ..model.values import Link
from . import wire
from .ethtool import Features
from .rtnetlink import RTM_GETLINK

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
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_VLAN_ID = 1
_IFLA_VLAN_EGRESS_QOS = 3
_IFLA_VLAN_PROTOCOL = 5
_IFLA_MACVLAN_MODE = 1
_IFLA_BOND_MODE = 1
_IFLA_BOND_ACTIVE_SLAVE = 2
_IFLA_BOND_SLAVE_STATE = 1
_HSR_PORTS = (1, 2, 8)
"""IFLA_HSR_SLAVE1, _SLAVE2, _INTERLINK."""
_IFLA_XDP_ATTACHED = 2
_IFLA_XDP_PROG_ID = 4
_IFLA_XDP_DRV_PROG_ID = 5

_MACVLAN_MODES = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}
_IFLA_AF_SPEC = 26
_IFLA_PROMISCUITY = 30
_IFLA_BR_VLAN_FILTERING = 7
_IFLA_BRIDGE_VLAN_INFO = 2
_BRIDGE_VLAN_INFO = struct.Struct("=HH")
_BRIDGE_VLAN_INFO_UNTAGGED = 1 << 2

_BOND_MODES = {
    0: "balance-rr",
    1: "active-backup",
    2: "balance-xor",
    3: "broadcast",
    4: "802.3ad",
    5: "balance-tlb",
    6: "balance-alb",
}
_DETAILED = frozenset({"vlan", "macvlan", "macvtap", "bond", "bridge", "hsr"})

_ARPHRD_ETHER = 1
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_RTEXT_FILTER_BRVLAN = 2
_RTEXT_FILTER_SKIP_STATS = 8

_GSO_LIMITS = (_IFLA_GSO_MAX_SEGS, _IFLA_GSO_MAX_SIZE, _IFLA_GSO_IPV4_MAX_SIZE)
"""If one is lower than packets can be, Linux splits them itself: gso_features_check() in
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
    info = _nested(found, _IFLA_LINKINFO)
    kind = _text(info.get(_IFLA_INFO_KIND, b""))
    data = _nested(info, _IFLA_INFO_DATA) if kind in _DETAILED else {}
    vlan = data if kind == "vlan" else {}
    below = _number(found, _IFLA_LINK) if _IFLA_LINK_NETNSID not in found else 0
    below = 0 if below == ifindex else below
    mode, program = _xdp(found.get(IFLA_XDP, b""))
    return Link(
        ifindex=ifindex,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        mac=mac if hardware == _ARPHRD_ETHER and len(mac) == 6 else b"",
        mtu=_number(found, _IFLA_MTU),
        up=can_send(flags),
        kind=kind,
        master=_number(found, _IFLA_MASTER),
        lower=0 if kind in PAIRS else below,
        peer_index=below if kind == "veth" else 0,
        vlan_id=_number(vlan, _IFLA_VLAN_ID),
        # Unlike the id, the protocol is in network order.
        vlan_protocol=int.from_bytes(vlan.get(_IFLA_VLAN_PROTOCOL, b""), "big"),
        sets_priority=_IFLA_VLAN_EGRESS_QOS in vlan,
        mode=_mode(kind, data),
        ports=tuple(filter(None, (_number(data, port) for port in _HSR_PORTS)))
        if kind == "hsr"
        else (),
        delivers=_is_active(info),
        is_untagged=_filters(kind, data) and not _number(found, _IFLA_PROMISCUITY),
        xdp_prog_id=program,
        xdp_mode=mode,
        segments_all=all(
            _number(found, limit) >= _LARGEST for limit in _GSO_LIMITS if limit in found
        ),
    )


PAIRS = frozenset({"veth", "netkit"})
"""Kinds whose IFLA_LINK is the other end."""


def _mode(kind: str, data: Mapping[int, bytes]) -> str:
    if kind in ("macvlan", "macvtap"):
        return _MACVLAN_MODES.get(_number(data, _IFLA_MACVLAN_MODE), "")
    if kind == "bond":
        return _BOND_MODES.get(_number(data, _IFLA_BOND_MODE), "")
    return ""


def _filters(kind: str, data: Mapping[int, bytes]) -> bool:
    """Whether a bridge looks at VLAN tags. In promiscuous mode it hands up what it would drop."""
    return kind == "bridge" and _number(data, _IFLA_BR_VLAN_FILTERING) == 1


def parse_bridge_vlans(message: bytes) -> tuple[int, bool]:
    """Of an RTM_NEWLINK message of family AF_BRIDGE: whose it is, and whether all VLANs there leave
    without their tag (for the bridge itself: come up to it)."""
    if len(message) < LINK_HEADER.size:
        raise MalformedMessage(f"link message of {len(message)} bytes")
    ifindex = LINK_HEADER.unpack_from(message)[2]
    found = wire.attribute_map(message, LINK_HEADER.size, len(message))
    block = found.get(_IFLA_AF_SPEC, b"")
    flags = [
        _BRIDGE_VLAN_INFO.unpack_from(block, start)[0]
        for kind, start, end in wire.attributes(block, 0, len(block))
        if kind == _IFLA_BRIDGE_VLAN_INFO and end - start >= _BRIDGE_VLAN_INFO.size
    ]
    return ifindex, all(each & _BRIDGE_VLAN_INFO_UNTAGGED for each in flags)


def is_of_bridge(message: bytes) -> bool:
    """Whether a message of family AF_BRIDGE is of a bridge itself: br_fill_ifinfo()."""
    if len(message) < LINK_HEADER.size:
        return False
    found = wire.attribute_map(message, LINK_HEADER.size, len(message))
    ifindex: int = LINK_HEADER.unpack_from(message)[2]
    return ifindex > 0 and ifindex == _number(found, _IFLA_MASTER)


def _untagged(connection: wire.Socket) -> dict[int, bool]:
    """By index, the same of all bridges and their ports."""
    request = LINK_HEADER.pack(socket.AF_BRIDGE, 0, 0, 0, 0) + wire.attribute(
        _IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_BRVLAN)
    )
    messages = connection.dump(RTM_GETLINK, request, "VLANs of bridges")
    return dict(parse_bridge_vlans(message) for message in messages)


def _is_active(info: Mapping[int, bytes]) -> bool:
    """Whether a link of a bond is in state BOND_STATE_ACTIVE: bond_set_slave_active_flags()."""
    if _text(info.get(_IFLA_INFO_SLAVE_KIND, b"")) != "bond":
        return False
    return _nested(info, _IFLA_INFO_SLAVE_DATA).get(_IFLA_BOND_SLAVE_STATE) == b"\0"


def _nested(attributes: Mapping[int, bytes], kind: int) -> dict[int, bytes]:
    block = attributes.get(kind, b"")
    return wire.attribute_map(block, 0, len(block))


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


def dump_links(connection: wire.Socket) -> list[bytes]:
    """RTM_NEWLINK messages of all devices, without their netlink headers."""
    return connection.dump(RTM_GETLINK, _request(0), "links")


def foreign_lower(message: bytes) -> tuple[int | None, int]:
    """Of a device whose IFLA_LINK is in another namespace: the number by which that one is known
    here (IFLA_LINK_NETNSID), and the index there; None and 0 of all others."""
    found = wire.attribute_map(message, LINK_HEADER.size, len(message))
    if _IFLA_LINK_NETNSID not in found:
        return None, 0
    return _number(found, _IFLA_LINK_NETNSID), _number(found, _IFLA_LINK)


def read_links(
    connection: wire.Socket,
    transmits: Mapping[int, bool] | None,
    features: Callable[[str], Features],
    known: Collection[int] = (),
) -> dict[int, Link]:
    """All links by index. `transmits` is what `features.read_transmits` told: None = cannot tell,
    and then what surely can counts; `features` asks about a device by its name.

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
        if link.mac:
            has = features(link.name)
            link = replace(
                link,
                strips_tags=link.kind != "veth" and has.hides_received,
                segments_all=link.segments_all and has.segments_all,
                merges_lists=has.merges_lists,
                offloads_received=has.offloads_received,
                merges=frozenset() if link.kind else has.merges,
            )
        links[link.ifindex] = link
    if any(link.is_untagged for link in links.values()):
        untagged = _untagged(connection)
        for link in list(links.values()):
            if link.is_untagged and not untagged.get(link.ifindex):
                links[link.ifindex] = replace(link, is_untagged=False)
    # what a bond or a bridge receives is what its members receive
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
