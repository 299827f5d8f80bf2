"""From one header of a packet to the next: the reference model of bpf/walk.h and icmp.h.

In the order of __skb_flow_dissect() in net/core/flow_dissector.c, and stopping at the same headers.
Which of the fields count for a hash is not decided here: see `keys`.
"""

from __future__ import annotations

MAX_HEADERS = 6
"""How many headers one call of `pass_extension_headers` or `go_to_innermost` passes (Linux: 15)."""

IP_HEADER = {4: 20, 6: 40}
"""Bytes of the fixed header, by family."""

HOP_BY_HOP = 0
ICMP = 1
IPIP = 4
TCP = 6
UDP = 17
DCCP = 33
IPV6 = 41
ROUTING = 43
FRAGMENT = 44
GRE = 47
ESP = 50
AH = 51
ICMPV6 = 58
DESTINATION = 60
SCTP = 132
UDPLITE = 136

_PORTS_OFFSET = {TCP: 0, UDP: 0, DCCP: 0, ESP: 0, AH: 4, SCTP: 0, UDPLITE: 0}
"""Offset of the four bytes that count as ports, the SPI of ESP and AH: proto_ports_offset() in
net/core/utils.c."""

ICMP_ERRORS = {4: frozenset({3, 4, 5, 11, 12}), 6: frozenset({1, 2, 3, 4})}
"""icmp_is_err() in include/linux/icmp.h, icmpv6_is_err() in include/linux/icmpv6.h."""
_ICMP_HEADER = 8
_FRAGMENT_HEADER = 8

_IP_MF_OR_OFFSET = 0x3FFF
_IP_OFFSET = 0x1FFF
_GRE_ROUTING_OR_VERSION = 0x4007
_GRE_OPTIONAL = (0x8000, 0x2000, 0x1000)  # checksum, key, sequence number: four bytes each
_GRE_INNER = {0x0800: 4, 0x86DD: 6}


class Walk:
    """A walk through the headers of a packet, and what it has found so far.

    If the data path cannot go on though there are more headers (a truncated one, too many of them,
    GRE around something other than IP), the walk is broken and does not move any more.
    """

    def __init__(self, packet: bytes, start: int, family: int) -> None:
        """Begins behind the IP header at `start`, whose fixed part must be complete. Neither its
        version nor its length is checked: Linux does not check those of a quoted one."""
        self._packet = packet
        self.label = 0
        """The innermost IPv6 flow label that is not 0."""
        self.is_fragment = False
        """Any fragment, the first one included; in IPv6, any packet with a fragment header."""
        self.is_encapsulated = False
        self.is_broken = False
        self.offset = start
        """Of the next header; may be beyond the end of the packet."""
        self._enter(family)

    # --- steps ----------------------------------------------------------------------------------

    def _enter(self, family: int) -> None:
        """Step over the IP header at `offset`."""
        packet, at = self._packet, self.offset
        self.family = family
        self.ip = at
        """Offset of the innermost IP header so far."""
        if family == 4:
            self.proto = packet[at + 9]
            """Of the next header."""
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
        """Passes one extension header, if the next header is one. Whether the walk goes on."""
        if self.is_broken or not self._is_at_extension_header():
            return False
        header = self._packet[self.offset : self.offset + _FRAGMENT_HEADER]
        if len(header) < (_FRAGMENT_HEADER if self.proto == FRAGMENT else 2):
            return self._break()
        self.is_fragment = self.proto == FRAGMENT
        self.offset += _FRAGMENT_HEADER if self.is_fragment else (header[1] + 1) * 8
        self.proto = header[0]
        return not self.is_fragment

    def _enter_inner(self) -> bool:
        """Enters one inner IP packet, if there is one. Whether the walk goes on."""
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
        """Passes the GRE header before an IP packet, and returns its family; 0 if there is none."""
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

    def pass_extension_headers(self) -> None:
        """Passes all extension headers of this IP header."""
        for _ in range(MAX_HEADERS):
            if not self._skip_extension_header():
                return
        self.is_broken = self._is_at_extension_header()

    def go_to_innermost(self) -> None:
        """Goes to the innermost IP packet, and passes its extension headers."""
        for _ in range(MAX_HEADERS):
            if not self._skip_extension_header() and not self._enter_inner():
                return
        self.is_broken = self._is_at_extension_header() or self._is_at_tunnel()

    # --- what was found --------------------------------------------------------------------------

    def addresses(self) -> tuple[bytes, bytes]:
        """Source and destination of the IP header entered last, packed."""
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
    """Offset of the IP header that an ICMP error quotes; 0 if that is not complete, or `packet` no
    ICMP error.

    ip_multipath_l3_keys() and ip6_multipath_l3_keys(), except that IPv6 extension headers and an
    authentication header may precede, but no fragment header.
    """
    walk = Walk(packet, 0, family)
    if family == 4:
        is_icmp = walk.proto == ICMP and not be16(packet, 6) & _IP_OFFSET
    else:
        walk.pass_extension_headers()
        ah = packet[walk.offset : walk.offset + 8]
        if walk.proto == AH and not walk.is_broken and len(ah) == 8:
            walk.proto = ah[0]
            walk.offset += (ah[1] + 2) * 4  # RFC 4302 counts 32-bit words, minus two
        is_icmp = walk.proto == ICMPV6 and not walk.is_fragment
    start = walk.offset + _ICMP_HEADER
    if not is_icmp or len(packet) < start + IP_HEADER[family]:
        return 0
    return start if packet[walk.offset] in ICMP_ERRORS[family] else 0


def trimmed(packet: bytes) -> tuple[bytes, int]:
    """The packet without trailing bytes, and its family; ip_rcv_core() and ip6_rcv_core().

    Raises ValueError if the header is not complete, or lengths disagree.
    """
    family = packet[0] >> 4 if packet else 0
    if family not in IP_HEADER or len(packet) < IP_HEADER[family]:
        raise ValueError("no complete IPv4 or IPv6 header")
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
