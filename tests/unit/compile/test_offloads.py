"""Where packets may go that were merged, or whose checksum is unfinished."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.compile.values import MAC1, MAC2, hop, links, neighbours, route, snapshot
from xdpecmp.compile import compile_tables
from xdpecmp.model.values import Link
from xdpecmp.program.abi import INTERFACE_FLAGS

ETH1 = replace(links()[3], kind="veth")
VLAN = Link(4, "eth1.9", MAC2, 1500, True, "vlan", lower=3, vlan_id=9, vlan_protocol=0x8100)
LIMIT = ("KEEPS_PARTIAL", "MERGES_UNSEEN", "LOSES_PARTIAL")


@pytest.mark.parametrize(
    ("kind", "plain", "tagged"),
    [
        ("veth", True, True),
        ("macvlan", True, False),
        ("bridge", True, False),
        ("bond", True, False),
        ("", False, False),
        ("tun", False, False),
        ("vxlan", False, False),
        ("macvtap", False, False),
        ("what comes with Linux 8", False, False),
    ],
)
def test_which_devices_take_anything(kind: str, plain: bool, tagged: bool) -> None:
    assert takes_anything(replace(ETH1, kind=kind)) == plain
    assert takes_anything(replace(ETH1, kind=kind), VLAN) == tagged


def test_it_takes_all_offloads_of_both_devices() -> None:
    poor = replace(ETH1, segments_all=False)
    assert not takes_anything(poor)
    assert not takes_anything(poor, VLAN)
    assert not takes_anything(ETH1, replace(VLAN, segments_all=False))


def takes_anything(device: Link, vlan: Link | None = None) -> bool:
    nexthop = hop("10.2.0.1", vlan.ifindex if vlan else device.ifindex)
    known = links(device, *([vlan] if vlan else []))
    entry = neighbours(("10.2.0.1", nexthop.ifindex, 0x02))
    tables = compile_tables(
        snapshot(route("10.0.0.0/8", nexthop), links=known, neighbours=entry), {2}
    )
    return tables.nexthops[nexthop].takes_anything


def flags(mode: str, kind: str, *others: Link, ifindex: int = 2, attached: int = 2) -> set[str]:
    """Of eth0 or another ingress, with eth0 of that kind."""
    eth0 = replace(links()[2], kind=kind, xdp_mode=mode if attached == 2 else "")
    tables = compile_tables(snapshot(links=links(eth0, *others)), {attached})
    found = tables.interfaces[ifindex].flags
    return {name for name in LIMIT if found & INTERFACE_FLAGS[name]}


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("native", "", set()),
        ("native", "veth", {"LOSES_PARTIAL"}),
        ("generic", "", set()),
        ("generic", "veth", {"KEEPS_PARTIAL", "MERGES_UNSEEN"}),
        ("generic", "tun", {"KEEPS_PARTIAL", "MERGES_UNSEEN"}),
        ("generic", "vxlan", {"KEEPS_PARTIAL", "MERGES_UNSEEN"}),
        ("", "", {"LOSES_PARTIAL"}),
        ("", "veth", {"LOSES_PARTIAL", "MERGES_UNSEEN"}),
    ],
)
def test_what_an_ingress_may_bring(mode: str, kind: str, expected: set[str]) -> None:
    assert flags(mode, kind) == expected


def test_a_nic_may_bring_unfinished_checksums() -> None:
    eth0 = replace(links()[2], xdp_mode="generic", offloads_received=True)
    found = compile_tables(snapshot(links=links(eth0)), {2}).interfaces[2].flags
    assert found & INTERFACE_FLAGS["KEEPS_PARTIAL"]
    assert not found & INTERFACE_FLAGS["MERGES_UNSEEN"]
    port = replace(PORT, offloads_received=True)
    tables = compile_tables(snapshot(links=links(UPPER, port)), {7})
    assert tables.interfaces[7].flags & INTERFACE_FLAGS["KEEPS_PARTIAL"]


UPPER = Link(
    7, "br0", MAC1, 1500, True, "bridge", is_untagged=True, xdp_prog_id=9, xdp_mode="generic"
)
PORT = Link(8, "eth5", MAC1, 1500, True, "", master=7)
PORT_VLAN = Link(
    8, "eth1.7", MAC1, 1500, True, "vlan", master=7, lower=3, vlan_id=7, vlan_protocol=0x8100
)
BOND = Link(9, "bond0", MAC1, 1500, True, "bond", master=7)


@pytest.mark.parametrize(
    ("what", "members", "merges"),
    [
        ("no port", [], True),
        ("NICs", [PORT, replace(PORT, ifindex=9)], False),
        ("a NIC and a tap", [PORT, replace(PORT, ifindex=9, kind="tun")], True),
        ("a VLAN of a NIC", [PORT_VLAN], False),
        ("a VLAN of a veth", [PORT_VLAN, ETH1], True),
        ("a VLAN of what is elsewhere", [replace(PORT_VLAN, lower=0)], True),
        ("a bond of NICs", [BOND, replace(PORT, master=9)], False),
        ("a bond of veths", [BOND, replace(PORT, master=9, kind="veth")], True),
    ],
)
def test_it_receives_what_its_members_do(what: str, members: list[Link], merges: bool) -> None:
    found = flags("", "", UPPER, *members, ifindex=7, attached=7)
    assert ("MERGES_UNSEEN" in found) == merges, what


@pytest.mark.parametrize("mode", ["generic", "", "native"])
def test_lists_are_for_linux(mode: str) -> None:
    """Generic XDP would make one packet of each: netif_receive_generic_xdp()."""
    eth0 = replace(links()[2], xdp_mode=mode, merges_lists=True)
    assert (2 in compile_tables(snapshot(links=links(eth0)), {2}).interfaces) == (mode == "native")
    port = replace(PORT, merges_lists=True)
    upper = replace(UPPER, xdp_mode=mode)
    tables = compile_tables(snapshot(links=links(upper, port)), {7})
    assert (7 in tables.interfaces) == (mode == "native")
