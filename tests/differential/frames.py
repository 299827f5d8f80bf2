"""Random frames of every kind for a design, each told apart by its addresses.

No two frames of a round have the same source and destination address, so whatever comes out of the
router belongs to one of them. An ICMP error comes with a packet of the flow that it is about, and
`Frame.flow` says which: both must leave by the same path.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network

from tests.differential import packets as p
from tests.differential.design import (
    DEVICES,
    PASSED,
    ROUTER_MAC,
    SENDER_MAC,
    SOURCES,
    Design,
    Target,
)
from tests.differential.layers import Layers

Key = tuple[bytes, bytes]
"""Source and destination address."""


def key_of(l3: bytes) -> Key | None:
    """The addresses of an IP packet, None where they aren't there."""
    family = l3[0] >> 4 if l3 else 0
    if family == 4 and len(l3) >= 20:
        return l3[12:16], l3[16:20]
    if family == 6 and len(l3) >= 40:
        return l3[8:24], l3[24:40]
    return None


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame to put on the wire."""

    data: bytes
    l3: bytes
    """From the IP header on, without padding."""
    kind: str
    flow: int | None = None
    """For an ICMP error: the number of the frame that is its flow's."""
    unfinished: int = 0
    """Where the L4 header begins whose checksum is said to be unfinished, 0 = nothing is said."""
    segment: int = 0
    """For a UDP packet that a socket sends, and the kernel is to split: bytes of payload in each
    part, 0 = this is none."""


class Frames:
    """Draws the frames of a round."""

    def __init__(self, made: Design, rng: random.Random) -> None:
        self._rng = rng
        self._layers = Layers(rng)
        self._targets = {
            family: self._weighted([t for t in made.targets if t.family == family])
            for family in (4, 6)
        }
        # a veth's native XDP leaves tunnels to Linux, every one of them: see walk.h
        tunnels = 4 if made.mode == "native" else 16
        # and a native program has the far end split what was merged: veth_fix_features()
        merged = 0 if made.mode == "native" else 6
        self._kinds: list[tuple[str, int, Callable[[int], None]]] = [
            ("plain", 42, self._plain),
            ("fragment", 7, self._fragment),
            ("extension", 8, self._extension),
            ("error", 7, self._error),
            ("tunnel", tunnels, self._tunnel),
            ("big", 3, self._big),
            ("hop count", 3, self._hop_count),
            ("length", 4, self._length),
            ("checksum", 3, self._checksum),
            ("source", 4, self._source),
            ("destination", 3, self._destination),
            ("link layer", 4, self._link_layer),
            ("partial checksum", 1, self._partial),
            ("unfinished", 3, self._unfinished),
            ("merged", merged, self._merged),
            ("stub quote", 1, self._stub_quote),
            ("cut tunnel quote", 1, self._cut_tunnel_quote),
            ("mutated", 6, self._mutated),
        ]
        self._keys: set[Key] = set()
        self.frames: list[Frame] = []

    @staticmethod
    def _weighted(targets: list[Target]) -> list[Target]:
        """A multipath route is of more interest than the others."""
        return [target for target in targets for _ in range(6 if target.multipath else 1)]

    def draw(self, count: int) -> list[Frame]:
        """So many frames, or one more."""
        names = range(len(self._kinds))
        weights = [weight for _, weight, _ in self._kinds]
        while len(self.frames) < count:
            (number,) = self._rng.choices(names, weights)
            self._kinds[number][2](self._rng.choice((4, 6)))
        return self.frames

    # --- adding -----------------------------------------------------------------------------------

    def _add(
        self,
        kind: str,
        l3: bytes,
        flow: int | None = None,
        head: bytes | None = None,
        padding: bytes | None = None,
        unfinished: int = 0,
        segment: int = 0,
    ) -> int | None:
        """The number of the frame, None where another one has the same addresses."""
        key = key_of(l3)
        if key is not None:
            if key in self._keys:
                return None
            self._keys.add(key)
        family = l3[0] >> 4
        if head is None:
            ethertype = p.ETHERTYPE.get(family, 0x0800)
            head = ROUTER_MAC + SENDER_MAC + ethertype.to_bytes(2, "big")
        if padding is None:
            padding = self._rng.randbytes(self._rng.choice((0, 0, 0, 1, 6, 30)))
        if len(l3) + len(padding) > 1500:
            padding = b""
        data = head + l3 + padding
        self.frames.append(Frame(data, l3, f"v{family} {kind}", flow, unfinished, segment))
        return len(self.frames) - 1

    def _client(self, family: int) -> bytes:
        return self._within(SOURCES[family].with_prefixlen)

    def _target(self, family: int) -> bytes:
        return self._within(self._rng.choice(self._targets[family]).prefix)

    def _within(self, prefix: str) -> bytes:
        network = ip_network(prefix)
        host = self._rng.getrandbits(32 if network.version == 4 else 128) & int(network.hostmask)
        return (int(network[0]) | host).to_bytes(network.max_prefixlen // 8, "big")

    def _packet(self, family: int, **fields: object) -> bytes:
        """A packet of any protocol."""
        proto, payload = self._layers.transport(family)
        return self._ip(family, proto, payload, **fields)

    def _ip(self, family: int, proto: int, payload: bytes, **fields: object) -> bytes:
        values = {"source": self._client(family), "destination": self._target(family)} | fields
        return self._layers.ip(family, proto, payload, **values)

    # --- kinds ------------------------------------------------------------------------------------

    def _plain(self, family: int) -> None:
        self._add("plain", self._packet(family))

    def _fragment(self, family: int) -> None:
        proto, payload = self._layers.transport(family)
        proto, payload, fields = self._layers.fragment(family, proto, payload)
        self._add("fragment", self._ip(family, proto, payload, **fields))

    def _extension(self, family: int) -> None:
        """IPv4 options; IPv6 extension headers."""
        proto, payload = self._layers.transport(family)
        if family == 4:
            options = self._layers.options4()
            self._add("options", self._ip(4, proto, payload, options=options))
            return
        first, rest = p.chain(self._layers.extension_headers(), proto, payload)
        if self._rng.random() < 0.1:  # cut inside of the chain
            rest = rest[: self._rng.randrange(len(rest) + 1)]
        self._add("extension headers", self._ip(6, first, rest))

    def _tunnel(self, family: int) -> None:
        proto, payload = self._layers.tunnel(depth=self._rng.choice((1, 1, 1, 2, 3)))
        if self._rng.random() < 0.1:
            payload = payload[: self._rng.randrange(len(payload))]
        self._add("tunnel", self._ip(family, proto, payload))

    def _packet_to_mutate(self, family: int) -> bytes:
        """One with headers behind headers as often as not."""
        kind = self._rng.random()
        if kind < 0.3:
            return self._ip(family, *self._layers.tunnel(depth=1))
        if kind < 0.5 and family == 6:
            headers = self._layers.extension_headers()[:3]
            return self._ip(6, *p.chain(headers, *self._layers.transport(6)))
        return self._packet(family)

    def _big(self, family: int) -> None:
        size = self._rng.randrange(1100, 1481 if family == 4 else 1461)
        fields = {"fragment": self._rng.choice((0, 0x4000))} if family == 4 else {}
        self._add("big", self._ip(family, p.UDP, self._rng.randbytes(size), **fields))

    def _hop_count(self, family: int) -> None:
        ttl = self._rng.choice((0, 1, 2, 3, 255))
        self._add(f"hop count {ttl}", self._packet(family, ttl=ttl))

    def _length(self, family: int) -> None:
        """A length field that is short, so that the rest is padding, or wrong."""
        rng, proto, payload = self._rng, *self._layers.transport(family)
        head = 20 if family == 4 else 0
        real = head + len(payload)
        length = rng.choice((rng.randrange(real + 1), real + rng.randrange(1, 9), 0, head))
        l3 = self._ip(family, proto, payload, length=length)
        if rng.random() < 0.3:  # and a frame that ends early
            l3 = l3[: rng.randrange(1, len(l3))]
            if key_of(l3) is None:  # so early that nothing tells it apart: nothing can come of it
                self._add("cut header", l3, padding=b"")
                return
        self._add("length", l3)

    def _checksum(self, family: int) -> None:
        """At the corners of one's complement arithmetic; and wrong."""
        if family == 6:
            self._plain(6)
            return
        proto, payload = self._layers.transport(4)
        wanted = self._rng.choice((0, 0xFFFF, 0xFFFE, 0xFEFF, 0xFEFE, 0xFF00, 0xFDFF, 0xFF))
        l3 = self._ip(4, proto, payload, checksum=wanted)
        if self._rng.random() < 0.3:
            l3 = l3[:10] + self._rng.randbytes(2) + l3[12:]
        self._add("checksum", l3)

    def _source(self, family: int) -> None:
        """Martian, link-local, the router's own, a subnet's broadcast, or from another side."""
        device = self._rng.randrange(len(DEVICES))
        prefixes = (
            "0.0.0.0/8 127.0.0.0/8 224.0.0.0/4 240.0.0.0/4 169.254.0.0/16 255.255.255.255/32 "
            f"10.0.{device}.1/32 10.0.{device}.255/32 10.0.{device}.0/28 50.1.0.0/16 88.0.0.0/8"
            if family == 4
            else "::/96 ::ffff:0:0/96 ff00::/8 fe80::/10 fec0::/10 64:ff9b::/96 ::1/128 2002::/16 "
            f"2001:db8:{device}::1/128 2001:db8:{device}::/124 2001:db8:1001::/48 3fff::/20"
        ).split()
        source = self._within(self._rng.choice(prefixes))
        self._add("source", self._packet(family, source=source))

    def _destination(self, family: int) -> None:
        """Multicast, broadcast, loopback, the router itself, back where it came from, nowhere."""
        device = self._rng.randrange(len(DEVICES))
        prefixes = (
            "0.0.0.0/8 127.0.0.0/8 224.0.0.0/4 240.0.0.0/4 169.254.0.0/16 255.255.255.255/32 "
            f"10.0.{device}.1/32 10.0.{device}.255/32 10.0.{device}.16/28 11.0.0.0/9 88.0.0.0/8"
            if family == 4
            else "::/96 ::ffff:0:0/96 ff00::/8 fe80::/10 fec0::/10 3fff::/20 2001:db8:c::/48 "
            f"2001:db8:{device}::1/128 2001:db8:{device}::/128 2001:db8:{device}::10/124"
        ).split()
        destination = self._within(self._rng.choice(prefixes))
        self._add("destination", self._packet(family, destination=destination))

    def _link_layer(self, family: int) -> None:
        rng, l3 = self._rng, self._packet(family)
        ethertype = p.ETHERTYPE[family].to_bytes(2, "big")
        other = rng.choice((b"\xff" * 6, bytes.fromhex("0100 5e00 0001"), rng.randbytes(6)))
        tags = b"\x81\x00" + (rng.choice((0, 0, 5)) | rng.randrange(8) << 13).to_bytes(2, "big")
        wrong = rng.choice((0x0806, 0x8847, 0x0026, p.ETHERTYPE[10 - family])).to_bytes(2, "big")
        heads = [
            ("MAC", other + SENDER_MAC + ethertype),
            ("MAC", ROUTER_MAC + rng.choice((other, bytes(6))) + ethertype),
            ("ethertype", ROUTER_MAC + SENDER_MAC + wrong),
            ("tag", ROUTER_MAC + SENDER_MAC + tags + ethertype),
            ("tags", ROUTER_MAC + SENDER_MAC + b"\x88\xa8\x00\x07" + tags + ethertype),
        ]
        kind, head = rng.choice(heads)
        self._add(kind, l3, head=head)

    def _partial(self, family: int) -> None:
        """A checksum as a veth's peer leaves it for hardware: the sum over the pseudo-header."""
        self._add("partial checksum", self._partial_packet(family))

    def _unfinished(self, family: int) -> None:
        """The same, and the kernel knows it."""
        l3 = self._partial_packet(family)
        start = 14 + p.IP_HEADER[family]
        self._add("unfinished", l3, padding=b"", unfinished=start)

    def _merged(self, family: int) -> None:
        """Datagrams that a socket hands over as one, often less than an MTU together."""
        rng = self._rng
        segment = rng.choice((100, 400, 512, rng.randrange(1, 600)))
        size = min(segment * rng.randrange(1, 4) + rng.randrange(1, segment + 1), 1900)
        ports, body = rng.choice((1000, 2000)), rng.randbytes(size)
        head = ports.to_bytes(2, "big") + b"\x14\xe9" + (8 + size).to_bytes(2, "big") + bytes(2)
        ends = {"source": self._client(family), "destination": self._target(family)}
        l3 = self._ip(family, p.UDP, head + body, **ends)
        self._add("merged", l3, padding=b"", segment=segment)

    def _partial_packet(self, family: int) -> bytes:
        source, destination = self._client(family), self._target(family)
        proto = self._rng.choice((p.TCP, p.UDP))
        size = 8 if proto == p.UDP else 20
        body = self._rng.randbytes(self._rng.randrange(4, 32) * 2)
        length = size + len(body)
        pseudo = source + destination + bytes([0, proto]) + length.to_bytes(2, "big")
        summed = p.total(pseudo).to_bytes(2, "big")
        if proto == p.UDP:
            head = self._rng.randbytes(4) + length.to_bytes(2, "big") + summed
        else:
            head = (
                self._rng.randbytes(12) + b"\x50\x10" + self._rng.randbytes(2) + summed + bytes(2)
            )
        return self._ip(family, proto, head + body, source=source, destination=destination)

    def _mutated(self, family: int) -> None:
        """Some bits of the headers flipped; the IPv4 checksum mostly put right again."""
        rng, l3 = self._rng, bytearray(self._packet_to_mutate(family))
        untouched = range(12, 20) if family == 4 else range(8, 40)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(min(len(l3), 120))
            if at not in untouched:
                l3[at] ^= 1 << rng.randrange(8)
        whole = bytes(l3)
        head = ROUTER_MAC + SENDER_MAC + p.ETHERTYPE[family].to_bytes(2, "big")
        if family == 4 and rng.random() < 0.9:
            whole = p.with_good_checksum(whole)
        if key_of(whole) is not None:
            self._add("mutated", whole, head=head)

    # --- ICMP errors ------------------------------------------------------------------------------

    def _error(self, family: int) -> None:
        """A packet of a flow, and an ICMP error about the flow's answer."""
        rng, layers = self._rng, self._layers
        target = rng.choice(self._targets[family])
        if target.kind in PASSED:
            return
        client, server = self._client(family), self._within(target.prefix)
        forth, quote = layers.both_ways(family, client, server)
        flow = self._add("flow", forth)
        if flow is None:
            return
        proto, payload = layers.error(family, quote)
        if family == 6 and rng.random() < 0.3:
            proto, payload = p.chain(layers.headers_before_icmp(), proto, payload)
        # by a router that isn't ours: see _local() in routers.py
        _, elsewhere = SOURCES[family].subnets()
        ends = {"source": self._within(str(elsewhere)), "destination": server}
        self._add("error", self._ip(family, proto, payload, **ends), flow)

    def _stub_quote(self, family: int) -> None:
        """An error that quotes less than an IP header: hashed like any other packet."""
        quote = self._packet(family)[: self._rng.randrange(p.IP_HEADER[family])]
        proto, payload = self._layers.error(family, quote)
        self._add("stub quote", self._ip(family, proto, payload))

    def _cut_tunnel_quote(self, family: int) -> None:
        """A quoted tunnel's packet of which the inner headers are not there whole."""
        inner_proto, inner = self._layers.tunnel(depth=1)
        server = self._target(family)
        quote = self._ip(family, inner_proto, inner[: self._rng.randrange(8, 20)], source=server)
        proto, payload = self._layers.error(family, quote)
        self._add("cut tunnel quote", self._ip(family, proto, payload, destination=server))
