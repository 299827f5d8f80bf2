"""Native XDP on real drivers: the virtio NICs that `make test-vm` gives its virtual machine.

Each of its three wires has a NIC at either end. A virtio NIC sends XDP frames only while it runs a
program itself, so xdpecmp has to be attached to those that packets leave by, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.capabilities import Since, kernel_has
from tests.net.topology import SEED
from tests.vm.asking import FLOWS, verdicts
from tests.vm.wired import WIRES, Wired, require_wires

WEIGHTS = (1, 1) if kernel_has(Since.HASH_SEED) else (1,)
NAMES = WIRES[: 1 + len(WEIGHTS)]


@pytest.fixture(scope="module")
def net() -> Iterator[Wired]:
    require_wires()
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
