"""Neighbours: managed, used and released without harm to anybody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from testbed.netns import Namespace
from testbed.waiting import wait_until
from tests.net.netlink.helpers import DEADLINE_S
from xdpecmp.errors import NoSuchInterface
from xdpecmp.model.values import Neighbour
from xdpecmp.netlink import Kernel

pytestmark = pytest.mark.root


REACHABLE, STALE, FAILED, PERMANENT = 0x02, 0x04, 0x20, 0x80
FOUR, SIX = ip_address("10.0.0.2").packed, ip_address("fd00::2").packed
MAC = bytes.fromhex("020000000009")


def entry(kernel: Kernel, address: bytes, ifindex: int) -> Neighbour | None:
    return kernel.neighbours().get((address, ifindex))


def until(kernel: Kernel, ifindex: int, address: bytes, holds: Callable[[Neighbour], bool]) -> None:
    """Wait for an entry to be as wanted."""

    def condition() -> bool:
        found = entry(kernel, address, ifindex)
        return found is not None and holds(found)

    wait_until(condition, f"{ip_address(address)} as wanted", DEADLINE_S)


@pytest.mark.parametrize("address", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_managing_resolves(
    router: Namespace, kernel: Kernel, peer: Namespace, address: bytes
) -> None:
    eth0 = router.ifindex("eth0")
    assert kernel.manage_neighbour(address, eth0)
    until(kernel, eth0, address, lambda n: n.usable and n.managed)
    (link,) = json.loads(peer.ip("-j link show dev peer0"))
    found = entry(kernel, address, eth0)
    assert found is not None
    assert found.mac.hex(":") == link["address"]


@pytest.mark.parametrize("address", [FOUR, SIX], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("state", ["reachable", "stale"])
def test_managing_keeps_state_and_mac(
    router: Namespace, kernel: Kernel, address: bytes, state: str
) -> None:
    eth0 = router.ifindex("eth0")
    router.ip(f"neigh add {ip_address(address)} lladdr {MAC.hex(':')} nud {state} dev eth0")
    assert kernel.manage_neighbour(address, eth0)
    found = entry(kernel, address, eth0)
    assert found is not None
    assert found.managed
    assert found.usable
    assert found.mac == MAC


@pytest.mark.parametrize("how", ["nud permanent", "nud noarp", "nud reachable extern_learn"])
def test_entries_of_others_are_not_touched(router: Namespace, kernel: Kernel, how: str) -> None:
    eth0 = router.ifindex("eth0")
    router.ip(f"neigh add 10.0.0.2 lladdr {MAC.hex(':')} dev eth0 {how}")
    before, shown = entry(kernel, FOUR, eth0), router.ip("neigh show to 10.0.0.2")
    assert not kernel.manage_neighbour(FOUR, eth0)
    assert not kernel.release_neighbour(FOUR, eth0)
    if "extern_learn" not in how:
        assert not kernel.use_neighbour(FOUR, eth0)
    assert entry(kernel, FOUR, eth0) == before
    assert router.ip("neigh show to 10.0.0.2") == shown


def test_releasing_keeps_the_entry(router: Namespace, kernel: Kernel) -> None:
    eth0 = router.ifindex("eth0")
    router.ip(f"neigh add 10.0.0.2 lladdr {MAC.hex(':')} nud reachable dev eth0")
    assert kernel.manage_neighbour(FOUR, eth0)
    assert kernel.release_neighbour(FOUR, eth0)
    found = entry(kernel, FOUR, eth0)
    assert found is not None
    assert (found.managed, found.mac) == (False, MAC)
    assert not kernel.release_neighbour(FOUR, eth0)
    assert not kernel.release_neighbour(ip_address("10.0.0.77").packed, eth0)
    assert entry(kernel, ip_address("10.0.0.77").packed, eth0) is None


@pytest.mark.parametrize("managed", [False, True])
def test_using_probes_a_stale_entry(
    router: Namespace, kernel: Kernel, peer: Namespace, managed: bool
) -> None:
    eth0 = router.ifindex("eth0")
    router.sysctl("net/ipv4/neigh/eth0/delay_first_probe_time", 0)
    if managed:
        assert kernel.manage_neighbour(FOUR, eth0)
        until(kernel, eth0, FOUR, lambda n: n.usable)
    (link,) = json.loads(peer.ip("-j link show dev peer0"))
    router.ip(f"neigh replace 10.0.0.2 lladdr {link['address']} nud stale dev eth0")
    if managed:  # `ip neigh replace` without `managed` took the flag away
        assert kernel.manage_neighbour(FOUR, eth0)
    assert kernel.use_neighbour(FOUR, eth0)
    until(kernel, eth0, FOUR, lambda n: n.state == REACHABLE)
    found = entry(kernel, FOUR, eth0)
    assert found is not None
    assert found.managed is managed


def test_using_without_an_entry_makes_none(router: Namespace, kernel: Kernel) -> None:
    eth0 = router.ifindex("eth0")
    assert not kernel.use_neighbour(FOUR, eth0)
    assert entry(kernel, FOUR, eth0) is None


def test_neighbour_on_no_device(kernel: Kernel) -> None:
    with pytest.raises(NoSuchInterface):
        kernel.manage_neighbour(FOUR, 9999)


def test_proxy_entries_are_left_out(router: Namespace, kernel: Kernel) -> None:
    router.ip("neigh add proxy 10.0.0.99 dev eth0")
    assert (ip_address("10.0.0.99").packed, router.ifindex("eth0")) not in kernel.neighbours()
