"""A tap with a VM behind it, which leaves checksums for hardware that isn't there."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from testbed.waiting import PATIENCE
from tests.net.small import Small

pytestmark = pytest.mark.root

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_NEEDS_CSUM = 1
_VNET_HDR = struct.Struct("=BBHHHH")
"""virtio_net_hdr: flags, GSO type, header length, GSO size, start and place of the checksum."""
_PORT = 5353


class Vm:
    """What a VM does to its tap: it writes packets, with a virtio_net_hdr in front."""

    def __init__(self, router: Small, undo: ExitStack) -> None:
        with router.ns.enter():
            self._tap = os.open("/dev/net/tun", os.O_RDWR)
            undo.callback(os.close, self._tap)
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(self._tap, _TUNSETIFF, struct.pack("16sH22x", b"tap0", flags))
        router.ns.ip("addr add 10.5.0.1/24 dev tap0")
        router.ns.ip("link set tap0 up")
        (link,) = json.loads(router.ns.ip("-j link show tap0"))
        self._mac = link["address"]

    def send(self, payload: bytes) -> None:
        """A UDP packet whose checksum is only that of the pseudo-header."""
        datagram = IP(src="10.5.0.2", dst="10.0.1.2") / UDP(sport=9, dport=_PORT) / Raw(payload)
        packet = bytearray(bytes(Ether(dst=self._mac, src="02:00:00:00:00:05") / datagram))
        length = len(packet) - 34
        pseudo = packet[26:34] + struct.pack("!HH", socket.IPPROTO_UDP, length)
        total = sum(struct.unpack("!6H", pseudo))
        packet[40:42] = struct.pack("!H", (total & 0xFFFF) + (total >> 16))
        os.write(self._tap, _VNET_HDR.pack(_NEEDS_CSUM, 0, 0, 0, 34, 6) + bytes(packet))

    def receive(self) -> tuple[int, IP]:
        """The next UDP packet, and the flags in front of it."""
        while True:
            ready, _, _ = select.select([self._tap], [], [], 5 * PATIENCE)
            assert ready, "nothing came"
            found = os.read(self._tap, 2000)
            packet = Ether(found[_VNET_HDR.size :])
            if IP in packet and UDP in packet:
                return found[0], packet[IP]


@pytest.fixture(scope="module")
def router() -> Iterator[Small]:
    with Small() as made:
        made.ns.ip("addr add 10.0.1.1/24 dev in1")
        made.sysctl("net.ipv4.conf.all.rp_filter", 0)
        made.peer.ip("addr add 10.0.1.2/24 dev in1")
        made.peer.ip("route add default via 10.0.1.1")
        yield made


@pytest.fixture(scope="module")
def vm(router: Small) -> Iterator[Vm]:
    with ExitStack() as undo:
        yield Vm(router, undo)


@pytest.mark.parametrize(
    ("arguments", "mode", "reason"),
    [((), "generic", "FORWARDED"), (("--mode", "native"), "native", "PARTIAL_CHECKSUM")],
)
def test_what_a_vm_sends_arrives(
    router: Small, vm: Vm, arguments: tuple[str, ...], mode: str, reason: str
) -> None:
    """With a checksum that the receiver takes, whoever has forwarded it."""
    with router.peer.enter():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.bind(("10.0.1.2", _PORT))
        server.settimeout(5 * PATIENCE)
        router.ns.run("ping", "-c", "1", "-W", "5", "10.0.1.2")  # a neighbour from now on
        router.run("attach", "tap0", *arguments)
        try:
            (interface,) = router.status()["interfaces"]
            assert (interface["ifname"], interface["mode"]) == ("tap0", mode)
            before = router.reason(reason)
            vm.send(b"from a VM")
            assert server.recv(100) == b"from a VM"
            assert router.reason(reason) == before + 1
        finally:
            router.detach()


@pytest.mark.parametrize("arguments", [(), ("--mode", "native")], ids=["generic", "native"])
def test_what_a_vm_receives_is_finished(router: Small, vm: Vm, arguments: tuple[str, ...]) -> None:
    """From a host behind a veth, which leaves checksums; a VM that has not asked for such must get
    none, and the tap says so (`ethtool -k`: tx-checksumming off)."""
    router.ns.ip("neigh replace 10.5.0.2 lladdr 02:00:00:00:00:05 dev tap0 nud permanent")
    router.run("attach", "in1", *arguments)
    try:
        before = router.reason("PARTIAL_CHECKSUM")
        with router.peer.enter():
            host = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with host:
            host.sendto(b"to a VM", ("10.5.0.2", _PORT))
        flags, packet = vm.receive()
        wanted = packet.copy()
        del wanted[UDP].chksum
        assert (flags, bytes(packet[UDP].payload)) == (0, b"to a VM")
        assert packet[UDP].chksum == IP(bytes(wanted))[UDP].chksum
        assert router.reason("PARTIAL_CHECKSUM") == before + 1
    finally:
        router.detach()
