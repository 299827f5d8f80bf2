"""A router between two packet sockets: frames of all kinds of tags, and which of them arrive.

    near: x ═ in ── [bridge] ── eth0 ═ c0 :router: e1 ═ eth0 :far

What arrives with the program has to be what arrives without it. A frame that is sure to arrive
tells that those before it are through.
"""

from __future__ import annotations

import json
import select
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from testbed.netns import Namespace, veth
from testbed.waiting import PATIENCE, wait_until
from tests.net.topology import DEADLINE, Router

SENDER, ROUTER, VMAC = "02:00:00:00:00:02", "02:00:00:00:00:01", "00:00:5e:00:01:33"
OFF = ["txvlan", "off", "tx-vlan-stag-hw-insert", "off"]
TAGS: dict[str, Sequence[Packet]] = {
    "untagged": (),
    "unknown VLAN": (Dot1Q(vlan=5),),
    "the bridge's own VLAN": (Dot1Q(vlan=1),),
    "priority tag": (Dot1Q(vlan=0, prio=5),),
    "last VLAN": (Dot1Q(vlan=4095),),
    "802.1ad": (Dot1AD(vlan=5),),
    "802.1ad, priority": (Dot1AD(vlan=0),),
    "two tags": (Dot1AD(vlan=7), Dot1Q(vlan=5)),
    "two priority tags": (Dot1Q(vlan=0), Dot1Q(vlan=0)),
    "priority, then VLAN": (Dot1Q(vlan=0), Dot1Q(vlan=5)),
    "three tags": (Dot1AD(vlan=7), Dot1AD(vlan=6), Dot1Q(vlan=5)),
}


class Wires(Router):
    """The router and both sides, with a neighbour each that needs no resolving."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._build(undo)
            self._cleanup = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _build(self, undo: ExitStack) -> None:
        self.near = undo.enter_context(Namespace("near"))
        self.far = undo.enter_context(Namespace("far"))
        super().__init__(undo.enter_context(Namespace("stacked")))
        undo.callback(self._detach)
        for name in ("all", "default"):
            self.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        self.sysctl("net.ipv4.ip_forward", 1)
        veth(self.near, "eth0", self.ns, "c0")
        veth(self.far, "eth0", self.ns, "e1")
        self.ns.ip(f"link set c0 address {ROUTER}")
        self.ns.ip("addr add 10.0.1.1/24 dev e1")
        self.ns.ip("neigh add 10.0.1.2 lladdr 02:00:00:00:00:09 dev e1 nud permanent")
        self.ns.ip("route add 192.0.2.0/24 via 10.0.1.2")
        self.sender = undo.enter_context(self._packets(self.near))
        self.receiver = undo.enter_context(self._packets(self.far))
        self.receiver.bind(("eth0", 0x0003))
        self.send_by("eth0")
        self._number = 0

    def _detach(self) -> None:
        if self.instance.present():
            self.detach()

    @staticmethod
    def _packets(namespace: Namespace) -> socket.socket:
        with namespace.enter():
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    def send_by(self, device: str) -> None:
        self.sender.bind((device, 0))

    def bridge(self, namespace: Namespace, port: str, *options: str) -> None:
        """Put a bridge between the device and a further one, `x`, to send by."""
        veth(namespace, "x", namespace, "in")
        namespace.run("ip", "link", "add", "br0", "type", "bridge", *options)
        for device in ("in", port):
            namespace.ip(f"link set {device} master br0")
        namespace.ip("link set br0 up")
        namespace.run("ethtool", "-K", "x", *OFF)
        wait_until(
            lambda: namespace.run("bridge", "link").stdout.count("forwarding") == 2, "both ports"
        )
        self.send_by("x")

    def arrive(self, destination: str = ROUTER, control: str = "") -> set[str]:
        """Which of TAGS arrive at the far side, as that frame or another."""
        self._number += 1
        for name, tags in TAGS.items():
            self.sender.send(self.frame(destination, tags, name))
        self.sender.send(self.frame(control or destination, (), "the end"))
        found: set[str] = set()
        prefix = f"{self._number} "
        while True:
            ready, _, _ = select.select([self.receiver], [], [], DEADLINE * PATIENCE)
            assert ready, "nothing more came"
            packet = Ether(self.receiver.recv(2000))
            text = bytes(packet[Raw]).decode() if UDP in packet and Raw in packet else ""
            if text.startswith(prefix):
                name = text.removeprefix(prefix).strip("\0")
                if name == "the end":
                    return found
                assert packet.type == 0x0800  # and no tag that came along
                found.add(name)

    def frame(self, destination: str, tags: Sequence[Packet], name: str) -> bytes:
        packet = Ether(dst=destination, src=SENDER)
        for tag in tags:
            packet /= tag.copy()
        datagram = UDP(sport=9, dport=9) / Raw(f"{self._number} {name}".encode().ljust(60, b"\0"))
        return bytes(packet / IP(src="198.51.100.7", dst="192.0.2.80") / datagram)

    def passes(self, name: str) -> bool:
        """Whether all that this interface receives passes to Linux."""
        return any(row["what"] == f"all on {name}" for row in self.status()["passed"])

    def reasons(self) -> Counter[str]:
        with self.view() as view:
            return Counter(view.stats().reasons)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """The verdicts that were counted meanwhile."""
        before, moved = self.reasons(), Counter[str]()
        yield moved
        moved.update(self.reasons() - before)

    def mac(self, device: str) -> str:
        (link,) = json.loads(self.ns.ip(f"-j link show dev {device}"))
        found: str = link["address"]
        return found

    def check(self, *attach: str, forwards: int, destination: str = ROUTER) -> list[str]:
        """With the program all is as without, and so many frames are forwarded by it. What `attach`
        said."""
        linux = self.arrive(destination)
        assert "untagged" in linux
        said = self.run("attach", *attach).lines
        with self.counted() as verdicts:
            assert self.arrive(destination) == linux
        assert verdicts["FORWARDED"] == forwards, verdicts
        self.detach()
        return said
