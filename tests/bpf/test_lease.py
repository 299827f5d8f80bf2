"""What takes effect at once, whatever the tables say: the lease, BEHIND, devices that went down."""

from __future__ import annotations

import pytest
from scapy.layers.inet import UDP

from tests.bpf.harness import Outcome, Plane
from tests.bpf.packets import frame, to
from xdpecmp.dataplane.plane import Dataplane
from xdpecmp.program.clock import read_jiffies

pytestmark = pytest.mark.root


@pytest.mark.parametrize("family", [4, 6])
def test_lease(plane: Plane, family: int) -> None:
    """Without one all is passed, whatever it is."""
    packet = frame(to("single", family) / UDP())
    plane.load(plane.world.snapshot())
    plane.dataplane.set_lease(0)
    assert plane.observe(packet) == ("PASS", packet, {"LEASE_EXPIRED": 1}, {})
    arp = frame(bytes(28), ethertype=0x0806)
    assert plane.observe(arp) == ("PASS", arp, {"LEASE_EXPIRED": 1}, {})


@pytest.mark.parametrize("family", [4, 6])
def test_behind(plane: Plane, family: int) -> None:
    """Until the agent has caught up; a configuration put in force meanwhile changes nothing."""
    packet = frame(to("single", family) / UDP())
    plane.load(plane.world.snapshot())
    passed = Outcome("PASS", packet, {"BEHIND": 1}, {})
    plane.dataplane.fall_behind(4711)
    try:
        assert plane.observe(packet) == passed
        assert plane.maps["control"].entries[0].behind_jiffies == 4711
        plane.load(plane.world.snapshot(settings={"policy4": 1, "policy6": 1}))
        assert plane.observe(packet) == passed
        plane.load(plane.world.snapshot(custom_rules4=True, custom_rules6=True))
        assert plane.observe(packet) == ("PASS", packet, {"POLICY_RULES": 1}, {})
        plane.load(plane.world.snapshot())
    finally:
        plane.dataplane.catch_up()
    assert plane.run(packet)[0] == "REDIRECT"
    assert plane.maps["control"].entries[0].behind_jiffies == 0


@pytest.mark.parametrize("family", [4, 6])
def test_marked_down(plane: Plane, family: int) -> None:
    """At once, and until the next sync; other devices' next hops are left alone."""
    packet = frame(to("single", family) / UDP())
    tables = plane.load(plane.world.snapshot())
    assert not plane.dataplane.mark_down({0x7FFFFFFF})
    assert not plane.dataplane.mark_down({plane.world.ifindex["down"]}), "is so already"
    assert plane.run(packet)[0] == "REDIRECT"
    assert plane.dataplane.mark_down({plane.world.ifindex["out"]})
    assert plane.observe(packet) == ("PASS", packet, {"EGRESS_DOWN": 1}, {})
    assert not plane.dataplane.mark_down({plane.world.ifindex["out"]})
    plane.dataplane.sync(tables)
    assert plane.run(packet)[0] == "REDIRECT"


def test_what_an_earlier_agent_passed_passes_until_the_routes_are_in(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have died while it was behind: the routes are as old then as it left them."""
    packet = frame(to("single") / UDP())
    tables = plane.load(plane.world.snapshot())
    plane.dataplane.fall_behind(4711)
    successor = Dataplane(plane.maps)
    passed: list[dict[str, int]] = []

    def look() -> None:
        passed.append(plane.observe(packet).stats)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(
                successor._nexthops, "sync_devices", look
            )  # after the first configuration
            successor.sync(tables)
        assert passed == [{"BEHIND": 1}]
        assert plane.run(packet)[0] == "REDIRECT"
    finally:
        plane.dataplane = successor


def test_the_lease_ends_by_the_clock_program(plane: Plane) -> None:
    """The agent reads jiffies there; the lease ends with the very jiffy that it names."""
    packet = frame(to("single") / UDP())
    plane.load(plane.world.snapshot())
    now = read_jiffies(plane.clock)
    plane.dataplane.set_lease(now)
    assert plane.observe(packet).stats == {"LEASE_EXPIRED": 1}
    plane.dataplane.set_lease(now + 1_000_000)
    assert plane.run(packet)[0] == "REDIRECT"
    assert now <= read_jiffies(plane.clock) < now + 1_000_000
