"""What takes a NIC's frames, of the kinds that a tailor-made kernel may lack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.waiting import wait_until
from tests.capabilities import NATIVE, Since, since
from tests.net.topology import DEADLINE
from tests.net.wires import ROUTER, Wires
from tests.vm.devices import require_kind

OWNERS = {
    "ipvlan": "link add own0 link c0 {inside} type ipvlan mode l2",
    "ipvtap": "link add own0 link c0 {inside} type ipvtap mode l2",
    "macsec": "link add link c0 own0 type macsec",
    "hsr": "link add own0 type hsr slave1 c0 slave2 b0",
    "team": "link set c0 master own0",
    "vrf": "link set c0 master own0",
}
PREPARED = {"team": "link add own0 type team", "vrf": "link add own0 type vrf table 9"}
MARKS = {"hsr": since(Since.HSR)}


@pytest.fixture
def net() -> Iterator[Wires]:
    with Wires() as made:
        made.ns.ip("link add b0 type veth peer name b1")
        made.ns.ip("link set b0 up")
        made.ns.ip("link set b1 up")
        yield made


def _check_owned(net: Wires, done: str) -> None:
    wait_until(lambda: net.passes("c0"), "c0 passes", DEADLINE)
    before = net.reasons()
    net.sender.send(net.frame(net.mac("c0"), (), "x"))
    wait_until(lambda: net.reasons()["INTERFACE"] > before["INTERFACE"], "it came in", DEADLINE)
    assert net.reasons()["FORWARDED"] == before["FORWARDED"]
    for command in ("attach", "doctor"):
        assert done in net.run(command, "c0").stderr + net.run("doctor", "c0").stdout


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=MARKS.get(kind, ())) for kind in OWNERS])
def test_who_owns_the_frames_of_a_nic(net: Wires, kind: str) -> None:
    """Put there while the program runs."""
    require_kind(kind)
    net.run("attach", "c0")
    if kind in PREPARED:
        net.ns.ip(PREPARED[kind])
    if kind == "team":
        net.ns.ip("link set c0 down")
    net.ns.ip(OWNERS[kind].format(inside=""))
    net.ns.ip("link set c0 up")
    _check_owned(net, "own0")


@pytest.mark.parametrize("kind", ["ipvlan", "ipvtap"])
def test_an_owner_in_another_namespace(net: Wires, kind: str) -> None:
    require_kind(kind)
    net.run("attach", "c0")
    net.ns.ip(OWNERS[kind].format(inside=f"netns {net.far.name}"))
    _check_owned(net, net.far.name)


@pytest.mark.parametrize("kind", ["ipvlan", "macsec", "team"])
def test_what_sees_no_tags(net: Wires, kind: str) -> None:
    """Attached to themselves, they forward nothing."""
    require_kind(kind)
    net.ns.ip(OWNERS[kind].format(inside="") if kind != "team" else PREPARED[kind])
    net.ns.ip("link set own0 up")
    done = net.run("attach", "own0")
    assert [line for line in done.lines if "gets frames without their VLAN tags" in line]
    assert net.passes("own0")


@pytest.mark.parametrize("mode", ["generic", NATIVE])
@pytest.mark.parametrize("tags", ["", "vlan id 5", "vlan id 7 protocol 802.1ad"])
def test_vlans_with_frames_of_all_kinds(net: Wires, mode: str, tags: str) -> None:
    """With and without a VLAN device, its tags in the frame and beside it."""
    require_kind("vlan")
    if tags:
        net.ns.ip(f"link add link c0 name tagged type {tags}")
        net.ns.ip("link set tagged up")
    net.near.run("ethtool", "-K", "eth0", "txvlan", "off", "tx-vlan-stag-hw-insert", "off")
    net.check("c0", "--mode", mode, forwards=3 if "id 5" in tags else 2)
    net.near.run("ethtool", "-K", "eth0", "txvlan", "on", "tx-vlan-stag-hw-insert", "on")
    net.near.ip("link add link eth0 name tagged type vlan id 5")
    net.check("c0", "--mode", mode, forwards=0)


def test_a_bridge_whose_filter_takes_all_tags_off(net: Wires) -> None:
    """As it does by default where it is on; until a VLAN comes up with its tag, or somebody listens
    to all."""
    require_kind("bridge")
    net.ns.ip("link add br0 type bridge vlan_filtering 1")
    net.ns.ip(f"link set br0 address {ROUTER}")
    net.ns.ip("link set c0 master br0")
    net.ns.ip("link set br0 up")
    wait_until(lambda: "forwarding" in net.ns.run("bridge", "link").stdout, "the port is up")
    net.check("br0", forwards=4)  # of the frames before the last those of VLAN 1, tagged or not
    net.run("attach", "br0")
    changes = (
        (("bridge", "vlan", "add", "dev", "br0", "vid", "5", "self"), True),
        (("bridge", "vlan", "del", "dev", "br0", "vid", "5", "self"), False),
        (("ip", "link", "set", "br0", "promisc", "on"), True),
        (("ip", "link", "set", "br0", "promisc", "off"), False),
        (("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "0"), True),
        (("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1"), False),
    )
    for command, passes in changes:
        net.ns.run(*command)
        wait_until(lambda wanted=passes: net.passes("br0") == wanted, f"{command}", DEADLINE)
    net.detach()
    net.ns.run("bridge", "vlan", "add", "dev", "c0", "vid", "5")
    net.ns.run("bridge", "vlan", "add", "dev", "br0", "vid", "5", "self")
    net.check("br0", forwards=0)
    net.ns.run("bridge", "vlan", "add", "dev", "br0", "vid", "5", "self", "untagged")
    net.check("br0", forwards=5)
