"""A seed of our own over virtio NICs, where it is known that no flow is parted: and only there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.waiting import wait_until
from tests.net.topology import DEADLINE
from tests.net.uploads import UPLOAD, upload
from tests.vm.asking import FLOWS, asked, flows_and_answers
from tests.vm.wired import WIRES, Wired, require_wires
from xdpecmp.hashing import bounds, select
from xdpecmp.instance.instance import machine_seed
from xdpecmp.netlink import Kernel

WEIGHTS = (1, 2)
UPLOADS = 6


@pytest.fixture(scope="module")
def net() -> Iterator[Wired]:
    """Its Linux keeps its seed to itself."""
    require_wires()
    with Wired(WEIGHTS, seed=None) as made:
        yield made


@pytest.fixture(autouse=True)
def _detached(net: Wired) -> Iterator[None]:
    yield
    net.detach()


def passed(net: Wired) -> dict[str, str]:
    """What passes to Linux as a whole, by what it is."""
    return {row["what"]: row["text"] for row in net.status()["passed"]}


def wait_for_text(net: Wired, text: str) -> None:
    """Until that is said of multipath of both families; "" until nothing is."""

    def is_said() -> bool:
        found = passed(net)
        if not text:
            return not found
        return found.keys() == {"IPv4 multipath", "IPv6 multipath"} and all(
            text in each for each in found.values()
        )

    wait_until(is_said, f"{text or 'nothing'} said", DEADLINE)


def test_generic_mode_leaves_it_to_linux(net: Wired) -> None:
    """These NICs hand over unfinished checksums, and what looks unfinished passes."""
    said = net.attach(*WIRES, "--own-seed", "--mode", "generic").stderr
    assert "go by a hash seed of xdpecmp's own" not in said
    assert net.status()["own_seed_in_force"] is False
    with flows_and_answers(net) as (servers, flows, recorded):
        assert asked(net, servers, flows, recorded)["OWN_SEED"] == 2 * FLOWS


def test_flows_go_by_it_and_stay_whole(net: Wired) -> None:
    """Requests, and bulk TCP, whose segments come in larger than the MTU where something merges
    them. The answers, by routes with one next hop, are forwarded too."""
    said = net.attach(*WIRES, "--own-seed", "--mode", "native").stderr
    assert "go by a hash seed of xdpecmp's own" in said
    assert "packets with IPv4 options" in said
    status = net.status()
    assert (status["own_seed"], status["own_seed_in_force"]) == (True, True)
    assert (status["seed"], status["passed"]) == (machine_seed(), [])
    assert "ICMP errors that this router itself sends" in net.run("status").stdout
    with flows_and_answers(net) as (servers, flows, recorded):
        predicted = [
            1 + select(bounds(WEIGHTS), flow.key(0).hash(machine_seed())) for flow in flows
        ]
        assert [answer.server for answer in recorded] == predicted
        assert asked(net, servers, flows, recorded) == {"FORWARDED": 4 * FLOWS}
        net.attach("c0")  # an upgrade keeps to it
        assert asked(net, servers, flows, recorded) == {"FORWARDED": 4 * FLOWS}
    before = net.reason("OWN_SEED")
    for i in range(1, UPLOADS + 1):
        assert upload(net, 4, f"198.18.0.{i}") == UPLOAD
        assert upload(net, 6, f"2001:db8:c::{i}") == UPLOAD
    assert net.reason("OWN_SEED") == before
    assert net.reason("MTU") == 0
    verified = net.run("verify", "-j", "--flows", "10")
    assert "Linux keeps its hash seed to itself" in verified.stdout


def test_what_a_nic_merges(net: Wired) -> None:
    """In generic mode the kernel has it stop, if it can."""
    words = {"rx-lro": "large-receive-offload: on", "rx-gro-hw": "rx-gro-hw: on"}
    for mode in ("native", "generic"):
        net.attach(*WIRES, "--mode", mode)
        said = net.ns.run("ethtool", "-k", "c0").stdout
        with net.ns.enter(), Kernel() as kernel:
            link = kernel.links()[net.ns.ifindex("c0")]
        assert link.merges == {name for name, text in words.items() if text in said}
        net.detach()
    net.attach("c0")


def test_not_attached_everywhere(net: Wired) -> None:
    """An error about a flow may come in by the others."""
    said = net.attach("c0", "--own-seed").stderr
    assert "would split flows here: e1, e2 forwards too" in said
    assert "xdpecmp attach e1 e2" in said
    net.attach("e1", "e2")
    wait_for_text(net, "")


def test_followed_live(net: Wired) -> None:
    """What could split flows from now on has them all pass, until it is gone."""
    with flows_and_answers(net) as (servers, flows, linux):
        net.attach(*WIRES, "--own-seed")
        ours = servers.all_answers(flows)
        assert ours != linux
        net.ns.ip("link set e1 mtu 1400")
        wait_for_text(net, "the MTU of e1 is smaller")
        assert servers.all_answers(flows) == linux
        net.ns.ip("link set e1 mtu 1500")
        wait_for_text(net, "")
        assert servers.all_answers(flows) == ours
        net.ns.ip("link add v0 up type veth peer name v1")
        net.ns.ip("link set v1 up")
        wait_for_text(net, "forwards too")
        assert servers.all_answers(flows) == linux
        net.ns.ip("link del v0")
        wait_for_text(net, "")
        assert servers.all_answers(flows) == ours
        net.sysctl("net.ipv4.fib_multipath_hash_policy", 2)
        net.sysctl("net.ipv6.fib_multipath_hash_policy", 2)
        wait_for_text(net, "looks into tunnels")
        net.policy(0)
        wait_for_text(net, "")
