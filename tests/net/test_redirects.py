"""ICMP redirects that the router accepts: Linux then sends elsewhere than its routes say."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest

from testbed.waiting import wait_until
from tests.differential import packets as p
from tests.net.small import Small
from tests.net.topology import DEADLINE

pytestmark = pytest.mark.root

MACS = {"02:00:00:00:00:0a": "the route's", "02:00:00:00:00:0b": "the other"}
ROUTER = {4: "10.0.1.1", 6: "fe80::1"}
GATEWAYS = {4: ("10.0.1.2", "10.0.1.3"), 6: ("fe80::2", "fe80::3")}
TARGET = {4: "50.0.0.1", 6: "2001:db8:50::1"}
OTHER = {4: "50.0.0.2", 6: "2001:db8:50::2"}
SOURCE = {4: "11.0.0.1", 6: "2001:db8:11::1"}
_ALL = 3


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


class Lab(Small):
    """Two gateways behind `in1`, of which the route names the first."""

    def build(self) -> None:
        self.sysctl("net.ipv4.conf.all.rp_filter", 0)
        self.ns.ip("addr add 10.0.1.1/24 dev in1")
        self.ns.ip("addr add fe80::1/64 dev in1 nodad")
        self.ns.ip("addr add 10.0.0.1/24 dev in0")
        self.ns.ip("link set in1 address 02:00:00:00:00:01")
        self.ns.ip("link set in0 address 02:00:00:00:00:00")
        for family, addresses in GATEWAYS.items():
            for address, mac in zip(addresses, MACS, strict=True):
                self.ns.ip(f"neigh replace {address} lladdr {mac} dev in1 nud permanent")
            network = "50.0.0.0/8" if family == 4 else "2001:db8:50::/48"
            self.ns.ip(f"route add {network} via {addresses[0]} dev in1")
        self.wire = {}
        for name in ("in0", "in1"):
            with self.peer.enter():
                made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            made.bind((name, _ALL))
            made.setblocking(False)
            self.wire[name] = made

    def accept(self, family: int, value: int) -> None:
        if family == 4:
            self.sysctl("net.ipv4.conf.all.accept_redirects", value)
        else:  # as a host on that side, while the namespace forwards
            self.sysctl("net.ipv6.conf.in1.accept_redirects", value)
            self.sysctl("net.ipv6.conf.in1.forwarding", 1 - value)

    def redirect(self, family: int) -> None:
        """From the route's gateway: the other one is better for TARGET."""
        gateway, other = (packed(address) for address in GATEWAYS[family])
        own, target = packed(ROUTER[family]), packed(TARGET[family])
        if family == 4:
            quoted = p.ipv4(own, target, p.ICMP, bytes(8))  # an echo reply of the router's
            body = b"\5\1\0\0" + other + quoted
            total = 0xFFFF - p.total(body)
            body = body[:2] + struct.pack("!H", total) + body[4:]
            l3, kind = p.ipv4(gateway, own, p.ICMP, body), b"\x08\0"
        else:
            body = b"\x89\0\0\0" + bytes(4) + other + target
            pseudo = gateway + own + struct.pack("!II", len(body), p.ICMPV6)
            total = 0xFFFF - p.total(pseudo + body)
            body = body[:2] + struct.pack("!H", total) + body[4:]
            l3, kind = p.ipv6(gateway, own, p.ICMPV6, body, ttl=255), b"\x86\xdd"
        self.wire["in1"].send(bytes.fromhex("020000000001 02000000000a") + kind + l3)

    def where(self, family: int, target: str) -> str:
        """By which gateway a packet leaves."""
        make, kind = (p.ipv4, b"\x08\0") if family == 4 else (p.ipv6, b"\x86\xdd")
        l3 = make(packed(SOURCE[family]), packed(target), p.UDP, bytes(8))
        found: list[str] = []

        def came() -> bool:
            with suppress(BlockingIOError):
                while True:
                    frame = self.wire["in1"].recv(2048)
                    if packed(target) in frame[14:54] and packed(SOURCE[family]) in frame[14:54]:
                        found.append(MACS[frame[:6].hex(":")])
            return bool(found)

        self.wire["in0"].send(bytes.fromhex("020000000000 020000000009") + kind + l3)
        wait_until(came, f"a packet to {target}", DEADLINE)
        return found[0]


@pytest.fixture
def router() -> Iterator[Lab]:
    with Lab() as made:
        made.build()
        yield made
        for wire in made.wire.values():
            wire.close()


def wait_for(router: Lab, family: int, target: str, reason: str, where: str) -> None:
    """Until packets there are counted by that reason; then they go as Linux sends them."""

    def counted() -> bool:
        before = router.reason(reason)
        router.where(family, target)
        return router.reason(reason) > before

    wait_until(counted, f"{target}: {reason}", DEADLINE)
    assert router.where(family, target) == where


@pytest.mark.parametrize("family", [4, 6])
def test_while_redirects_are_heeded_linux_forwards(router: Lab, family: int) -> None:
    router.run("attach", "in0")
    wait_for(router, family, TARGET[family], "FORWARDED", "the route's")
    router.redirect(family)
    wait_for(router, family, TARGET[family], "FORWARDED", "the route's")
    router.accept(family, 1)
    wait_for(router, family, TARGET[family], "LEARNED", "the route's")
    wait_for(router, 10 - family, TARGET[10 - family], "FORWARDED", "the route's")
    router.redirect(family)
    wait_until(
        lambda: router.where(family, TARGET[family]) == "the other",
        "Linux has followed it",
        DEADLINE,
    )
    lines = [line for line in router.run("attach", "in0").lines if "heeds ICMP" in line]
    assert len(lines) == 1
    router.accept(family, 0) if family == 6 else router.ns.run(
        *lines[0].rpartition(": ")[2].split()
    )
    wait_for(router, family, TARGET[family], "LEARNED", "the other")
    # one that knows nothing of before
    router.detach()
    router.run("attach", "in0")
    wait_for(router, family, TARGET[family], "LEARNED", "the other")
    wait_for(router, family, OTHER[family], "FORWARDED", "the route's")


def test_the_path_mtu_of_a_forger(router: Lab) -> None:
    """Below net.ipv4.route.min_pmtu Linux follows it for what it forwards, too."""
    router.run("attach", "in0")
    own, target = packed(ROUTER[4]), packed(TARGET[4])
    quoted = p.ipv4(own, target, p.ICMP, bytes(8))
    body = b"\3\4\0\0" + struct.pack("!HH", 0, 300) + quoted
    body = body[:2] + struct.pack("!H", 0xFFFF - p.total(body)) + body[4:]
    l3 = p.ipv4(packed(GATEWAYS[4][0]), own, p.ICMP, body)
    router.wire["in1"].send(bytes.fromhex("020000000001 02000000000a 0800") + l3)
    router.ns.run("ip", "route", "get", TARGET[4], "from", SOURCE[4], "iif", "in0")  # it is used
    wait_for(router, 4, TARGET[4], "LEARNED", "the route's")
    wait_for(router, 4, OTHER[4], "FORWARDED", "the route's")
