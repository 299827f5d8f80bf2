"""Frames cut anywhere and frames of rubbish: never anything but PASS, unchanged, unless the slow
reference says that this is a packet to forward; then every byte is as it must be."""

from __future__ import annotations

from errno import EINVAL

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Raw
from scapy.utils import checksum

from tests.bpf.harness import Plane
from tests.bpf.packets import SENDER_MAC, forwarded, frame, tag_bytes, to
from tests.bpf.reference import surely_forwardable
from tests.bpf.world import TAGS, VIA, device_mac, packed
from xdpecmp.program.libbpf import MIN_TEST_FRAME

pytestmark = pytest.mark.root

LONGEST = 200
DATA = bytes(range(40))
ERROR6 = bytes([1, 4]) + bytes(6) + bytes(to("single", 6) / UDP())
PACKETS = {
    "TCP4": (to("single") / TCP() / Raw(DATA), ()),
    "UDP4 without payload": (to("single") / UDP(), ()),
    "IPv4 header alone": (to("single", proto=253), ()),
    "TCP6": (to("single", 6) / TCP() / Raw(DATA), ()),
    "IPv6 header and a byte": (to("single", 6, nh=59) / Raw(b"\0"), ()),
    "ICMP error": (to("single") / ICMP(type=3, code=4) / to("single") / UDP() / Raw(DATA), ()),
    "ICMPv6 error": (to("single", 6, nh=58) / Raw(ERROR6), ()),
    "VLAN": (to("single") / TCP() / Raw(DATA), TAGS["in.10"]),
    "two VLAN tags": (to("single", 6) / TCP() / Raw(DATA), TAGS["in.20.30"]),
    "extension headers": (
        to("single", 6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / UDP() / Raw(DATA),
        (),
    ),
    "fragment": (to("single", 6) / IPv6ExtHdrFragment(m=1) / UDP() / Raw(DATA), ()),
}


@pytest.mark.parametrize("length", range(MIN_TEST_FRAME))
def test_a_test_run_takes_no_less_than_an_ethernet_header(plane: Plane, length: int) -> None:
    """The kernel refuses such frames, and so do drivers: the program can't be run on them."""
    with pytest.raises(OSError, match="test run") as raised:
        plane.run(bytes(length))
    assert raised.value.errno == EINVAL


@pytest.mark.parametrize("name", PACKETS)
def test_frames_of_every_length(plane: Plane, name: str) -> None:
    """Cut before its end a packet is passed; whole, with whatever padding, it is forwarded."""
    packet, tags = PACKETS[name]
    l3 = bytes(packet)
    whole = frame(l3, tags)
    assert len(whole) < LONGEST
    padded = whole + bytes([0xEE]) * LONGEST
    out = forwarded(l3, VIA[l3[0] >> 4]["single"])
    for length in range(MIN_TEST_FRAME, LONGEST + 1):
        cut = padded[:length]
        expected = ("REDIRECT", out) if length >= len(whole) else ("PASS", cut)
        assert plane.run(cut) == expected, length
        assert (surely_forwardable(cut) is not None) == (length >= len(whole)), length


@pytest.mark.parametrize("name", PACKETS)
def test_counters_of_frames_of_every_length(plane: Plane, name: str) -> None:
    """Each is counted exactly once, by a reason for what is too short."""
    packet, tags = PACKETS[name]
    whole = frame(packet, tags)
    via = VIA[bytes(packet)[0] >> 4]["single"]
    for length in (*range(MIN_TEST_FRAME, len(whole), 5), len(whole) - 1, len(whole)):
        outcome = plane.observe(whole[:length])
        if length == len(whole):
            assert outcome.traffic == {via: (1, len(outcome.frame))}
            continue
        assert outcome.traffic == {}
        assert sum(outcome.stats.values()) == 1
        assert outcome.stats.keys() <= {"MALFORMED", "LENGTH"}, length


# --- rubbish -------------------------------------------------------------------------------------

OWN = {packed(a) for a in ("10.0.0.1", "10.0.1.254")}


def judge(plane: Plane, data: bytes) -> str:
    """Runs it and compares with the reference; returns the verdict."""
    verdict, out = plane.run(data)
    packet = surely_forwardable(data)
    if verdict == "PASS":
        assert out == data
        if packet is not None:
            assert not goes_to_single(packet), "surely forwardable, and passed"
        return verdict
    assert verdict == "REDIRECT"
    assert packet is not None, "forwarded what may not be forwardable"
    if goes_to_single(packet):
        assert out == forwarded(packet, VIA[packet[0] >> 4]["single"])
    return verdict


def goes_to_single(packet: bytes) -> bool:
    if packet[0] >> 4 == 4:
        return packet[16:19] == packed("198.18.1.0")[:3] and packet[12:16] not in OWN
    return packet[24:30] == packed("2001:db8:1::")[:6]


tags = st.sampled_from([(), (), *TAGS.values(), TAGS["in.20"] + TAGS["in.10"] + TAGS["in.10"]])
fast = settings(max_examples=400, suppress_health_check=list(HealthCheck))


@fast
@given(tags, st.sampled_from([0x0800, 0x86DD, 0x8100, 0x88A8, 0x0806]), st.binary(max_size=120))
def test_random_bytes_behind_an_ethernet_header(
    plane: Plane, above: tuple[tuple[int, int], ...], proto: int, rest: bytes
) -> None:
    head = device_mac("in") + SENDER_MAC + tag_bytes(above)
    judge(plane, head + proto.to_bytes(2, "big") + rest)


@fast
@given(st.sampled_from([4, 6]), tags, st.binary(min_size=60, max_size=120), st.data())
def test_random_bytes_behind_an_ip_header_that_is_nearly_right(
    plane: Plane, family: int, above: tuple[tuple[int, int], ...], rest: bytes, data: st.DataObject
) -> None:
    """Version, length and addresses are right to begin with, so that the later checks are met."""
    raw = bytearray(rest)
    base = bytes(to("single", family))
    if family == 4:
        raw[0] = 0x45
        raw[2:4] = data.draw(st.integers(0, len(raw) + 2)).to_bytes(2, "big")
        raw[12:20] = base[12:20]
        raw[10:12] = bytes(2)
        raw[10:12] = checksum(bytes(raw[:20])).to_bytes(2, "big")
    else:
        raw[0] = 0x60
        raw[4:6] = data.draw(st.integers(0, len(raw) - 38)).to_bytes(2, "big")
        raw[6] = data.draw(st.sampled_from([0, 6, 17, 43, 44, 58, 59, 60, 60, 60]))
        raw[8:40] = base[8:40]
        for at in range(40, len(raw) - 1, 8):  # extension headers that are likely to go on
            raw[at] = data.draw(st.sampled_from([60, 60, 44, 43, 0, 17]))
            raw[at + 1] = data.draw(st.sampled_from([0, 0, 0, 1, 255]))
    judge(plane, frame(bytes(raw), above, ethertype={4: 0x0800, 6: 0x86DD}[family]))


@fast
@given(st.sampled_from(sorted(PACKETS)), st.data())
def test_packets_with_bytes_changed(plane: Plane, name: str, data: st.DataObject) -> None:
    packet, above = PACKETS[name]
    raw = bytearray(frame(packet, above, padding=bytes(8)))
    for at in data.draw(st.lists(st.integers(0, 80), max_size=3)):
        raw[at % len(raw)] = data.draw(st.integers(0, 255))
    start = 14 + 4 * len(above)
    if raw[start] == 0x45 and data.draw(st.booleans()):
        raw[start + 10 : start + 12] = bytes(2)
        raw[start + 10 : start + 12] = checksum(bytes(raw[start : start + 20])).to_bytes(2, "big")
    judge(plane, bytes(raw))
