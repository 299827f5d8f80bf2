"""Devices on top of each other: whatever tags a frame has, xdpecmp forwards it only where Linux
does.

    near: x ═ in ── [bridge] ── eth0 ═ c0 :router: e1 ═ eth0 :far

Frames of all kinds are sent by a packet socket. What arrives at the other side with the program is
what arrives without it, and a frame that is sure to arrive tells that those before it are through.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.capabilities import PATIENCE
from tests.net.topology import DEADLINE, Router
from tests.netns import Namespace, veth, wait_until

pytestmark = pytest.mark.root

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

    def __init__(self, undo: ExitStack) -> None:
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
        found = set()
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
            return Counter(view.stats()["reasons"])

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """The verdicts that were counted meanwhile."""
        before, moved = self.reasons(), Counter[str]()
        yield moved
        moved.update(self.reasons() - before)


@pytest.fixture
def net() -> Iterator[Wires]:
    with ExitStack() as undo:
        yield Wires(undo)


def check(net: Wires, *attach: str, forwards: int, destination: str = ROUTER) -> list[str]:
    """With the program all is as without, and so many frames are forwarded by it. What `attach`
    said."""
    linux = net.arrive(destination)
    assert "untagged" in linux
    said = net.run("attach", *attach).lines
    with net.counted() as verdicts:
        assert net.arrive(destination) == linux
    assert verdicts["FORWARDED"] == forwards, verdicts
    net.detach()
    return said


MODES = ("generic", "native")


@pytest.mark.parametrize("mode", MODES)
def test_tags_in_the_frame(net: Wires, mode: str) -> None:
    check(net, "c0", "--mode", mode, forwards=2)


@pytest.mark.parametrize("mode", MODES)
def test_a_veth_whose_peer_leaves_tags_beside_the_frames(net: Wires, mode: str) -> None:
    """As a bridge at the other end does, until it is told not to."""
    net.bridge(net.near, "eth0")
    said = check(net, "c0", "--mode", mode, forwards=0)
    (note,) = [line for line in said if "eth0, the other end of c0" in line]
    advice = note.partition(": nsenter")[2]
    assert advice.split()[1:4] == ["ethtool", "-K", "eth0"]
    net.near.run("ethtool", "-K", "eth0", *OFF)
    assert not [
        line for line in check(net, "c0", "--mode", mode, forwards=2) if "other end" in line
    ]


def test_a_peer_that_begins_to_leave_tags_beside_the_frames(net: Wires) -> None:
    """In another namespace, of which no event tells."""
    net.run("attach", "c0")
    with net.counted() as verdicts:
        net.arrive()
    assert verdicts["FORWARDED"] == 2
    net.bridge(net.near, "eth0")
    wait_until(lambda: net.passes("c0"), "c0 passes", DEADLINE)
    with net.counted() as verdicts:
        assert "unknown VLAN" not in net.arrive()
    assert verdicts["FORWARDED"] == 0


@pytest.mark.parametrize("ports_first", [True, False])
def test_a_bridge(net: Wires, ports_first: bool) -> None:
    """It gets its frames without their tags, whatever its ports do."""
    net.ns.ip("link add br0 type bridge")
    net.ns.ip(f"link set br0 address {ROUTER}")
    net.ns.ip("link set c0 master br0")
    net.ns.ip("link set br0 up")
    wait_until(lambda: "forwarding" in net.ns.run("bridge", "link").stdout, "the port is up")
    names = ["c0", "br0"] if ports_first else ["br0", "c0"]
    for name in names:
        net.run("attach", name)
    assert {row["ifname"] for row in net.json("status")["interfaces"]} == {"c0", "br0"}
    net.detach()
    check(net, *names, forwards=0)


def test_a_macvlan_is_covered_by_the_device_below(net: Wires) -> None:
    """VRRP's: `use_vmac` of keepalived."""
    net.ns.ip(f"link add vrrp.51 link c0 address {VMAC} type macvlan mode private")
    net.ns.ip("link set vrrp.51 up")
    check(net, "vrrp.51", forwards=0, destination=VMAC)
    said = check(net, "c0", forwards=2, destination=VMAC)
    assert [line for line in said if "vrrp.51 (macvlan private)" in line and VMAC in line]
    check(net, "c0", "vrrp.51", forwards=2, destination=VMAC)
    check(net, "c0", "vrrp.51", forwards=2)
    net.sysctl("net/ipv4/conf/vrrp.51/forwarding", 0)
    net.run("attach", "c0")
    with net.counted() as verdicts:
        net.arrive(VMAC, control=ROUTER)
    assert verdicts["FORWARDING_OFF"] == 1


SLAVES = {
    "passthru": "type macvlan mode passthru",
    "macvtap passthru": "type macvtap mode passthru",
    "source": "type macvlan mode source",
}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("kind", SLAVES)
def test_who_owns_the_frames_of_a_nic(net: Wires, kind: str, elsewhere: bool) -> None:
    """In this namespace or in another one: attached later and before, and gone again."""
    net.run("attach", "c0")
    place = net.far if elsewhere else net.ns
    inside = f"netns {net.far.name}" if elsewhere else ""
    net.ns.ip(f"link add own0 link c0 {inside} {SLAVES[kind]}")
    if kind == "source":
        place.ip(f"link set own0 type macvlan macaddr add {SENDER}")
    place.ip("link set own0 up")
    wait_until(lambda: net.passes("c0"), "c0 passes", DEADLINE)
    with net.counted() as verdicts:
        net.sender.send(net.frame(ROUTER, (), "x"))
        wait_until(lambda: net.reasons()["INTERFACE"] > 0, "it came in", DEADLINE)
    said = net.run("attach", "c0").lines
    (note,) = [line for line in said if "own0" in line]
    assert "may take its packets" in note
    assert (net.far.name in note) is elsewhere
    done = net.run("doctor", "c0")
    assert "own0" in done.stdout
    assert not verdicts["FORWARDED"]
    place.ip("link del own0")
    wait_until(lambda: not net.passes("c0"), "c0 forwards", DEADLINE)


def test_a_macvlan_moved_away(net: Wires) -> None:
    """It goes on taking frames where it is then; ordinary ones take none of the NIC's."""
    net.run("attach", "c0")
    net.ns.ip("link add own0 link c0 type macvlan mode bridge")
    net.ns.ip(f"link set own0 netns {net.far.name}")
    net.far.ip("link set own0 up")
    with net.counted() as verdicts:
        net.arrive()
    assert verdicts["FORWARDED"] == 2
