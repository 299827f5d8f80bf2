"""What `doctor` makes of an interface: one thing at a time is out of order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.doctor import IN, MAC, OUT, STATUS, Case, World, bad_checks, check_case, one_armed, run
from xdpecmp.doctor import examine
from xdpecmp.doctor.facts import Running
from xdpecmp.doctor.interfaces import VIRTIO_LARGEST_MTU
from xdpecmp.model.values import InterfaceSettings, Link, Peer, Upper


def _virtio(world: World, *features: int, used: int = 1, most: int = 8, cpus: int = 4) -> World:
    world.device(
        driver="virtio_net",
        virtio=frozenset(features),
        queue_pairs=used,
        max_queue_pairs=most,
    )
    world.other["cpus"] = cpus
    return world


def _vlan(world: World, **changes: Any) -> World:
    upper = Link(9, "eth1.5", MAC, 1500, True, kind="vlan", lower=IN, vlan_id=5, **changes)
    world.snap(links={**world.snapshot.links, 9: upper})
    return world.device(stacked={"eth1.5": "vlan"})


def _on_top(world: World, name: str, kind: str, **changes: Any) -> None:
    upper = replace(Link(9, name, MAC, 1500, True, kind=kind, lower=IN), **changes)
    world.snap(links={**world.snapshot.links, 9: upper})


def _policy1(world: World) -> None:
    world.settings(policy4=1)
    world.device(features=frozenset({"rx-hashing"}))


def _no_xdp(kind: str, native: bool | None = False, peer: str = "") -> Callable[[World], object]:
    def change(world: World) -> None:
        world.links(OUT, can_transmit_xdp=False, kind=kind)
        world.device(OUT, native_xdp=native, peer=peer)

    return change


CASES = {
    "foreign program": Case(
        lambda world: world.links(IN, xdp_prog_id=5, xdp_mode="native"),
        *("problem", "interface", "not ours (id 5)", "bpftool prog show id 5"),
    ),
    "loopback": Case(
        lambda world: world.links(IN, mac=b""),
        "problem",
        "interface",
        "no Ethernet",
        "ip",
    ),
    "VLAN device": Case(
        lambda world: world.links(IN, kind="vlan", lower=OUT),
        *("problem", "interface", "is a VLAN device", "xdpecmp attach eth2"),
    ),
    "program on top": Case(
        lambda world: _vlan(world, xdp_prog_id=6),
        *("problem", "interface", "eth1.5, on top of it, has one", "bpftool prog show id 6"),
    ),
    "veth": Case(
        lambda world: world.links(IN, kind="veth"),
        *("note", "mode", "generic mode on a veth keeps checksum offload working", ""),
    ),
    "tap": Case(
        lambda world: world.links(IN, kind="tun"),
        *("note", "mode", "generic mode on a tap keeps checksum offload working", ""),
    ),
    "merged packets": Case(
        lambda world: world.links(IN, kind="veth"),
        *("note", "egress", "leaves by eth2 passes to Linux: in generic mode", ""),
    ),
    "no offloads": Case(
        lambda world: (
            world.links(IN, kind="veth"),
            world.links(OUT, kind="veth", segments_all=False),
        ),
        *("note", "egress", "leaves by eth2 passes to Linux", "ethtool -K eth2 tx on sg on"),
    ),
    "redirects accepted": Case(
        lambda world: world.settings(interfaces={OUT: InterfaceSettings(learns_redirects4=True)}),
        *(
            "note",
            "egress",
            "IPv4 that leaves by eth2 passes to Linux",
            "conf.eth2.accept_redirects=0",
        ),
    ),
    "lists": Case(
        lambda world: world.links(IN, xdp_mode="generic", merges_lists=True),
        *("note", "forwarding", "merges packets into lists", "ethtool -K eth1 rx-gro-list off"),
    ),
    "TSO": Case(
        lambda world: (world.links(IN, kind="veth"), world.device(peer="p")),
        *("note", "tso", "larger than the egress MTU", ""),
    ),
    "no native XDP": Case(
        lambda world: world.device(native_xdp=False, driver="r8169"),
        *("note", "mode", "r8169: generic XDP, slower: no native XDP in its driver", ""),
    ),
    "virtio, offloads": Case(
        lambda world: _virtio(world, 1, 7, 32),
        *("note", "mode", "virtio_net: generic XDP, slower: its host merges", ""),
    ),
    "virtio, old host": Case(
        lambda world: _virtio(world, 2, 15),
        *("note", "mode", "VIRTIO_F_ANY_LAYOUT", ""),
    ),
    "virtio, MTU": Case(
        lambda world: (_virtio(world, 2, 32), world.links(IN, mtu=VIRTIO_LARGEST_MTU + 1)),
        *("note", "mode", "MTU of 3507 is above 3506", ""),
    ),
    "virtio, queues": Case(
        lambda world: _virtio(world, 2, 32, used=2, most=5),
        *("note", "queues", "2 + 4 queue pairs", "ethtool -L eth1 combined 1"),
    ),
    "virtio, far too few queues": Case(
        lambda world: _virtio(world, 2, 32, used=1, most=1),
        *("note", "queues", "1 + 4 queue pairs", ""),
    ),
    "jumbo frames": Case(
        lambda world: world.links(IN, mtu=9000),
        *("note", "mode", "MTU of 9000", ""),
    ),
    "LRO": Case(
        lambda world: world.device(features=frozenset({"rx-lro"})),
        *("note", "mode", "LRO", "ethtool -K eth1 lro off"),
    ),
    "down": Case(
        lambda world: world.links(IN, up=False),
        *("note", "link", "eth1 is down", "ip link set dev eth1 up"),
    ),
    "enslaved": Case(
        lambda world: world.links(IN, master=OUT),
        *("note", "master", "belongs to another device", ""),
    ),
    "strips tags": Case(
        lambda world: world.links(IN, strips_tags=True),
        *("note", "rxvlan", "strips VLAN tags", "ethtool -K eth1 rxvlan off rx-vlan-stag"),
    ),
    "forwards nothing": Case(
        lambda world: world.interface(forwarding4=False, forwarding6=False),
        *("note", "forwarding", "does not forward", "net.ipv4.conf.eth1.forwarding=1"),
    ),
    "forwards no IPv6": Case(
        lambda world: world.interface(forwarding6=False),
        *("note", "forwarding", "does not forward IPv6", "net.ipv6.conf.all.forwarding=1"),
    ),
    "forwards no IPv4": Case(
        lambda world: world.interface(forwarding4=False),
        *("note", "forwarding", "does not forward IPv4", "net.ipv4.conf.eth1.forwarding=1"),
    ),
    "one-armed": Case(
        one_armed,
        *("note", "redirects", "all gateways are behind eth2", "conf.eth2.send_redirects=0"),
    ),
    "policy 1": Case(_policy1, "note", "policy 1", "NIC's own hash", "ethtool -k eth1 | grep"),
    "VLANs on a veth whose peer is out of sight": Case(
        lambda world: (_vlan(world), world.links(IN, kind="veth")),
        *("note", "vlan", "other end of eth1 may leave VLAN tags", ""),
    ),
    "veth whose peer hides tags": Case(
        lambda world: world.links(IN, kind="veth", peer=Peer("p", "/run/netns/x", True)),
        *("note", "vlan", "p, the other end", "nsenter --net=/run/netns/x ethtool -K p txvlan off"),
    ),
    "ipvlan": Case(
        lambda world: _on_top(world, "ipvl0", "ipvlan"),
        *("note", "on top", "ipvl0 (ipvlan) stands on eth1", "ip -d link show dev ipvl0"),
    ),
    "passthru": Case(
        lambda world: _on_top(world, "mv0", "macvlan", mode="passthru"),
        *("note", "on top", "mv0 (macvlan passthru) stands on eth1", "dev mv0"),
    ),
    "passthru in another namespace": Case(
        lambda world: world.links(IN, elsewhere=(Upper("mv0", "macvlan", "passthru", MAC, "x"),)),
        *("note", "on top", "mv0 (macvlan passthru, in x) stands on eth1", ""),
    ),
    "VRRP": Case(
        lambda world: _on_top(world, "vrrp.1", "macvlan", mode="private", mac=b"\0\0\x5e\0\1\3"),
        *("note", "macvlan", "vrrp.1 (macvlan private) takes what comes in by eth1", ""),
    ),
    "macvlan": Case(
        lambda world: world.links(IN, kind="macvlan", lower=OUT),
        *("note", "stacked", "eth1 is a macvlan", "xdpecmp attach eth2"),
    ),
    "bridge": Case(
        lambda world: world.links(IN, kind="bridge"),
        *("note", "stacked", "eth1 is a bridge", ""),
    ),
    "bond whose mode does not say": Case(
        lambda world: (
            world.links(OUT, kind="bond", mode="balance-alb"),
            world.links(IN, master=OUT, delivers=True),
        ),
        *("note", "bond", "eth2 is a bond of mode balance-alb", "ip -d link show dev eth2"),
    ),
    "veth: no transmit": Case(
        _no_xdp("veth", peer="p"), "note", "egress", "by eth2", "ethtool -K p gro on"
    ),
    "veth: no transmit, before Linux 6.3": Case(
        _no_xdp("veth", native=None),
        *("note", "egress", "by eth2", "eth1 --mode generic"),
    ),
    "NIC: no transmit": Case(
        _no_xdp("", native=True), "note", "egress", "by eth2", "xdpecmp attach eth2"
    ),
    "bridge: no transmit": Case(
        _no_xdp("bridge"),
        "note",
        "egress",
        "by eth2",
        "xdpecmp attach eth1 --mode generic",
    ),
    "VXLAN: no transmit": Case(_no_xdp("vxlan"), "note", "egress", "by eth2", "--mode generic"),
    "NIC without native XDP": Case(
        _no_xdp("", native=False), "note", "egress", "by eth2", "--mode generic"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_thing_out_of_order(name: str) -> None:
    check_case(CASES[name])


QUIET: dict[str, tuple[Callable[[World], Any], str]] = {
    "rxhash off": (lambda world: world.settings(policy4=1), "policy 1"),
    "rp_filter is made here too": (lambda world: world.interface(rp_filter=1), "rp_filter"),
    "enough queues": (lambda world: _virtio(world, 2, 32, used=4, most=8), "queues"),
    "redirects off": (
        lambda world: (
            one_armed(world),
            world.settings(interfaces={OUT: InterfaceSettings(True, True, send_redirects=False)}),
        ),
        "redirects",
    ),
    "gateways elsewhere": (lambda world: None, "redirects"),
    "largest MTU": (
        lambda world: (_virtio(world, 2, 32), world.links(IN, mtu=VIRTIO_LARGEST_MTU)),
        "queues",
    ),
    "generic mode redirects to every device": (
        lambda world: (_no_xdp("bridge")(world), world.device(native_xdp=False)),
        "egress",
    ),
    "a NIC transmits once it is attached to": (
        lambda world: (_no_xdp("", native=True)(world), world.choose(IN, OUT)),
        "egress",
    ),
    "attached by us": (
        lambda world: (
            world.links(IN, xdp_prog_id=5, xdp_mode="native"),
            run(running=Running(status=STATUS, programs=frozenset({5})))(world),
        ),
        "interface",
    ),
    "whose program it is can't be told": (
        lambda world: (
            world.links(IN, xdp_prog_id=5, xdp_mode="native"),
            run(running=Running(seen=False))(world),
        ),
        "interface",
    ),
}


@pytest.mark.parametrize("name", QUIET)
def test_no_alarm(name: str) -> None:
    change, check = QUIET[name]
    assert check not in bad_checks(change)


def test_largest_mtu_is_native() -> None:
    world = World()
    change, _ = QUIET["largest MTU"]
    change(world)
    assert ("mode", "virtio_net: native XDP") in {
        (f.check, f.found) for f in examine(world.facts())
    }


def test_a_kernel_that_cannot_be_asked() -> None:
    """Before Linux 6.3; what virtio_net does is known all the same."""
    world = World()
    world.device(native_xdp=None)
    (said,) = [f for f in examine(world.facts()) if f.check == "mode"]
    assert said.found == "ixgbe: native XDP if the driver has it, which this kernel does not tell"
    _virtio(world, 2, 32)
    (said,) = [f for f in examine(world.facts()) if f.check == "mode"]
    assert said.found == "virtio_net: native XDP"
