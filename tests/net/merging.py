"""Senders whose packets are merged or unfinished, a router, and what comes out of it.

client ── in0, mv0 or br0 ── router ── out ── host
                                   └── tap0, behind which are we
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, Self

from testbed.netns import Namespace, veth
from testbed.waiting import wait_until
from tests.differential import packets as p
from tests.net.small import Small
from tests.net.topology import DEADLINE

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CSUM, TSO4, TSO6, USO4, USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
"""TUN_F_*: what the one behind a tap takes."""
_NEEDS_CSUM = 1
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_ETH_P_ALL = 3
_VNET_HDR = struct.Struct("=BBHHHH")
"""virtio_net_hdr: flags, GSO type, header length, GSO size, start and place of the checksum."""

AF = {4: socket.AF_INET, 6: socket.AF_INET6}
CLIENT = {4: "10.8.0.2", 6: "2001:db8:8::2"}
HOST = {4: "10.9.0.2", 6: "2001:db8:9::2"}
ROUTER = {4: ("10.8.0.1/24", "10.9.0.1/24"), 6: ("2001:db8:8::1/64", "2001:db8:9::1/64")}
"""Its addresses towards the client and the host."""
PORT = 5353


class Packet(NamedTuple):
    """A TCP or UDP packet of the client's as it left the router."""

    ttl: int
    payload: bytes
    merged: bool
    """Whether it comes with word of what it was merged of."""


def parse(data: bytes) -> Packet | None:
    """One behind a virtio_net_hdr, None for others; its checksum must be right, unless the header
    says that it is unfinished."""
    flags, gso, *_ = _VNET_HDR.unpack_from(data)
    frame = data[_VNET_HDR.size :]
    ethertype, l3 = int.from_bytes(frame[12:14], "big"), frame[14:]
    if ethertype == p.ETHERTYPE[4]:
        ttl, proto, at, addresses = l3[8], l3[9], 20, l3[12:20]
        length = int.from_bytes(l3[2:4], "big")
    elif ethertype == p.ETHERTYPE[6]:
        ttl, proto, at, addresses = l3[7], l3[6], 40, l3[8:40]
        length = 40 + int.from_bytes(l3[4:6], "big")
    else:
        return None
    clients = [socket.inet_pton(AF[family], text) for family, text in CLIENT.items()]
    if proto not in (p.UDP, p.TCP) or addresses[: len(addresses) // 2] not in clients:
        return None
    l4 = l3[at:length]
    assert len(l3) >= length, f"cut: {frame.hex()}"
    if not flags & _NEEDS_CSUM:
        pseudo = addresses + struct.pack("!II", len(l4), proto)
        assert p.total(pseudo + l4) == 0xFFFF, f"wrong checksum: {frame.hex()}"
    if proto == p.TCP:
        return Packet(ttl, l4[(l4[12] >> 4) * 4 :], bool(gso))
    assert int.from_bytes(l4[4:6], "big") == len(l4), f"wrong length: {frame.hex()}"
    return Packet(ttl, l4[8:], bool(gso))


class Merging(Small):
    """The router; the client is in `peer`."""

    def __enter__(self) -> Self:
        super().__enter__()
        with ExitStack() as undo:
            undo.push(super().__exit__)
            self.host = undo.enter_context(Namespace("host"))
            self._taps = undo.enter_context(ExitStack())
            veth(self.ns, "out", self.host, "out")
            self.host.run("ethtool", "-K", "out", "gro", "off")  # or it merges what comes out
            for family, bits in ((4, 24), (6, 64)):
                for space, name, address, router in (
                    (self.peer, "in0", CLIENT[family], ROUTER[family][0]),
                    (self.host, "out", HOST[family], ROUTER[family][1]),
                ):
                    space.ip(f"addr add {address}/{bits} dev {name}")
                    space.ip(f"-{family} route add default via {router.split('/')[0]}")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.__exit__(None, None, None)

    def open_tap(self, offloads: int) -> int:
        """Make `tap0`; the one behind it takes these offloads."""
        with self.ns.enter():
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            self._taps.callback(os.close, tap)
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"tap0", flags))
            fcntl.ioctl(tap, _TUNSETOFFLOAD, offloads)
        self.ns.ip("link set tap0 up")
        return tap

    def connect(self, ingress: str, egress: str) -> None:
        """Have packets come in and leave by these."""
        if ingress == "mv0":
            self.ns.ip("link add mv0 link in0 type macvlan mode bridge")
        if ingress == "br0":
            self.ns.ip("link add br0 type bridge")
            self.ns.ip("link set in0 master br0")
        self.ns.ip(f"link set {ingress} up")
        for family, (towards_client, towards_host) in ROUTER.items():
            self.ns.ip(f"-{family} addr add {towards_client} dev {ingress}")
            self.ns.ip(f"-{family} addr add {towards_host} dev {egress}")
            # for good, so that the first packet needs not wait
            for space, name, address, mac in (
                (self.ns, egress, HOST[family], _mac(self.host, "out")),
                (self.peer, "in0", towards_client.split("/")[0], _mac(self.ns, ingress)),
                (self.ns, ingress, CLIENT[family], _mac(self.peer, "in0")),
                (self.host, "out", towards_host.split("/")[0], _mac(self.ns, egress)),
            ):
                space.ip(f"neigh replace {address} lladdr {mac} dev {name} nud permanent")

    @contextmanager
    def far(self, tap: int | None) -> Iterator[Far]:
        """What comes out of the tap or, without one, of `out`."""
        with ExitStack() as undo:
            if tap is None:
                with self.host.enter():
                    wire = socket.socket(
                        socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
                    )
                undo.callback(wire.close)
                wire.bind(("out", _ETH_P_ALL))
                wire.setblocking(False)
                wire.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
                wire.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                tap = wire.fileno()
            yield Far(tap)

    def server(self, kind: socket.SocketKind, family: int) -> socket.socket:
        """A socket of the host's."""
        with self.host.enter():
            made = socket.socket(AF[family], kind)
        made.bind((HOST[family], PORT))
        made.settimeout(DEADLINE)
        return made

    def client(self, kind: socket.SocketKind, family: int) -> socket.socket:
        with self.peer.enter():
            made = socket.socket(AF[family], kind)
        made.settimeout(DEADLINE)
        return made


class Far:
    """Reads what has come."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._found: list[Packet] = []

    def packets(self) -> list[Packet]:
        """All so far."""
        with suppress(BlockingIOError):
            while True:
                packet = parse(os.read(self._descriptor, 1 << 17))
                if packet is not None:
                    self._found.append(packet)
        return self._found

    def wait_for(self, size: int) -> list[Packet]:
        """Until so many bytes of payload are there."""
        wait_until(
            lambda: sum(len(packet.payload) for packet in self.packets()) >= size,
            f"{size} bytes of payload",
            DEADLINE,
        )
        return self._found


def _mac(space: Namespace, name: str) -> str:
    words = space.ip(f"-o link show {name}").split()
    return words[words.index("link/ether") + 1]
