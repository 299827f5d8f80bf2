"""Whose frames come in by a device, for every kind of device below, above and beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.compile.values import MAC1, MAC2, VLAN, links, snapshot
from xdpecmp.compile import MacKey, Stacking, VlanKey, Why, compile_tables
from xdpecmp.model.values import Link, Peer, Upper

OTHER = bytes.fromhex("020000000009")
ETH = links()[2]
BOND = Link(9, "bond0", MAC1, 1500, True, "bond", mode="active-backup")
SLAVE = replace(ETH, master=9, delivers=True)


def over(kind: str, mac: bytes = OTHER, **changes: Any) -> Link:
    """A device on top of eth0."""
    return replace(Link(9, "up0", mac, 1500, True, kind, lower=2), **changes)


def why(*changed: Link, ifindex: int = 2) -> Why | None:
    """What is in the way of eth0 in a namespace with these devices."""
    found = Stacking(links(*changed))
    obstacle = found.obstacle(links(*changed)[ifindex])
    return obstacle.why if obstacle else None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(kind, None) for kind in ("", "veth", "tun", "vxlan", "geneve", "gretap", "ip6gretap")]
    + [
        (kind, Why.STACKED)
        for kind in (
            *("bond", "bridge", "team", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "hsr"),
            *("vrf", "dsa", "openvswitch", "batadv", "netkit", "ifb", "dummy", "virt_wifi"),
            *("rmnet", "l2tpeth", "amt", "nothing that exists yet"),
        )
    ],
)
def test_which_kinds_see_tags(kind: str, expected: Why | None) -> None:
    assert why(replace(ETH, kind=kind)) is expected


def test_a_bridge_whose_filter_takes_all_tags_off() -> None:
    bridge = replace(BOND, kind="bridge", is_untagged=True)
    assert why(SLAVE, bridge, ifindex=9) is None
    assert why(SLAVE, bridge) is Why.ENSLAVED
    assert why(SLAVE, replace(bridge, is_untagged=False), ifindex=9) is Why.STACKED
    assert why(SLAVE, replace(bridge, kind="team"), ifindex=9) is Why.STACKED


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        (over("vlan", vlan_id=5, vlan_protocol=0x8100), None),
        (over("vxlan"), None),
        (over("geneve"), None),
        (over("ip6tnl", mac=b""), None),
        (over("macvlan", mode="private"), None),
        (over("macvlan", mode="vepa"), None),
        (over("macvlan", mode="bridge"), None),
        (over("macvtap", mode="bridge"), None),
        (over("macvlan", mode="bridge", mac=MAC1), Why.OWNED),
        (over("macvlan", mode="passthru"), Why.OWNED),
        (over("macvtap", mode="passthru"), Why.OWNED),
        (over("macvlan", mode="source"), Why.OWNED),
        (over("macvlan", mode=""), Why.OWNED),
        (over("ipvlan", mac=MAC1), Why.OWNED),
        (over("ipvtap", mac=MAC1), Why.OWNED),
        (over("macsec"), Why.OWNED),
        (over("hsr", lower=0, ports=(3, 2)), Why.OWNED),
        (over("dsa"), Why.OWNED),
        (over("rmnet"), Why.OWNED),
        (over("virt_wifi"), Why.OWNED),
        (over("nothing that exists yet"), Why.OWNED),
    ],
    ids=lambda value: f"{value.kind} {value.mode}" if isinstance(value, Link) else str(value),
)
def test_what_stands_on_a_nic(upper: Link, expected: Why | None) -> None:
    """Here, and in another namespace that was looked at."""
    assert why(upper) is expected
    if upper.lower:
        there = Upper(upper.name, upper.kind, upper.mode, upper.mac, "namespace x")
        assert why(replace(ETH, elsewhere=(there,))) is expected


@pytest.mark.parametrize(
    "kind", ["bridge", "team", "vrf", "openvswitch", "batadv", "", "nothing that exists yet"]
)
def test_what_belongs_to_another_device(kind: str) -> None:
    """And that one, whose frames come by others, is no better."""
    master = replace(BOND, kind=kind)
    assert why(SLAVE, master) is Why.ENSLAVED
    assert why(SLAVE, master, ifindex=9) is Why.STACKED
    assert why(SLAVE) is Why.ENSLAVED  # its master has just gone, or is not seen yet


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("balance-rr", None),
        ("active-backup", None),
        ("balance-xor", None),
        ("broadcast", None),
        ("802.3ad", None),
        ("balance-tlb", Why.INACTIVE),
        ("balance-alb", Why.INACTIVE),
        ("", Why.INACTIVE),
    ],
)
def test_the_links_of_a_bond(mode: str, expected: Why | None) -> None:
    """What they receive is the bond's if Linux has it so."""
    bond = replace(BOND, mode=mode)
    assert why(SLAVE, bond) is expected
    assert why(replace(SLAVE, delivers=False), bond) is Why.INACTIVE
    assert why(SLAVE, replace(bond, master=12)) is (expected or Why.ENSLAVED)
    on_bond = over("macvlan", mode="passthru", ifindex=12, lower=9)
    if expected is None:
        assert why(SLAVE, bond, on_bond) is Why.OWNED
        assert why(SLAVE, bond, replace(on_bond, mode="private")) is None


@pytest.mark.parametrize(
    ("peer", "has_vlan", "expected"),
    [
        (None, False, None),
        (None, True, Why.PEER),
        (Peer("p", "", False), True, None),
        (Peer("p", "", False), False, None),
        (Peer("p", "", True), True, Why.PEER),
        (Peer("p", "", True), False, Why.PEER),
    ],
)
def test_a_veth_sees_tags_as_its_peer_leaves_them(
    peer: Peer | None, has_vlan: bool, expected: Why | None
) -> None:
    veth = replace(ETH, kind="veth", peer=peer)
    assert why(veth, *([replace(VLAN, lower=2)] if has_vlan else [])) is expected
    bonded = replace(veth, master=9, delivers=True)
    assert why(bonded, BOND, *([replace(VLAN, lower=9)] if has_vlan else [])) is expected


def test_hardware_that_strips_tags() -> None:
    assert why(replace(ETH, strips_tags=True)) is Why.STRIPS_TAGS
    assert why(replace(SLAVE, strips_tags=True), BOND) is Why.STRIPS_TAGS


# --- VLAN devices --------------------------------------------------------------------------------

TAG = replace(VLAN, lower=2)
KEY = VlanKey(2, 0x8100, 100)


def vlans(*changed: Link, attached: tuple[int, ...] = (2,)) -> dict[VlanKey, int]:
    return dict(compile_tables(snapshot(links=links(*changed)), attached).vlans)


@pytest.mark.parametrize(
    ("changed", "forwards"),
    [
        ((TAG,), True),
        # what is for a VLAN device never gets to a bridge, nor to an rx_handler
        ((TAG, replace(ETH, master=9), replace(BOND, kind="bridge")), True),
        ((TAG, over("macvlan", mode="passthru")), True),
        ((TAG, over("ipvlan")), True),
        ((TAG, over("dsa")), False),
        ((TAG, replace(ETH, strips_tags=True)), False),
        ((TAG, replace(ETH, kind="macvlan")), False),
        ((replace(TAG, master=9),), False),
        ((replace(TAG, master=9, delivers=True), BOND), False),
        ((TAG, over("macvlan", mode="passthru", lower=4)), False),
        ((TAG, over("ipvlan", lower=4)), False),
        ((replace(TAG, up=False),), False),
    ],
)
def test_vlans_of_a_nic(changed: tuple[Link, ...], forwards: bool) -> None:
    assert vlans(*changed) == ({KEY: 4} if forwards else {})


def test_vlans_over_a_bond_come_in_by_each_of_its_links() -> None:
    other = replace(SLAVE, ifindex=5, name="eth5", mac=MAC2)
    above = replace(VLAN, lower=9)
    tables = compile_tables(snapshot(links=links(SLAVE, other, BOND, above)), {2, 5})
    assert tables.vlans == {KEY: 4, KEY._replace(ifindex=5): 4}
    assert {i: e.logical for i, e in tables.interfaces.items()} == {2: 9, 5: 9, 4: 4}
    assert {i: e.mac for i, e in tables.interfaces.items()} == {2: MAC1, 5: MAC2, 4: MAC2}
    standby = replace(other, delivers=False)
    tables = compile_tables(snapshot(links=links(SLAVE, standby, BOND, above)), {2, 5})
    assert tables.vlans == {KEY: 4}
    assert tables.interfaces.keys() == {2, 4}


def test_a_vlan_on_the_link_itself_comes_before_that_on_the_bond() -> None:
    above = replace(VLAN, lower=9)
    below = replace(VLAN, ifindex=7, lower=2)
    assert vlans(SLAVE, BOND, above, below) == {KEY: 7}
    assert vlans(SLAVE, BOND, above, replace(below, up=False)) == {}
    assert vlans(replace(SLAVE, delivers=False), BOND, above, below) == {KEY: 7}


def test_links_of_a_bond_that_treat_frames_differently() -> None:
    """One entry cannot say both."""
    generic = replace(SLAVE, ifindex=5, name="eth5", xdp_mode="generic")
    assert vlans(SLAVE, generic, BOND, replace(VLAN, lower=9), attached=(2, 5)) == {}


# --- macvlans ------------------------------------------------------------------------------------

VRRP = bytes.fromhex("00005e000133")


def macs(*changed: Link, attached: tuple[int, ...] = (2,)) -> dict[MacKey, int]:
    tables = compile_tables(snapshot(links=links(*changed)), attached)
    assert tables.interfaces.keys() >= {*tables.macs.values()}
    assert not any(tables.interfaces[index].direct for index in tables.macs.values())
    return dict(tables.macs)


@pytest.mark.parametrize(
    ("changed", "forwards"),
    [
        ((over("macvlan", VRRP, mode="private"),), True),
        ((over("macvlan", VRRP, mode="vepa"),), True),
        ((over("macvlan", VRRP, mode="bridge"),), True),
        ((over("macvlan", VRRP, mode="private", up=False),), False),
        ((over("macvlan", VRRP, mode="private", master=12),), False),
        ((over("macvlan", VRRP, mode="passthru"),), False),
        ((over("macvlan", VRRP, mode="source"),), False),
        ((over("macvtap", VRRP, mode="bridge"),), False),  # its frames go to a process
        ((over("macvlan", VRRP, mode="private"), replace(ETH, strips_tags=True)), False),
        ((over("macvlan", VRRP, mode="private"), over("ipvlan", ifindex=12, lower=9)), False),
        ((over("macvlan", VRRP, mode="private"), over("ipvlan", ifindex=12)), False),
    ],
)
def test_macvlans_on_a_nic(changed: tuple[Link, ...], forwards: bool) -> None:
    assert macs(*changed) == ({MacKey(2, VRRP): 9} if forwards else {})


def test_a_macvlan_sees_no_tags_itself() -> None:
    """Attached to, it forwards nothing, and is not in the way of what does."""
    above = over("macvlan", VRRP, mode="private")
    tables = compile_tables(snapshot(links=links(above)), {2, 9})
    assert not tables.interfaces[9].direct
    assert tables.macs == {MacKey(2, VRRP): 9}
    assert compile_tables(snapshot(links=links(above)), {9}).interfaces == {}


def test_macvlans_on_vlans_and_bonds() -> None:
    on_vlan = over("macvlan", VRRP, mode="private", lower=4)
    assert macs(TAG, on_vlan) == {MacKey(4, VRRP): 9}
    on_bond = over("macvlan", VRRP, mode="private", ifindex=12, lower=9)
    assert macs(SLAVE, BOND, on_bond) == {MacKey(9, VRRP): 12}
    on_both = replace(on_vlan, ifindex=12)
    assert macs(SLAVE, BOND, replace(TAG, lower=9), on_both) == {MacKey(4, VRRP): 12}
