"""A bond of two links, as where packets come in and as where they leave.

The device of the topology's name is the bond, at both ends of its wires, or a VLAN device on it:
then the bond is `c0-bond`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise

import pytest

from testbed.netns import Namespace, veth
from testbed.waiting import wait_until
from tests.capabilities import NATIVE, Since, kernel_has
from tests.net.topology import DEADLINE, Anycast
from tests.net.wires import Wires
from tests.vm.asking import FLOWS, verdicts
from tests.vm.devices import require_kind

TAGS_INSIDE = ["txvlan", "off", "tx-vlan-stag-hw-insert", "off"]
NO_OFFLOAD = ["tx", "off", *TAGS_INSIDE]


def bond(
    namespace: Namespace,
    name: str,
    links: Collection[str],
    mode: str,
    features: Collection[str] = NO_OFFLOAD,
) -> None:
    extra = "lacp_rate fast" if mode == "802.3ad" else ""
    namespace.ip(f"link add {name} type bond mode {mode} miimon 10 {extra}")
    for link in links:
        namespace.run("ethtool", "-K", link, *features)
        namespace.ip(f"link set {link} down")
        namespace.ip(f"link set {link} master {name}")
    namespace.ip(f"link set {name} up")


class Bonded(Anycast):
    """The topology with bonds in place of these devices; one server."""

    def __init__(
        self, bonds: Collection[str], mode: str = "active-backup", vlan: bool = False
    ) -> None:
        require_kind("bond")
        self._bonds, self._mode, self._vlan = bonds, mode, vlan
        super().__init__((1,), seed=None)

    def join(self, far: Namespace, far_name: str, name: str) -> None:
        """Two veths between two bonds; where one is a backup, the first carries all as long as it
        is there."""
        if name not in self._bonds:
            super().join(far, far_name, name)
            return
        for number in (1, 2):
            veth(far, f"{far_name}-{number}", self.ns, f"{name}-{number}")
        ends = ((far, far_name), (self.ns, name))
        for namespace, end in ends:
            below = f"{end}-bond" if self._vlan else end
            # what leaves by a bond in generic mode takes all of its offloads
            features = NO_OFFLOAD if name == "c0" else TAGS_INSIDE
            bond(namespace, below, [f"{end}-1", f"{end}-2"], self._mode, features)
            if self._vlan:
                namespace.ip(f"link add link {below} name {end} type vlan id 100")
                namespace.ip(f"link set {end} up")
        for namespace, end in ends:
            up = f"link show dev {end} up"
            wait_until(lambda n=namespace, u=up: "LOWER_UP" in n.ip(u), f"{end} has a carrier")


@pytest.fixture(scope="module")
def into_bond() -> Iterator[Bonded]:
    with Bonded({"c0"}) as made:
        yield made


@pytest.fixture(scope="module")
def out_by_bond() -> Iterator[Bonded]:
    with Bonded({"e1"}) as made:
        yield made


def modes(net: Anycast) -> dict[str, str]:
    return {row["ifname"]: row["mode"] for row in net.json("status")["interfaces"]}


def test_in_by_a_bond(into_bond: Bonded) -> None:
    """The program runs on its links, which come and go by the bond's name."""
    assert verdicts(into_bond, "c0") == {"FORWARDED": 2 * FLOWS}
    assert modes(into_bond) == {"c0-1": "generic", "c0-2": "generic"}
    into_bond.run("attach", "c0")
    into_bond.run("detach", "c0")
    assert into_bond.remains() == []


def test_in_by_a_bond_after_its_active_link_has_gone(into_bond: Bonded) -> None:
    into_bond.attach("c0")
    into_bond.ns.ip("link set c0-1 down")
    into_bond.near.ip("link set eth0-1 down")
    into_bond.near.run("ping", "-c", "1", "-w", "20", "10.0.0.1")
    assert verdicts(into_bond, "c0") == {"FORWARDED": 2 * FLOWS}
    into_bond.detach()
    into_bond.ns.ip("link set c0-1 up")
    into_bond.near.ip("link set eth0-1 up")


def test_in_by_the_links_of_a_bond(into_bond: Bonded) -> None:
    """Named themselves; and by one of them, what comes in by the other is Linux's."""
    assert verdicts(into_bond, "c0-1", "c0-2") == {"FORWARDED": 2 * FLOWS}
    into_bond.detach()
    for command in ("attach", "doctor"):
        done = into_bond.run(command, "c0-2")
        assert "what c0 receives by c0-1 passes to Linux" in done.stdout + done.stderr
    into_bond.detach()


@pytest.mark.parametrize("mode", [NATIVE, "generic"])
def test_vlan_over_a_bond(mode: str) -> None:
    """With the tags in the frame, the links' offloads being off."""
    require_kind("vlan")
    with Bonded({"c0"}, vlan=True) as net:
        assert verdicts(net, "c0-bond", "--mode", mode) == {"FORWARDED": 2 * FLOWS}
        assert modes(net) == {"c0-1": mode, "c0-2": mode}
        assert net.json("explain", "192.0.2.80", "from", "198.18.0.1", "iif", "c0")["agrees"]


@pytest.mark.parametrize("offload", ["txvlan", "rxvlan"])
def test_vlan_over_a_bond_whose_tags_are_beside_the_frame(offload: str) -> None:
    """By the peers' offload all passes; a veth's own says nothing."""
    require_kind("vlan")
    with Bonded({"c0"}, vlan=True) as net:
        for number in (1, 2):
            end = net.near if offload == "txvlan" else net.ns
            name = f"eth0-{number}" if offload == "txvlan" else f"c0-{number}"
            end.run("ethtool", "-K", name, offload, "on")
        expected = "INTERFACE" if offload == "txvlan" else "FORWARDED"
        counted = verdicts(net, "c0-bond")
        assert counted.keys() == {expected}


@pytest.mark.parametrize("mode", ["balance-rr", "balance-xor", "802.3ad"])
def test_modes_of_a_bond(mode: str) -> None:
    """With balance-tlb and -alb two veths carry nothing, with Linux alone either."""
    with Bonded({"c0"}, mode) as net:
        assert verdicts(net, "c0").keys() == {"FORWARDED"}


@pytest.mark.parametrize("mode", [NATIVE, "generic"])
def test_an_inactive_link(wires: Wires, mode: str) -> None:
    """Linux drops what comes in there; and frames of all kinds fare as by Linux alone."""
    require_kind("bond")
    wires.ns.ip("link add b0 type veth peer name b1")
    bond(wires.ns, "bond0", ["c0", "b0"], "active-backup")
    wires.ns.ip("link set bond0 type bond primary c0")
    wires.ns.ip("link set b1 up")

    def choose(name: str) -> None:
        wires.ns.ip(f"link set bond0 type bond active_slave {name}")
        wait_until(
            lambda: f"active_slave {name}" in wires.ns.ip("-d link show bond0"), name, DEADLINE
        )

    choose("c0")
    mac = wires.mac("c0")
    said = wires.check("bond0", "--mode", mode, forwards=2, destination=mac)
    assert not [line for line in said if "it receives passes to Linux" in line]
    wires.run("attach", "bond0", "--mode", mode)
    for before, after in pairwise(("c0", "b0", "c0")):
        assert before != after
        choose(after)
        wait_until(lambda a=after: wires.passes("c0") == (a == "b0"), f"{after} in use", DEADLINE)
        with wires.counted() as counted:
            wires.sender.send(wires.frame(mac, (), "x"))
            reason = "INTERFACE" if after == "b0" else "FORWARDED"
            wait_until(lambda r=reason: wires.reasons()[r] > 0, "it came in", DEADLINE)
        assert bool(counted["FORWARDED"]) == (after == "c0")


@pytest.fixture
def wires() -> Iterator[Wires]:
    with Wires() as made:
        yield made


def test_out_by_a_bond_in_generic_mode(out_by_bond: Bonded) -> None:
    assert verdicts(out_by_bond, "c0", "--mode", "generic") == {"FORWARDED": 2 * FLOWS}


def test_out_by_a_bond_in_native_mode(out_by_bond: Bonded) -> None:
    """A bond sends XDP frames by its links, where they take them; before 6.3 nobody tells."""
    verdict = "FORWARDED" if kernel_has(Since.XDP_FEATURES) else "EGRESS_NO_XDP"
    assert verdicts(out_by_bond, "c0", "--mode", "native") == {verdict: 2 * FLOWS}
