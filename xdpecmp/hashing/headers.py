"""From one header of a packet to the next: the Python twin of bpf/walk.h and icmp.h.

In the order and with the stops of __skb_flow_dissect() in net/core/flow_dissector.c.
"""

from __future__ import annotations

MAX_HEADERS = 6
"""How many headers the data path walks past, from where a walk starts or goes on (Linux: 15)."""

IP_HEADER = {4: 20, 6: 40}

HOP_BY_HOP = 0
ICMP = 1
IPIP = 4
IPV6 = 41
ROUTING = 43
FRAGMENT = 44
GRE = 47
AH = 51
ICMPV6 = 58
DESTINATION = 60

# Where the four bytes that count as ports stand: proto_ports_offset() in net/core/utils.c.
# TCP, UDP, DCCP, ESP (its SPI), AH (its SPI), SCTP, UDP-Lite.
_PORTS_OFFSET = {6: 0, 17: 0, 33: 0, 50: 0, AH: 4, 132: 0, 136: 0}

ICMP_ERRORS = {4: frozenset({3, 4, 5, 11, 12}), 6: frozenset({1, 2, 3, 4})}
"""icmp_is_err() in include/linux/icmp.h, icmpv6_is_err() in include/linux/icmpv6.h."""
_ICMP_HEADER = 8

_IP_MF_OR_OFFSET = 0x3FFF
_IP_OFFSET = 0x1FFF
_GRE_ROUTING_OR_VERSION = 0x4007
_GRE_OPTIONAL = (0x8000, 0x2000, 0x1000)  # checksum, key, sequence number: four bytes each
_GRE_INNER = {0x0800: 4, 0x86DD: 6}


class Walk:
    """Where a walk through the headers of a packet is.

    Where the data path can't go on though there is more (a header that is cut, too many of them,
    GRE around something else than IP), the walk is `broken` and stays where it is.
    """

    def __init__(self, packet: bytes, start: int, family: int) -> None:
        """Begins behind the IP header at `start`, which is there whole and taken on trust: of a
        quoted one neither the version nor the length of the header is checked."""
        self._packet = packet
        self.label = 0
        """The innermost IPv6 flow label that is not 0."""
        self.is_fragment = False
        """Any fragment, the first one included; in IPv6, any packet with a fragment header."""
        self.is_encapsulated = False
        self.is_broken = False
        self.offset = start
        """Of what comes next; may lie beyond the end of the packet."""
        self._enter(family)

    # --- steps ----------------------------------------------------------------------------------

    def _enter(self, family: int) -> None:
        """Step over the IP header at `offset`."""
        packet, at = self._packet, self.offset
        self.family = family
        self.ip = at
        """Offset of the innermost IP header entered."""
        if family == 4:
            self.proto = packet[at + 9]
            """Of what comes next."""
            self.offset += _ihl_bytes(packet, at)
            self.is_fragment = bool(be16(packet, at + 6) & _IP_MF_OR_OFFSET)
        else:
            self.proto = packet[at + 6]
            self.offset += IP_HEADER[6]
            self.label = be32(packet, at) & 0xFFFFF or self.label

    def _break(self) -> bool:
        self.is_broken = True
        return False

    def _is_at_extension_header(self) -> bool:
        return (
            self.family == 6
            and not self.is_fragment
            and self.proto in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION)
        )

    def _is_at_tunnel(self) -> bool:
        return not self.is_fragment and self.proto in (IPIP, IPV6, GRE)

    def _skip_extension_header(self) -> bool:
        """Past one extension header; whether the walk goes on."""
        if self.is_broken or not self._is_at_extension_header():
            return False
        header = self._packet[self.offset : self.offset + 8]
        if len(header) < (8 if self.proto == FRAGMENT else 2):
            return self._break()
        self.is_fragment = self.proto == FRAGMENT
        self.offset += 8 if self.is_fragment else (header[1] + 1) * 8
        self.proto = header[0]
        return not self.is_fragment

    def _enter_inner(self) -> bool:
        """Into one inner IP packet; whether the walk goes on."""
        if self.is_broken or not self._is_at_tunnel():
            return False
        inner = {IPIP: 4, IPV6: 6}.get(self.proto) or self._pass_gre()
        if not inner:
            return self._break()
        self.is_encapsulated = True
        if not self._has(IP_HEADER[inner]):
            return self._break()
        if inner == 4 and _ihl_bytes(self._packet, self.offset) < IP_HEADER[4]:
            return self._break()
        self._enter(inner)
        return True

    def _pass_gre(self) -> int:
        """Past the GRE header to an IP packet: its family, 0 where there is none."""
        if not self._has(4):
            return 0
        flags, proto = be16(self._packet, self.offset), be16(self._packet, self.offset + 2)
        if flags & _GRE_ROUTING_OR_VERSION or proto not in _GRE_INNER:
            return 0
        self.offset += 4 + 4 * sum(bool(flags & bit) for bit in _GRE_OPTIONAL)
        return _GRE_INNER[proto]

    def _has(self, size: int) -> bool:
        return self.offset + size <= len(self._packet)

    # --- walks ----------------------------------------------------------------------------------

    def to_the_end_of_this_packet(self) -> None:
        """Past the extension headers."""
        for _ in range(MAX_HEADERS):
            if not self._skip_extension_header():
                return
        self.is_broken = self._is_at_extension_header()

    def to_the_innermost_packet(self) -> None:
        """Past the extension headers of that one, too."""
        for _ in range(MAX_HEADERS):
            if not self._skip_extension_header() and not self._enter_inner():
                return
        self.is_broken = self._is_at_extension_header() or self._is_at_tunnel()

    # --- what is there --------------------------------------------------------------------------

    def addresses(self) -> tuple[bytes, bytes]:
        """Source and destination of the IP header entered last."""
        size, at = (4, self.ip + 12) if self.family == 4 else (16, self.ip + 8)
        return self._packet[at : at + size], self._packet[at + size : at + 2 * size]

    def ports(self) -> tuple[int, int]:
        """Source and destination port, or zeros; __skb_flow_get_ports()."""
        if self.is_fragment or self.proto not in _PORTS_OFFSET:
            return 0, 0
        offset = self.offset + _PORTS_OFFSET[self.proto]
        if len(self._packet) < offset + 4:
            return 0, 0
        return be16(self._packet, offset), be16(self._packet, offset + 2)


def quote_offset(packet: bytes, family: int) -> int:
    """Where an ICMP error has the IP header of the packet that it is about; 0 if not there whole.

    ip_multipath_l3_keys() and ip6_multipath_l3_keys(), except that IPv6 extension headers may
    precede, and an authentication header, though no fragment header.
    """
    walk = Walk(packet, 0, family)
    if family == 4:
        is_there = walk.proto == ICMP and not be16(packet, 6) & _IP_OFFSET
    else:
        walk.to_the_end_of_this_packet()
        ah = packet[walk.offset : walk.offset + 8]
        if walk.proto == AH and not walk.is_broken and len(ah) == 8:
            walk.proto = ah[0]
            walk.offset += (ah[1] + 2) * 4  # RFC 4302 counts 32-bit words, minus two
        is_there = walk.proto == ICMPV6 and not walk.is_fragment
    start = walk.offset + _ICMP_HEADER
    if not is_there or len(packet) < start + IP_HEADER[family]:
        return 0
    return start if packet[walk.offset] in ICMP_ERRORS[family] else 0


def trimmed(packet: bytes) -> tuple[bytes, int]:
    """The packet without trailing bytes, and its family; ip_rcv_core() and ip6_rcv_core().

    Raises ValueError where it has no whole header, or lengths that disagree.
    """
    family = packet[0] >> 4 if packet else 0
    if family not in IP_HEADER or len(packet) < IP_HEADER[family]:
        raise ValueError("neither a whole IPv4 nor a whole IPv6 header")
    if family == 4:
        header, length = _ihl_bytes(packet, 0), be16(packet, 2)
    else:
        header, length = IP_HEADER[6], IP_HEADER[6] + be16(packet, 4)
    if not IP_HEADER[family] <= header <= length <= len(packet):
        raise ValueError(f"lengths of the IPv{family} packet disagree")
    return packet[:length], family


def be16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "big")


def be32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")


def _ihl_bytes(packet: bytes, at: int) -> int:
    return (packet[at] & 0x0F) * 4
