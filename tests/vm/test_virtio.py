"""Native XDP on real drivers: the virtio NICs that `make test-vm` gives its virtual machine.

Each of its three wires has a NIC at either end. A virtio NIC sends XDP frames only while it runs a
program itself, so xdpecmp has to be attached to those that packets leave by, too.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.capabilities import Since, kernel_has, require_stock_kernel
from tests.net.topology import SEED, Anycast
from tests.netns import Namespace
from tests.vm.asking import FLOWS, verdicts
from vagrant.stock_kernel.machine import nic_address

WEIGHTS = (1, 1) if kernel_has(Since.HASH_SEED) else (1,)
NAMES = ("c0", *(f"e{i}" for i, _ in enumerate(WEIGHTS, 1)))


def nics() -> dict[str, str]:
    """Names by MAC address, of the host's own devices."""
    done = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True)
    return {link["address"]: link["ifname"] for link in json.loads(done.stdout)}


class Wired(Anycast):
    """The topology over NICs. They return to where they came from with their namespaces."""

    def join(self, far: Namespace, far_name: str, name: str) -> None:
        for end, (namespace, new) in enumerate([(self.ns, name), (far, far_name)]):
            old = nics()[nic_address(NAMES.index(name), end)]
            subprocess.run(["ip", "link", "set", old, "netns", namespace.name], check=True)
            namespace.ip(f"link set {old} name {new} up")


@pytest.fixture(scope="module")
def net() -> Iterator[Wired]:
    require_stock_kernel(nic_address(0, 0) in nics(), "the NICs of make test-vm's machine")
    with Wired(WEIGHTS, seed=SEED if len(WEIGHTS) > 1 else None) as made:
        yield made


@pytest.fixture
def detached(net: Wired) -> Iterator[Wired]:
    yield net
    net.detach()


def test_native_by_itself(detached: Wired) -> None:
    """Both ways: the answers come in by where the requests leave."""
    assert verdicts(detached, *NAMES) == {"FORWARDED": 4 * FLOWS}
    modes = {each["ifname"]: each["mode"] for each in detached.json("status")["interfaces"]}
    assert modes == dict.fromkeys(NAMES, "native")


def test_a_nic_without_a_program_sends_no_xdp_frames(detached: Wired) -> None:
    """Its packets are Linux's, until it gets one."""
    assert verdicts(detached, "c0") == {"EGRESS_NO_XDP": 2 * FLOWS}
    assert verdicts(detached, *NAMES) == {"FORWARDED": 4 * FLOWS}


def test_generic(detached: Wired) -> None:
    assert verdicts(detached, "c0", "--mode", "generic") == {"FORWARDED": 2 * FLOWS}
