"""Random layers of packets: transports, fragments, tunnels, IPv6 headers, ICMP errors."""

from __future__ import annotations

import random
from typing import Any

from tests.differential import packets as p

_COMMON = (p.TCP, p.UDP)
_OTHER = (p.DCCP, p.ESP, p.AH, p.SCTP, p.UDPLITE, p.NO_NEXT, 2, 89, 103, 112, 253)
_DF, _MF = 0x4000, 0x2000
_GRE_CHECKSUM, _GRE_ROUTING, _GRE_KEY, _GRE_SEQUENCE = 0x8000, 0x4000, 0x2000, 0x1000


class Layers:
    """Everything is drawn from one random number generator."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def ip(self, family: int, proto: int, payload: bytes, **fields: Any) -> bytes:
        """A packet whose TTL, TOS, identification and flow label are random unless given."""
        rng = self._rng
        addresses = (fields.pop("source"), fields.pop("destination"))
        values: dict[str, Any] = {"ttl": rng.choice((64, 64, 255, 2, rng.randrange(2, 256)))}
        values["tos"] = rng.choice((0, 0, 0x10, rng.getrandbits(8)))
        if family == 4:
            values |= {"ident": rng.getrandbits(16), "fragment": rng.choice((0, _DF))}
            return p.ipv4(*addresses, proto, payload, **values | fields)
        values["label"] = rng.choice((0, rng.getrandbits(20)))
        return p.ipv6(*addresses, proto, payload, **values | fields)

    def address(self, family: int) -> bytes:
        return self._rng.randbytes(4 if family == 4 else 16)

    # --- transport --------------------------------------------------------------------------------

    def transport(self, family: int, least: int = 0) -> tuple[int, bytes]:
        """A protocol and its header and payload, at least so many bytes, sometimes hardly any."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.1:
            icmp = bytes([rng.choice((8, 0) if family == 4 else (128, 129)), 0])
            return (p.ICMP if family == 4 else p.ICMPV6), icmp + rng.randbytes(6 + least)
        proto = rng.choice(_COMMON if kind < 0.7 else _OTHER)
        size = rng.choice((8, 12, 20, 21, 40, rng.randrange(9)))
        ports = rng.randbytes(4)
        if rng.random() < 0.1:  # equal, or alike in one byte: the order of ports matters
            ports = ports[:2] * 2
        return proto, (ports + rng.randbytes(size))[: max(size, least)]

    def fragment(
        self, family: int, proto: int, payload: bytes
    ) -> tuple[int, bytes, dict[str, int]]:
        """The first, a middle or the last fragment: protocol, payload and fields of the header."""
        rng = self._rng
        offset, more = rng.choice(((0, 1), (1, 1), (185, 1), (185, 0), (1, 0), (0, 0)))
        if family == 4:
            return proto, payload, {"fragment": (_MF if more else 0) | offset}
        header = p.fragment_header(offset, more, rng.getrandbits(32))
        return *p.chain([header], proto, payload), {}

    # --- headers on the way -----------------------------------------------------------------------

    def options4(self) -> bytes:
        """IPv4 options, mostly right."""
        rng = self._rng
        return rng.choice(
            (
                bytes(4),
                b"\x01\x01\x01\x00",
                b"\x07\x07\x04\x00\x00\x00\x00\x00",  # record route
                b"\x44\x04\x05\x00",  # timestamp, full: a router but counts
                b"\x94\x04\x00\x00",  # router alert
                b"\x83\x07\x04\x0a\x00\x01\x10\x00",  # loose source route
                rng.randbytes(4),
            )
        )

    def extension_headers(self) -> list[p.Extension]:
        """From none to more than anyone walks."""
        rng = self._rng
        headers = []
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4, 5, 6, 7, 8))):
            kind = rng.random()
            if kind < 0.6:
                headers.append(p.options_header(p.DESTINATION, rng.choice((0, 0, 1, 3))))
            elif kind < 0.75:
                headers.append(p.ah(rng.getrandbits(32), rng.choice((1, 4))))
            elif kind < 0.9:
                offset = rng.choice((0, 0, 100))
                headers.append(p.fragment_header(offset, rng.randrange(2), rng.getrandbits(32)))
            elif kind < 0.95:
                headers.append(p.routing_header(rng.randrange(2)))
            else:
                headers.append(p.options_header(p.HOP_BY_HOP))
        return headers

    def headers_before_icmp(self) -> list[p.Extension]:
        """What an ICMPv6 error may be behind, and still be known as one."""
        rng = self._rng
        sizes = [rng.choice((0, 1)) for _ in range(rng.randrange(3))]
        headers = [p.options_header(p.DESTINATION, size) for size in sizes]
        if not headers or rng.random() < 0.3:
            headers.append(p.ah(rng.getrandbits(32)))
        return headers

    def tunnel(self, depth: int) -> tuple[int, bytes]:
        """IP in IP or in GRE: the outer protocol and what is behind its header."""
        rng = self._rng
        family = rng.choice((4, 6))
        if depth > 1:
            proto, payload = self.tunnel(depth - 1)
        else:
            proto, payload = self.transport(family)
        fields: dict[str, Any] = {}
        kind = rng.random()
        if kind < 0.15:
            proto, payload, fields = self.fragment(family, proto, payload)
        elif kind < 0.25 and family == 4:
            fields = {"options": self.options4()}
        elif kind < 0.35 and family == 6:
            proto, payload = p.chain(self.extension_headers()[:3], proto, payload)
        ends = {"source": self.address(family), "destination": self.address(family)}
        packet = self.ip(family, proto, payload, **ends, **fields)
        return self.wrap(family, packet, odd=rng.random() < 0.05)

    def wrap(self, family: int, packet: bytes, odd: bool = False) -> tuple[int, bytes]:
        """What carries this packet: its number as a protocol, or GRE with any of its fields; `odd`:
        GRE with routing, of another version, or saying that it carries something else."""
        rng = self._rng
        if not odd and rng.random() < 0.5:
            return (p.IPIP if family == 4 else p.IPV6), packet
        flags = sum(rng.choice((0, bit)) for bit in (_GRE_CHECKSUM, _GRE_KEY, _GRE_SEQUENCE))
        fields = rng.randbytes(4 * flags.bit_count())
        proto = p.ETHERTYPE[family]
        if odd:
            flags |= rng.choice((0, _GRE_ROUTING, 1))
            proto = rng.choice((proto, 0x6558, 0x880B, 0x1234))
        return p.GRE, p.gre(proto, packet, flags, fields)

    # --- ICMP errors ------------------------------------------------------------------------------

    def error(self, family: int, quote: bytes) -> tuple[int, bytes]:
        """An ICMP error about a packet: protocol and message."""
        rng = self._rng
        message = bytes([rng.choice(p.ERRORS[family]), rng.choice((0, 1, 4))]) + rng.randbytes(6)
        return (p.ICMP if family == 4 else p.ICMPV6), message + quote

    def both_ways(self, family: int, client: bytes, server: bytes) -> tuple[bytes, bytes]:
        """A packet from client to server, and what an ICMP error quotes of an answer to it: with at
        least eight bytes of the innermost transport.

        Without ESP and AH: their SPIs are other ones each way, so no quote tells the flow.
        """
        rng = self._rng
        proto = rng.choice((p.TCP, p.UDP, p.UDP, p.SCTP, p.DCCP, 89))
        ports = rng.randbytes(4)
        label = rng.choice((0, rng.getrandbits(20)))  # as a server has it that reflects labels
        tail = rng.randbytes(rng.choice((0, 4, 40)))
        payloads = [four + bytes(4) + tail for four in (ports, ports[2:] + ports[:2])]
        ways = [(proto, payload) for payload in payloads]
        kind = rng.random()
        options: dict[str, Any] = {}
        if kind < 0.25:  # a flow inside of a tunnel between the same two
            ways = self._tunnelled(ways, label)
        elif kind < 0.35:
            state = rng.getstate()
            fragments = []
            for way in ways:
                rng.setstate(state)
                number, payload, options = self.fragment(family, *way)
                fragments.append((number, payload))
            ways = fragments
        elif kind < 0.45 and family == 6:
            header = p.options_header(p.DESTINATION, rng.choice((0, 2)))
            ways = [p.chain([header], *way) for way in ways]
        fields: dict[str, Any] = {"label": label} if family == 6 else {"fragment": 0} | options
        forth = self.ip(family, *ways[0], source=client, destination=server, **fields)
        if kind > 0.9 and family == 4:
            fields |= {"options": self.options4()}  # of which no key takes any notice
        back = self.ip(family, *ways[1], source=server, destination=client, **fields)
        return forth, back[: len(back) - rng.choice((0, len(tail)))]

    def _tunnelled(self, ways: list[tuple[int, bytes]], label: int) -> list[tuple[int, bytes]]:
        """Both directions behind the same inner headers."""
        rng, family = self._rng, self._rng.choice((4, 6))
        ends = [self.address(family), self.address(family)]
        fields: dict[str, Any] = {"label": label} if family == 6 else {"fragment": 0}
        state = rng.getstate()
        wrapped = []
        for way in ways:
            rng.setstate(state)
            packet = self.ip(family, *way, source=ends[0], destination=ends[1], **fields)
            wrapped.append(self.wrap(family, packet))
            ends.reverse()
        return wrapped
