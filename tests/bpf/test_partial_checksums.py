"""TCP and UDP checksums that somebody left for hardware: native XDP must not forward them, generic
XDP only where the egress takes them, and then also what was merged of several packets.

The field then holds the sum over the pseudo-header alone (RFC 9293, 3.1; RFC 8200, 8.1).
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tests.bpf.harness import Case, Plane
from tests.bpf.packets import forwarded, frame, to
from tests.bpf.world import TAGS, VIA, packed
from xdpecmp.model.values import Peer

pytestmark = pytest.mark.root

TELLING = Peer("eth0", "", hides_tags=False)
"""A veth's other end that leaves no VLAN tag beside a frame."""
NATIVE = {"links": {"in": {"kind": "veth", "peer": TELLING, "xdp_mode": "native"}}}
TAP = {"links": {"in": {"kind": "tun", "xdp_mode": "native"}}}
PHYSICAL = {"links": {"in": {"kind": "", "xdp_mode": "native"}}}


def generic(kind: str, out: str, **features: Any) -> dict[str, Any]:
    """Generic mode, by the kinds of devices."""
    ingress = {"kind": kind, "xdp_mode": "generic", "offloads_received": not kind, "peer": TELLING}
    links = {"in": ingress, "out": {"kind": out, **features}}
    return {"links": links}


GENERIC = generic("veth", "veth")
SOFTWARE = ("veth", "tun", "vxlan", "geneve", "gretap")
"""Kinds of devices whose packets may be merged without a mark. All others pass whole."""
HARDWARE = generic("", "")
PLAIN = {"links": {"in": {"kind": "", "xdp_mode": "generic"}, "out": {"kind": ""}}}
"""A NIC that says nothing of checksums leaves none for later."""
PROTO = {TCP: 6, UDP: 17}


def partial(head: Packet, l4: Packet) -> Packet:
    """The packet as it leaves a socket whose device has checksum offload."""
    l4 = l4.copy()
    size = len(l4)
    ends = packed(head.src) + packed(head.dst)
    pseudo = ends + struct.pack("!II", size, PROTO[type(l4)])
    l4.chksum = 0xFFFF - checksum(pseudo)
    return head / l4


def packets(family: int) -> dict[str, Packet]:
    rows: dict[str, Packet] = {}
    for kind, l4 in (("TCP", TCP(dport=80) / Raw(b"odd")), ("UDP", UDP(dport=53) / Raw(b"even"))):
        rows[kind] = partial(to("single", family), l4)
        if family == 6:
            payload = rows[kind].payload
            rows[f"{kind} behind options"] = to("single", 6) / IPv6ExtHdrDestOpt() / payload
    return rows


def pass_or_not(name: str, family: int, packet: Packet, reason: str, setup: Any) -> Case:
    l3 = bytes(packet)
    via = VIA[family]["single"]
    out = forwarded(l3, via)
    title = f"IPv{family} {name}"
    return Case(title, frame(l3, padding=bytes(6)), reason, out=out, via=via, setup=setup)


def poor(kind: str) -> dict[str, Any]:
    """An egress that lacks an offload."""
    return generic(kind, "veth", segments_all=False)


def generic_or_native(kind: str) -> dict[str, Any]:
    """Nobody knows yet."""
    return {"links": {"in": {"kind": kind, "xdp_mode": "", "peer": TELLING}}}


def rows() -> list[Case]:
    cases = []
    for family in (4, 6):
        for name, packet in packets(family).items():
            for where, setup, reason in (
                ("native veth", NATIVE, "PARTIAL_CHECKSUM"),
                ("native tap", TAP, "PARTIAL_CHECKSUM"),
                ("NIC", PHYSICAL, "FORWARDED"),
                ("about to be attached", generic_or_native(""), "PARTIAL_CHECKSUM"),
                ("generic veth", GENERIC, "FORWARDED"),
                ("generic NIC to a veth", generic("", "veth"), "FORWARDED"),
                ("generic tap to a veth", generic("tun", "veth"), "FORWARDED"),
                ("generic NIC to a NIC", HARDWARE, "PARTIAL_CHECKSUM"),
                ("generic NIC without offloads to a NIC", PLAIN, "FORWARDED"),
                ("generic veth to a tap", generic("veth", "tun"), "PARTIAL_CHECKSUM"),
                *(
                    (f"generic {kind} to a poor veth", poor(kind), "PARTIAL_CHECKSUM")
                    for kind in ("", *SOFTWARE)
                ),
            ):
                cases.append(pass_or_not(f"{name}, {where}", family, packet, reason, setup))
        head = to("single", family)
        whole = {
            "TCP, finished": head / TCP(dport=80),
            "UDP, finished": head / UDP(dport=53),
            "TCP, field not there": to("single", family, **{("proto", "nh")[family // 6]: 6})
            / Raw(bytes(17)),
        }
        for name, packet in whole.items():
            cases.append(pass_or_not(name, family, packet, "FORWARDED", NATIVE))
            cases.append(pass_or_not(f"{name}, NICs", family, packet, "FORWARDED", HARDWARE))
            cases.append(pass_or_not(f"{name}, NIC", family, packet, "FORWARDED", poor("")))
            for kind in SOFTWARE:  # several, maybe
                title = f"{name}, {kind} to a poor veth"
                cases.append(pass_or_not(title, family, packet, "PARTIAL_CHECKSUM", poor(kind)))
                setup = generic(kind, "veth")
                cases.append(
                    pass_or_not(f"{name}, {kind} to a veth", family, packet, "FORWARDED", setup)
                )
        tunnels = {f"UDP to {port}": head / UDP(dport=port) for port in (4789, 8472, 6081)}
        tunnels["UDP, without"] = head / UDP(dport=53, chksum=0)
        for name, packet in tunnels.items():
            for setup, reason in ((NATIVE, "PARTIAL_CHECKSUM"), (PHYSICAL, "FORWARDED")):
                cases.append(pass_or_not(name, family, packet, reason, setup))
    fragment4 = partial(to("single", flags="MF"), UDP(dport=53))
    cases.append(pass_or_not("fragment", 4, fragment4, "FORWARDED", NATIVE))
    udp = partial(to("single", 6), UDP(dport=53)).payload
    fragment6 = to("single", 6) / IPv6ExtHdrFragment(m=1) / udp
    cases.append(pass_or_not("fragment", 6, fragment6, "FORWARDED", NATIVE))
    return cases


ROWS = rows()


@pytest.mark.parametrize("kind", SOFTWARE)
def test_icmp_errors_are_never_merged(plane: Plane, kind: str) -> None:
    """They go on where they follow their flow."""
    quote = to("single") / UDP(sport=1, dport=2)
    for error, icmp in ((ICMP(type=3, code=4), "V4_FRAG_NEEDED"), (ICMP(type=8), "")):
        l3 = bytes(to("single") / error / quote)
        via = VIA[4]["single"]
        reason = "FORWARDED" if icmp else "PARTIAL_CHECKSUM"
        case = Case(kind, frame(l3), reason, forwarded(l3, via), via, icmp, poor(kind))
        plane.check(case)


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_partial_checksum(plane: Plane, case: Case) -> None:
    plane.check(case)


def test_vlan_over_a_veth(plane: Plane) -> None:
    packet = frame(partial(to("single"), UDP(dport=53)), TAGS["in.10"])
    plane.check(Case("VLAN", packet, "PARTIAL_CHECKSUM", setup=NATIVE))


@pytest.mark.parametrize("family", [4, 6])
def test_sctp_checksum(plane: Plane, family: int) -> None:
    """SCTP leaves its CRC32c to a device with NETIF_F_SCTP_CRC, as a veth is, and the field 0:
    sctp_packet_pack() in net/sctp/output.c."""
    field = ("proto", "nh")[family == 6]
    for crc, reason in ((0, "PARTIAL_CHECKSUM"), (0x01020304, "FORWARDED")):
        sctp = struct.pack("!HHII", 2905, 2905, 7, crc) + bytes.fromhex("03000010") + bytes(12)
        packet = to("single", family, **{field: 132}) / Raw(sctp)
        for setup in (NATIVE, GENERIC):
            plane.check(pass_or_not(f"SCTP {crc:#x}", family, packet, reason, setup))
