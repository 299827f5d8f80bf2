"""A bond of two links, as where packets come in and as where they leave.

The device of the topology's name is the bond, at both ends of its wires.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest

from tests.capabilities import Since, kernel_has
from tests.net.topology import Anycast
from tests.netns import Namespace, veth, wait_until
from tests.vm.asking import FLOWS, verdicts
from tests.vm.devices import require_kind


class Bonded(Anycast):
    """The topology with bonds in place of these devices; one server."""

    def __init__(self, bonds: Collection[str]) -> None:
        require_kind("bond")
        self._bonds = bonds
        super().__init__((1,), seed=None)

    def join(self, far: Namespace, far_name: str, name: str) -> None:
        """Two veths between two bonds; the first carries all as long as it is there."""
        if name not in self._bonds:
            super().join(far, far_name, name)
            return
        for number in (1, 2):
            veth(far, f"{far_name}-{number}", self.ns, f"{name}-{number}")
        for namespace, end in ((far, far_name), (self.ns, name)):
            namespace.ip(f"link add {end} type bond mode active-backup miimon 10")
            for number in (1, 2):
                namespace.run("ethtool", "-K", f"{end}-{number}", "tx", "off")
                namespace.ip(f"link set {end}-{number} down")
                namespace.ip(f"link set {end}-{number} master {end}")
            namespace.run("ethtool", "-K", end, "rxvlan", "off")  # as README asks of any NIC
            namespace.ip(f"link set {end} up")
        for namespace, end in ((far, far_name), (self.ns, name)):
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


def test_in_by_a_bond(into_bond: Bonded) -> None:
    """By itself it gets generic mode: natively the program runs on the bond's links."""
    assert verdicts(into_bond, "c0") == {"FORWARDED": 2 * FLOWS}
    assert into_bond.json("status")["interfaces"][0]["mode"] == "generic"


def test_in_by_a_bond_after_its_active_link_has_gone(into_bond: Bonded) -> None:
    into_bond.ns.ip("link set c0-1 down")
    into_bond.near.ip("link set eth0-1 down")
    assert verdicts(into_bond, "c0") == {"FORWARDED": 2 * FLOWS}


def test_a_link_of_a_bond_passes_all(into_bond: Bonded) -> None:
    """What it receives belongs to the bond."""
    into_bond.detach()
    assert verdicts(into_bond, "c0-1", "c0-2") == {"INTERFACE": 2 * FLOWS}


def test_out_by_a_bond_in_generic_mode(out_by_bond: Bonded) -> None:
    assert verdicts(out_by_bond, "c0", "--mode", "generic") == {"FORWARDED": 2 * FLOWS}


def test_out_by_a_bond_in_native_mode(out_by_bond: Bonded) -> None:
    """A bond sends XDP frames by its links, where they take them; before 6.3 nobody tells."""
    verdict = "FORWARDED" if kernel_has(Since.XDP_FEATURES) else "EGRESS_NO_XDP"
    assert verdicts(out_by_bond, "c0", "--mode", "native") == {verdict: 2 * FLOWS}
