"""Devices on top of each other: whatever tags a frame has, xdpecmp forwards it only where Linux
does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.waiting import wait_until
from tests.capabilities import NATIVE
from tests.net.topology import DEADLINE
from tests.net.wires import OFF, ROUTER, SENDER, VMAC, Wires

pytestmark = pytest.mark.root


@pytest.fixture
def net() -> Iterator[Wires]:
    with Wires() as made:
        yield made


MODES = ("generic", NATIVE)


@pytest.mark.parametrize("mode", MODES)
def test_tags_in_the_frame(net: Wires, mode: str) -> None:
    net.check("c0", "--mode", mode, forwards=2)


@pytest.mark.parametrize("mode", MODES)
def test_a_veth_whose_peer_leaves_tags_beside_the_frames(net: Wires, mode: str) -> None:
    """As a bridge at the other end does, until it is told not to."""
    net.bridge(net.near, "eth0")
    said = net.check("c0", "--mode", mode, forwards=0)
    (note,) = [line for line in said if "eth0, the other end of c0" in line]
    advice = note.partition(": nsenter")[2]
    assert advice.split()[1:4] == ["ethtool", "-K", "eth0"]
    net.near.run("ethtool", "-K", "eth0", *OFF)
    assert not [line for line in net.check("c0", "--mode", mode, forwards=2) if "other end" in line]


def test_a_peer_that_begins_to_leave_tags_beside_the_frames(net: Wires) -> None:
    """In another namespace, of which no event tells."""
    net.run("attach", "c0")
    with net.counted() as verdicts:
        net.arrive()
    assert verdicts["FORWARDED"] == 2
    net.bridge(net.near, "eth0")
    wait_until(lambda: net.passes("c0"), "c0 passes", 4 * DEADLINE)
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
    net.check(*names, forwards=0)


def test_a_macvlan_is_covered_by_the_device_below(net: Wires) -> None:
    """VRRP's: `use_vmac` of keepalived."""
    net.ns.ip(f"link add vrrp.51 link c0 address {VMAC} type macvlan mode private")
    net.ns.ip("link set vrrp.51 up")
    net.check("vrrp.51", forwards=0, destination=VMAC)
    said = net.check("c0", forwards=2, destination=VMAC)
    assert [line for line in said if "vrrp.51 (macvlan private)" in line and VMAC in line]
    net.check("c0", "vrrp.51", forwards=2, destination=VMAC)
    net.check("c0", "vrrp.51", forwards=2)
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
    (note,) = [line for line in said if "own0" in line and "may take its packets" in line]
    assert (net.far.name in note) is elsewhere
    done = net.run("doctor", "c0")
    assert "own0" in done.stdout
    assert not verdicts["FORWARDED"]
    place.ip("link del own0")
    # no event tells of other namespaces: they are looked at every 15 s on a slow machine
    wait_until(lambda: not net.passes("c0"), "c0 forwards", 4 * DEADLINE)


def test_a_macvlan_moved_away(net: Wires) -> None:
    """It goes on taking frames where it is then; ordinary ones take none of the NIC's."""
    net.run("attach", "c0")
    net.ns.ip("link add own0 link c0 type macvlan mode bridge")
    net.ns.ip(f"link set own0 netns {net.far.name}")
    net.far.ip("link set own0 up")
    with net.counted() as verdicts:
        net.arrive()
    assert verdicts["FORWARDED"] == 2
