"""VLAN tags: 802.1Q, 802.1ad and two of them, popped at the ingress and pushed at the egress."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import UDP

from tests.bpf.harness import Case, Plane
from tests.bpf.packets import Tags, forwarded, frame, to
from tests.bpf.world import TAGS, VIA
from tests.capabilities import Since, since
from xdpecmp.model.values import Link

pytestmark = pytest.mark.root

INGRESS = ("in", "in.10", "in.20", "in.20.30", "in.40", "in.40.50")
EGRESS = ("single", "out.100", "out.200", "out.200.300", "out.4094")
PRIORITY = 0xB000  # PCP 5 and the DEI bit


def with_priority(tags: Tags) -> Tags:
    return [(tpid, PRIORITY | vid) for tpid, vid in tags]


def rows() -> list[Case]:
    """Every kind of ingress to every kind of egress, with the payload in padding as NICs send it.

    The priority of the ingress tag stays behind: without an egress map Linux sends priority 0.
    """
    cases = []
    for family in (4, 6):
        for ingress in INGRESS:
            for egress in EGRESS:
                l3 = bytes(to(egress, family) / UDP(sport=1, dport=2))
                tags_in = with_priority(TAGS.get(ingress, ()))
                via = VIA[family][egress]
                out = forwarded(l3, via, "out", TAGS.get(egress, ()))
                packet = frame(l3, tags_in, padding=bytes(46))
                cases.append(Case(f"IPv{family} {ingress} to {egress}", packet, out=out, via=via))
    return cases


@pytest.mark.parametrize("case", rows(), ids=str)
def test_tags_of_what_is_forwarded(plane: Plane, case: Case) -> None:
    plane.check(case)


def passed(name: str, tags: Tags, reason: str, **setup: object) -> Case:
    return Case(name, frame(to("single") / UDP(), tags), reason, setup=setup)


PASSED = [
    passed("VLAN unknown", [(0x8100, 11)], "INTERFACE"),
    passed("VLAN 266, which ends in the bits of 10", [(0x8100, 266)], "INTERFACE"),
    passed("priority tag", [(0x8100, 0xA000)], "INTERFACE"),
    passed("other TPID than the device's", [(0x88A8, 10)], "INTERFACE"),
    passed("outer tag alone is unknown", [(0x88A8, 200)], "INTERFACE"),
    passed("inner tag unknown", [(0x88A8, 20), (0x8100, 31)], "INTERFACE"),
    passed("inner tag of another TPID", [(0x88A8, 20), (0x88A8, 30)], "INTERFACE"),
    passed("tags swapped", [(0x8100, 30), (0x88A8, 20)], "INTERFACE"),
    passed("VLAN of the egress device", [(0x8100, 100)], "INTERFACE"),
    passed("three tags", [(0x88A8, 20), (0x8100, 30), (0x8100, 40)], "NON_IP"),
    passed("VLAN down", [(0x8100, 10)], "INTERFACE", links={"in.10": {"up": False}}),
    passed("VLAN enslaved", [(0x8100, 10)], "INTERFACE", links={"in.10": {"master": 9}}),
    passed(
        "forwarding off on the VLAN",
        [(0x8100, 10)],
        "FORWARDING_OFF",
        interfaces={"in.10": {"forwarding4": False}},
    ),
    Case(
        "three tags to push",
        frame(to("single", dst="198.18.20.1") / UDP()),
        "ROUTE_UNSUPPORTED",
        setup={"routes": "198.18.20.0/24 via 10.0.20.1 dev out.200.300.400"},
    ),
]


@pytest.mark.parametrize("case", PASSED, ids=str)
def test_tags_of_what_is_passed(plane: Plane, case: Case) -> None:
    plane.check(case)


def test_three_tags_to_push_in_generic_mode(plane: Plane) -> None:
    """Whatever the reason: nobody can push three, generic XDP neither."""
    generic = {"in": {"xdp_mode": "generic"}}
    routes = "198.18.20.0/24 via 10.0.20.1 dev out.200.300.400"
    plane.load(plane.world.snapshot(routes=routes, links=generic))
    packet = frame(to("single", dst="198.18.20.1") / UDP())
    assert plane.run(packet) == ("PASS", packet)


def test_settings_are_those_of_the_vlan(plane: Plane) -> None:
    """Forwarding may be off on the device below: the VLAN's own sysctls count."""
    snapshot = plane.world.snapshot(interfaces={"in": {"forwarding4": False}})
    plane.load(snapshot)
    l3 = bytes(to("single") / UDP())
    assert plane.observe(frame(l3)).stats == {"FORWARDING_OFF": 1}
    assert plane.run(frame(l3, TAGS["in.10"])) == ("REDIRECT", forwarded(l3, VIA[4]["single"]))


def test_the_vlan_has_a_mac_of_its_own(plane: Plane) -> None:
    mac = bytes.fromhex("02aabbccddee")
    plane.load(plane.world.snapshot(links={"in.10": {"mac": mac}, "out.100": {"mac": mac}}))
    l3, via = bytes(to("out.100") / UDP()), VIA[4]["out.100"]
    assert plane.observe(frame(l3, TAGS["in.10"])).stats == {"NOT_OUR_MAC": 1}
    out = bytearray(forwarded(l3, via, "out", TAGS["out.100"]))
    out[6:12] = mac
    case = Case("own MAC", frame(l3, TAGS["in.10"], destination=mac), out=bytes(out), via=via)
    links = {"in.10": {"mac": mac}, "out.100": {"mac": mac}}
    plane.check(replace(case, setup={"links": links}))


def test_mtu_is_that_of_the_packet_not_the_frame(plane: Plane) -> None:
    """Tags count at the egress alone, and there from the second on: the devmap allows for one."""
    via = VIA[4]["out.200.300"]
    for size, reason in ((1496, "FORWARDED"), (1497, "MTU")):
        l3 = bytes(to("out.200.300") / UDP() / bytes(size - 28))
        out = forwarded(l3, via, "out", TAGS["out.200.300"])
        tags_in = TAGS["in.20.30"]
        plane.check(Case(f"{size} bytes", frame(l3, tags_in), reason, out=out, via=via))


# Of 256 bytes of headroom XDP keeps 40 for struct xdp_frame (include/net/xdp.h).
ALL_HEADROOM = 216


@since(Since.LARGE_METADATA)
@pytest.mark.parametrize("tags", [(), TAGS["in.10"]], ids=["4 more", "as many"])
def test_no_headroom(plane: Plane, tags: Tags) -> None:
    """Metadata in front of the frame takes the space that a further tag would need."""
    plane.load(plane.world.snapshot())
    l3, via = bytes(to("out.100") / UDP()), VIA[4]["out.100"]
    packet = frame(l3, tags)
    outcome = plane.observe(packet, metadata=ALL_HEADROOM)
    if tags:
        assert outcome[:2] == ("REDIRECT", forwarded(l3, via, "out", TAGS["out.100"]))
    else:
        assert outcome == ("PASS", packet, {"NO_HEADROOM": 1}, {})


VRRP = bytes.fromhex("00005e000133")


def macvlan(index: int, lower: int, **changes: Any) -> Link:
    return replace(
        Link(index, "vrrp", VRRP, 1500, True, "macvlan", 0, lower), mode="private", **changes
    )


@pytest.mark.parametrize("tags_of", ["in", "in.10", "in.20.30"])
def test_a_macvlan_has_a_mac_of_its_own(plane: Plane, tags_of: str) -> None:
    """Over a NIC and over its VLAN devices, whose own frames are not concerned."""
    snapshot = plane.world.snapshot()
    base = snapshot.settings.interfaces[plane.world.ifindex["in"]]
    above = macvlan(2000, plane.world.ifindex[tags_of])
    settings = replace(snapshot.settings, interfaces={**snapshot.settings.interfaces, 2000: base})
    snapshot = replace(snapshot, links={**snapshot.links, 2000: above}, settings=settings)
    plane.load(snapshot)
    l3 = bytes(to("single") / UDP(sport=1, dport=2))
    out = forwarded(l3, VIA[4]["single"])
    for name in ("in", "in.10", "in.20.30"):
        tags = TAGS.get(name, ())
        assert plane.run(frame(l3, tags)) == ("REDIRECT", out)
        if name == tags_of:
            assert plane.run(frame(l3, tags, destination=VRRP)) == ("REDIRECT", out)
        else:
            assert plane.observe(frame(l3, tags, destination=VRRP)).stats == {"NOT_OUR_MAC": 1}
    unknown = [(0x8100, 11)]
    assert plane.observe(frame(l3, unknown, destination=VRRP)).stats == {"INTERFACE": 1}
    other = bytes.fromhex("00005e000134")
    assert plane.observe(frame(l3, TAGS.get(tags_of, ()), destination=other)).stats == {
        "NOT_OUR_MAC": 1
    }
    off = replace(
        settings, interfaces={**settings.interfaces, 2000: replace(base, forwarding4=False)}
    )
    plane.load(replace(snapshot, settings=off))
    stats = plane.observe(frame(l3, TAGS.get(tags_of, ()), destination=VRRP)).stats
    assert stats == {"FORWARDING_OFF": 1}  # its own settings
    plane.load(replace(snapshot, links={**snapshot.links, 2000: replace(above, up=False)}))
    stats = plane.observe(frame(l3, TAGS.get(tags_of, ()), destination=VRRP)).stats
    assert stats == {"NOT_OUR_MAC": 1}


def test_what_is_found_by_tag_or_mac_is_no_ingress_of_its_own(plane: Plane) -> None:
    """A program on a macvlan could not see the tags."""
    snapshot = plane.world.snapshot()
    index = plane.world.ifindex["other"]  # some device that there is
    above = replace(macvlan(index, plane.world.ifindex["in"]), name="other")
    plane.load(replace(snapshot, links={**snapshot.links, index: above}))
    packet = frame(to("single") / UDP(), destination=VRRP)
    assert plane.observe(packet).verdict == "REDIRECT"
    assert plane.observe(packet, device="other").stats == {"INTERFACE": 1}


def test_what_a_link_of_a_bond_receives_comes_in_by_the_bond(plane: Plane) -> None:
    """By the bond's settings and to the link's MAC, as long as it is in use."""
    world = plane.world
    snapshot, nic = world.snapshot(), world.ifindex["in"]
    bond = Link(2001, "bond", VRRP, 1500, True, "bond", mode="active-backup")
    settings = {**snapshot.settings.interfaces, 2001: snapshot.settings.interfaces[nic]}
    settings[nic] = replace(settings[nic], forwarding4=False)
    active = replace(snapshot.links[nic], master=2001, delivers=True)
    tagged = replace(snapshot.links[world.ifindex["in.10"]], lower=2001)
    links = {**snapshot.links, nic: active, 2001: bond, tagged.ifindex: tagged}
    snapshot = replace(
        snapshot, links=links, settings=replace(snapshot.settings, interfaces=settings)
    )
    plane.load(snapshot)
    l3 = bytes(to("single") / UDP(sport=1, dport=2))
    out = ("REDIRECT", forwarded(l3, VIA[4]["single"]))
    assert plane.run(frame(l3)) == out
    assert plane.run(frame(l3, TAGS["in.10"])) == out
    assert plane.observe(frame(l3, [(0x8100, 11)])).stats == {"INTERFACE": 1}
    standby = replace(active, delivers=False)
    plane.load(replace(snapshot, links={**links, nic: standby}))
    for tags in ((), TAGS["in.10"]):
        assert plane.observe(frame(l3, tags)).stats == {"INTERFACE": 1}
