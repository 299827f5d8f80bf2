"""Frames to ask about: made from words as `ip route get` has them, or read from hex or a capture.

Pure: text and bytes in, bytes out. Everything here raises BadInput for what a user gave wrongly.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from typing import NamedTuple

from ..errors import XdpecmpError, shortened
from ..model.flow import Flow

ETHERNET = struct.Struct("!6s6sH")
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_SOMEBODY = bytes.fromhex("020000000001")
"""Source MAC of the frames that we make; nothing looks at it."""

_IPPROTO_DCCP = 33
PROTOCOLS: dict[str, int] = {
    "icmp": IPPROTO_ICMP,
    "tcp": IPPROTO_TCP,
    "udp": IPPROTO_UDP,
    "dccp": _IPPROTO_DCCP,
    "gre": socket.IPPROTO_GRE,
    "esp": socket.IPPROTO_ESP,
    "ah": socket.IPPROTO_AH,
    "ipv6-icmp": IPPROTO_ICMPV6,
    "sctp": socket.IPPROTO_SCTP,
    "udplite": socket.IPPROTO_UDPLITE,
}
_WITH_PORTS = frozenset(PROTOCOLS[name] for name in ("tcp", "udp", "dccp", "sctp", "udplite"))


class BadInput(XdpecmpError):
    """What the user gave is no flow or no frame."""


# --- a flow by its fields ------------------------------------------------------------------------


def packet_of(flow: Flow) -> bytes:
    """A packet of this flow, from its IP header on. Checksums are right, except SCTP's."""
    addresses = flow.source + flow.destination
    payload = _payload(flow, addresses)
    if flow.family == 4:
        fields = (0x45, 0, 20 + len(payload), 0, 0x4000, 64, flow.proto)
        head = struct.pack("!BBHHHBBxx4s4s", *fields, flow.source, flow.destination)
        checksum = struct.pack("!H", _checksum(head))
        return head[:10] + checksum + head[12:] + payload
    head = struct.pack("!IHBB", 6 << 28 | flow.flow_label, len(payload), flow.proto, 64)
    return head + addresses + payload


def _payload(flow: Flow, addresses: bytes) -> bytes:
    proto = flow.proto
    ports = struct.pack("!HH", flow.sport, flow.dport)
    pseudo = addresses + struct.pack("!HH", proto, 20 if proto == IPPROTO_TCP else 8)
    if proto == IPPROTO_TCP:
        head = ports + struct.pack("!IIBBHHH", 0, 0, 0x50, 0x02, 0xFFFF, 0, 0)
        return _filled(head, 16, pseudo)
    if proto == IPPROTO_UDP:
        return _filled(ports + struct.pack("!HH", 8, 0), 6, pseudo)
    if proto == IPPROTO_ICMP:
        return _filled(struct.pack("!BBHHH", 8, 0, 0, 1, 1), 2, b"")  # echo request
    if proto == IPPROTO_ICMPV6:
        return _filled(struct.pack("!BBHHH", 128, 0, 0, 1, 1), 2, pseudo)
    if proto in _WITH_PORTS:
        return ports + b"\x01" * 12
    return bytes(16)


def frame_of(flow: Flow, mac: bytes, tags: Sequence[tuple[int, int]] = ()) -> bytes:
    """An Ethernet frame of this flow to `mac`; `tags`: (TPID, VLAN id), the outermost first."""
    return encapsulate(packet_of(flow), mac, tags)


def encapsulate(packet: bytes, mac: bytes, tags: Sequence[tuple[int, int]] = ()) -> bytes:
    """An Ethernet frame to `mac` with that IP packet."""
    ethertype = ETHERTYPE[6 if packet[:1] and packet[0] >> 4 == 6 else 4]
    types = [tpid for tpid, _ in tags] + [ethertype]
    between = b"".join(
        struct.pack("!HH", vid, kind) for (_, vid), kind in zip(tags, types[1:], strict=True)
    )
    return ETHERNET.pack(mac, _SOMEBODY, types[0]) + between + packet


def _checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071; `data` has an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _filled(message: bytes, offset: int, pseudo: bytes) -> bytes:
    """With its checksum, which stands at `offset`. UDP writes 0 as 0xffff, and so may others."""
    checksum = _checksum(pseudo + message) or 0xFFFF
    return message[:offset] + struct.pack("!H", checksum) + message[offset + 2 :]


# --- words ---------------------------------------------------------------------------------------

GRAMMAR = "DST from SRC [iif IFACE] [ipproto PROTO] [sport N] [dport N] [flowlabel N]"
_KEYWORDS = ("from", "iif", "ipproto", "sport", "dport", "flowlabel")


class Words(NamedTuple):
    """What was asked for in words."""

    flow: Flow | None
    iif: str | None


def parse_words(words: Sequence[str]) -> Words:
    """Read `DST from SRC …` as GRAMMAR has it, in any order after DST. Without a DST there may only
    be an interface: the frame comes from somewhere else."""
    destination = words[0] if words and words[0] not in _KEYWORDS else None
    given = _pairs(words[1:] if destination else words)
    iif = given.pop("iif", None)
    if destination is None:
        if given:
            raise BadInput(f"{next(iter(given))} but no destination", f"ask for: {GRAMMAR}")
        return Words(None, iif)
    if "from" not in given:
        raise BadInput("from SRC is missing: both addresses are hashed", f"ask for: {GRAMMAR}")
    return Words(_flow(_address(destination), _address(given.pop("from")), given), iif)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for i in range(0, len(words), 2):
        keyword = words[i]
        if keyword not in _KEYWORDS:
            raise BadInput(f"{shortened(keyword)} is not understood", f"ask for: {GRAMMAR}")
        if keyword in found:
            raise BadInput(f"{keyword} is there twice")
        if i + 1 == len(words):
            raise BadInput(f"{keyword} lacks its value", f"ask for: {GRAMMAR}")
        found[keyword] = words[i + 1]
    return found


def _flow(destination: bytes, source: bytes, given: dict[str, str]) -> Flow:
    if len(destination) != len(source):
        raise BadInput("one address is IPv4, the other IPv6")
    family = 4 if len(destination) == 4 else 6
    flow = Flow(
        source=source,
        destination=destination,
        proto=_protocol(given.get("ipproto", "udp"), family),
        sport=_number("sport", given.get("sport", "0"), 0xFFFF),
        dport=_number("dport", given.get("dport", "0"), 0xFFFF),
        flow_label=_number("flowlabel", given.get("flowlabel", "0"), 0xFFFFF),
    )
    if (flow.sport or flow.dport) and flow.proto not in _WITH_PORTS:
        raise BadInput("only tcp, udp, dccp, sctp and udplite have ports")
    if flow.flow_label and family == 4:
        raise BadInput("IPv4 has no flow label")
    return flow


_LONGEST_PACKET = 1 << 16


def _address(text: str) -> bytes:
    try:
        if "%" in text:  # a zone: no packet carries one
            raise ValueError
        return ipaddress.ip_address(text).packed
    except ValueError:
        raise BadInput(f"{shortened(text)} is not an IP address", f"ask for: {GRAMMAR}") from None


def _protocol(text: str, family: int) -> int:
    if text in PROTOCOLS:
        proto = PROTOCOLS[text]
        return IPPROTO_ICMPV6 if proto == IPPROTO_ICMP and family == 6 else proto
    if re.fullmatch("[0-9]{1,3}", text) and int(text) <= 0xFF:
        return int(text)
    raise BadInput(
        f"ipproto {shortened(text)} is not known", f"use a number, or: {', '.join(PROTOCOLS)}"
    )


def _number(keyword: str, text: str, most: int) -> int:
    value = -1
    if re.fullmatch("0x[0-9a-fA-F]{1,8}|[0-9]{1,10}", text):
        value = int(text, 16 if text.startswith("0x") else 10)
    if not 0 <= value <= most:
        raise BadInput(f"{keyword} {shortened(text)} is not a number from 0 to {most}")
    return value


# --- hex -----------------------------------------------------------------------------------------

MIN_FRAME = 14
MAX_FRAME = 3520
"""What BPF_PROG_TEST_RUN takes: a page without headroom and skb_shared_info."""


def parse_hex(text: str) -> bytes:
    """An Ethernet frame in hexadecimal. Blanks, colons and dashes may stand between the bytes, and
    offsets in front as `tcpdump -XX` has them, though not its text column."""
    digits = re.sub(r"(?m)^\s*0x[0-9a-fA-F]{4}:|[\s:-]", "", text)
    try:
        frame = bytes.fromhex(digits)
    except ValueError:
        wrong = re.search(r"[^0-9a-fA-F]", digits)
        what = f"{shortened(wrong[0])} is no hex digit" if wrong else "an odd number of hex digits"
        raise BadInput(f"not a frame in hex: {what}") from None
    return check_size(frame)


def check_size(frame: bytes) -> bytes:
    """The same frame. Raises BadInput for a size that cannot be tried."""
    if not MIN_FRAME <= len(frame) <= MAX_FRAME:
        raise BadInput(
            f"a frame of {len(frame)} bytes cannot be tried",
            f"it takes {MIN_FRAME} to {MAX_FRAME}: Ethernet header included, checksum not",
        )
    return frame


# --- captures ------------------------------------------------------------------------------------


class Captured(NamedTuple):
    """A packet of a capture."""

    number: int
    """From 1 on, as Wireshark counts."""
    data: bytes
    """As long as it was on the wire; what was not captured is zeros."""
    missing: int
    """How many bytes that is."""
    has_ethernet: bool
    """Otherwise it begins at the IP header."""


_MAGIC = {
    bytes.fromhex("d4c3b2a1"): "<",
    bytes.fromhex("a1b2c3d4"): ">",
    bytes.fromhex("4d3cb2a1"): "<",  # nanoseconds
    bytes.fromhex("a1b23c4d"): ">",
}
_PCAPNG = bytes.fromhex("0a0d0d0a")
_LINK_TYPES = {1: (0, True), 101: (0, False), 113: (16, False), 276: (20, False)}
"""LINKTYPE_ETHERNET, _RAW, _LINUX_SLL and _LINUX_SLL2 (`tcpdump -i any`): bytes to leave out in
front, and whether an Ethernet header is what follows."""


def read_pcap(data: bytes) -> Iterator[Captured]:
    """The packets of a capture in the classic format of libpcap (pcap-savefile(5))."""
    if data[:4] == _PCAPNG:
        raise BadInput("this is pcapng, not pcap", "convert it: tcpdump -r FILE -w FILE.pcap")
    order = _MAGIC.get(data[:4])
    if order is None or len(data) < 24:
        raise BadInput("this is not a pcap file", "capture one: tcpdump -i IFACE -w FILE")
    link_type = struct.unpack_from(f"{order}I", data, 20)[0] & 0x0FFFFFFF
    if link_type not in _LINK_TYPES:
        raise BadInput(
            f"captured on a link of type {link_type}, not Ethernet",
            "capture on an Ethernet device: tcpdump -i IFACE -w FILE",
        )
    skip, has_ethernet = _LINK_TYPES[link_type]
    record, at, number = struct.Struct(f"{order}8xII"), 24, 0
    while at + record.size <= len(data):
        size, length = record.unpack_from(data, at)
        at += record.size
        if at + size > len(data):
            raise BadInput(f"the capture is cut off in packet {number + 1}")
        number += 1
        missing = min(max(length - size, 0), _LONGEST_PACKET)
        yield Captured(number, data[at + skip : at + size] + bytes(missing), missing, has_ethernet)
        at += size
