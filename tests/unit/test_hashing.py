"""`xdpecmp.hashing` against published vectors, recorded kernel answers and its own laws."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from xdpecmp.hashing import (
    HASH_SPACE,
    FlowKey,
    bounds,
    flow_key,
    moved_share,
    select,
    shares,
    sip_absorb,
    sip_state,
    siphash24,
    siphash31,
)

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "kernel-6.18.json").read_text()
)


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


# --- published and recorded vectors --------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, 0x726FDB47DD0E0E31),  # vectors_sip64[0] and [8] of the reference implementation
        (8, 0x93F5F5799A932462),
        (15, 0xA129CA6149BE45E5),  # appendix A of the paper
    ],
)
def test_siphash_matches_the_reference(length: int, expected: int) -> None:
    key0, key1 = struct.unpack("<2Q", bytes(range(16)))
    assert siphash24(bytes(range(length)), key0, key1) == expected


def test_siphash31_cuts_the_64_bit_hash() -> None:
    seed, message = 0xDEADBEEF, bytes(range(48))
    full = siphash24(message, 0xDEADBEEFDEADBEEF, 0xDEADBEEFDEADBEEF)
    assert siphash31(message, seed) == (full & 0xFFFFFFFF) >> 1


def test_every_field_of_the_vectors_is_used() -> None:
    fields = "family policy seed src dst proto sport dport flow_label hash31 weights bounds chosen"
    assert len(VECTORS) == 144
    assert {key for row in VECTORS for key in row} == set(fields.split())
    # A policy or a label that is not among these must not slip in unnoticed.
    assert {(row["family"], row["policy"]) for row in VECTORS} == {(4, 0), (4, 1), (6, 0), (6, 1)}


@pytest.mark.parametrize("row", VECTORS)
def test_recorded_kernel_answer(row: dict[str, Any]) -> None:
    ports = {"sport": row["sport"], "dport": row["dport"]}
    flow = FlowKey(
        row["family"],
        packed(row["src"]),
        packed(row["dst"]),
        row["proto"],
        **ports,
        flow_label=row["flow_label"],
    )
    l4 = {6: TCP, 17: UDP}[row["proto"]](**ports)
    addresses = {"src": row["src"], "dst": row["dst"]}
    l3 = IP(**addresses) if row["family"] == 4 else IPv6(**addresses, fl=row["flow_label"])

    key = flow_key(bytes(l3 / l4), row["policy"])
    assert key == flow.for_policy(row["policy"])
    assert len(key.pack()) == {4: 48, 6: 72}[row["family"]]
    assert key.hash(row["seed"]) == row["hash31"]
    assert list(bounds(row["weights"])) == row["bounds"]
    assert select(row["bounds"], row["hash31"]) == row["chosen"]


# --- hash ----------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)
numbers16 = st.integers(0, 2**16 - 1)


def flows_of(family: int) -> st.SearchStrategy[FlowKey]:
    address = (
        st.binary(min_size=4, max_size=4) if family == 4 else st.binary(min_size=16, max_size=16)
    )
    label = st.integers(0, (0 if family == 4 else 2**20 - 1))
    return st.builds(
        FlowKey, st.just(family), address, address, st.integers(0, 255), numbers16, numbers16, label
    )


flows = flows_of(4) | flows_of(6)


@given(flows, seeds)
def test_both_directions_hash_alike(flow: FlowKey, seed: int) -> None:
    back = flow._replace(
        source=flow.destination, destination=flow.source, sport=flow.dport, dport=flow.sport
    )
    assert back.pack() == flow.pack()
    assert back.hash(seed) == flow.hash(seed)
    assert 0 <= flow.hash(seed) < HASH_SPACE


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), seeds)
def test_state_after_four_zero_words_is_how_ipv4_policy_0_begins(
    source: bytes, destination: bytes, seed: int
) -> None:
    key = FlowKey(4, source, destination)
    words = struct.unpack("<6Q", key.pack())
    assert words[:4] == (0, 0, 0, 0)
    after_zero = sip_absorb(sip_state(seed), [0] * 4)
    v0, v1, v2, v3 = sip_absorb(after_zero, [*words[4:], 48 << 56])
    assert (v0, v1, v2, v3) == sip_absorb(sip_state(seed), [*words, 48 << 56])


def test_layout() -> None:
    key = FlowKey(6, b"\x02" * 16, b"\x01" * 16, 17, 0x0102, 0x0201, 0xABCDE)
    assert key.pack() == (
        bytes.fromhex("0000 11 00 000abcde") + bytes(20)
        # As little-endian numbers 0x0102 lies in memory as 0x0201 and the other way round.
        + bytes.fromhex("0201 0102 00000000") + b"\x01" * 16 + b"\x02" * 16 + bytes(4)
    )  # fmt: skip


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="32-bit"):
        sip_state(seed)


@pytest.mark.parametrize("family", [4, 5, 6])
def test_addresses_of_another_family(family: int) -> None:
    with pytest.raises(ValueError, match="addresses"):
        FlowKey(family, bytes(4), bytes(16)).pack()


# --- key: plain packets --------------------------------------------------------------------------

A4, B4 = "192.0.2.1", "198.51.100.2"
A6, B6 = "2001:db8::1", "2001:db8:1::2"
LABEL = 0x54321


@dataclasses.dataclass(frozen=True)
class Case:
    """A packet, and protocol and ports of its key under policy 1."""

    name: str
    packet: Packet | bytes
    proto: int
    sport: int = 0
    dport: int = 0


def v4(**fields: Any) -> Packet:
    return IP(src=A4, dst=B4, **fields)


def v6(**fields: Any) -> Packet:
    return IPv6(src=A6, dst=B6, tc=0xFF, fl=LABEL, **fields)


L4 = bytes.fromhex("1111222233334444")
HEADERS = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting()
SEVEN_HEADERS = b"".join(bytes([60, 0]) + bytes(6) for _ in range(7))

PLAIN = [
    Case("tcp", v4() / TCP(sport=1, dport=2), 6, 1, 2),
    Case("udp behind options", v4(options=[IPOption_NOP()] * 8) / UDP(sport=1, dport=2), 17, 1, 2),
    *(Case(f"ports of {p}", v4(proto=p) / Raw(L4), p, 0x1111, 0x2222) for p in (33, 50, 132, 136)),
    Case("ah has its spi at 4", v4(proto=51) / Raw(L4), 51, 0x3333, 0x4444),
    Case("ah cut", v4(proto=51) / Raw(L4[:7]), 51),
    Case("ports cut", v4(proto=6) / Raw(L4[:3]), 6),
    Case("ports just there", v4(proto=6) / Raw(L4[:4]), 6, 0x1111, 0x2222),
    Case("gre has none", v4(proto=47) / Raw(L4), 47),
    Case("ipip is not looked into", v4() / IP() / UDP(sport=1, dport=2), 4),
    Case("ipv4 does not know option headers", v4(proto=60) / Raw(L4), 60),
    Case("first fragment", v4(flags="MF") / UDP(sport=1, dport=2), 17),
    Case("later fragment", v4(frag=9, proto=17) / Raw(L4), 17),
    Case("do not fragment", v4(flags="DF") / UDP(sport=1, dport=2), 17, 1, 2),
    Case("echo", v4() / ICMP(id=7), 1),
    Case("tcp", v6() / TCP(sport=1, dport=2), 6, 1, 2),
    Case("all option headers", v6() / HEADERS / UDP(sport=1, dport=2), 17, 1, 2),
    Case("first fragment", v6() / IPv6ExtHdrFragment(m=1) / UDP(sport=1, dport=2), 17),
    Case("atomic fragment", v6() / IPv6ExtHdrFragment() / UDP(sport=1, dport=2), 17),
    Case("later fragment", v6() / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(L4), 17),
    Case("fragment behind options", v6() / HEADERS / IPv6ExtHdrFragment(nh=6) / Raw(L4), 6),
    Case("header behind a fragment header", v6() / IPv6ExtHdrFragment(nh=60) / Raw(L4), 60),
    Case("option header cut", v6(nh=60) / Raw(b"\x06"), 60),
    Case("option header says more than there is", v6(nh=60) / Raw(b"\x06\x09"), 6),
    Case("fragment header cut", v6(nh=44) / Raw(b"\x06" + bytes(6)), 44),
    Case(
        "eight headers",
        v6(nh=60) / Raw(SEVEN_HEADERS + b"\x11" + bytes(7) + L4),
        17,
        0x1111,
        0x2222,
    ),
    Case(
        "nine headers", v6(nh=60) / Raw(SEVEN_HEADERS + bytes([60] + [0] * 7 + [17] * 8) + L4), 60
    ),
    Case("echo", v6() / ICMPv6EchoRequest(id=7), 58),
    Case("gre has none", v6(nh=47) / Raw(L4), 47),
]


def family_of(packet: Packet | bytes) -> int:
    return bytes(packet)[0] >> 4


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: f"v{family_of(case.packet)} {case.name}")
def test_key_of_a_packet(case: Case) -> None:
    packet = bytes(case.packet)
    if family_of(packet) == 4:
        ends = FlowKey(4, packed(A4), packed(B4))
        assert flow_key(packet, 0) == ends
    else:
        ends = FlowKey(6, packed(A6), packed(B6))
        assert flow_key(packet, 0) == ends._replace(proto=packet[6], flow_label=LABEL)
    expected = ends._replace(proto=case.proto, sport=case.sport, dport=case.dport)
    assert flow_key(packet, 1) == expected
    assert flow_key(packet + b"\xee" * 18, 1) == expected  # Ethernet padding does not count


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(v4())[:19],
        bytes(v6())[:39],
        b"\x55" + bytes(60),
        bytes(v4() / Raw(L4))[:-1],
        bytes(v6(nh=59) / Raw(L4))[:-1],
        bytes(v4(ihl=4)),
        bytes(v4(len=19)),
        bytes(v4(ihl=6, len=20)),
    ],
)
def test_not_a_whole_packet(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|lengths"):
        flow_key(packet, 0)


@pytest.mark.parametrize("policy", [-1, 2, 3])
def test_other_policies(policy: int) -> None:
    with pytest.raises(ValueError, match="policy"):
        flow_key(bytes(v4()), policy)
    with pytest.raises(ValueError, match="policy"):
        FlowKey(4, bytes(4), bytes(4)).for_policy(policy)


# --- key: ICMP errors ----------------------------------------------------------------------------

QUOTED = [case for case in PLAIN if "cut" not in case.name and "says more" not in case.name]
R4, R6 = "203.0.113.7", "2001:db8:ffff::7"
ERRORS4 = [ICMP(type=t, code=0) for t in (3, 4, 5, 11, 12)]
ERRORS6 = [
    ICMPv6DestUnreach(),
    ICMPv6PacketTooBig(mtu=1280),
    ICMPv6TimeExceeded(),
    ICMPv6ParamProblem(),
]


def error_about(packet: bytes, error: Packet | None = None, behind: Packet | None = None) -> bytes:
    """The ICMP error that a router sends to the source of `packet`, quoting it."""
    if family_of(packet) == 4:
        return bytes(IP(src=R4, dst=A4) / (error or ICMP(type=3, code=4)) / Raw(packet))
    l3 = IPv6(src=R6, dst=A6, fl=0x77) / behind if behind else IPv6(src=R6, dst=A6, fl=0x77)
    return bytes(l3 / (error or ICMPv6PacketTooBig(mtu=1280)) / Raw(packet))


def headers_size(packet: bytes) -> int:
    """Bytes of IP header and extension headers, for the packets of this file."""
    if family_of(packet) == 4:
        return (packet[0] & 15) * 4
    proto, size = packet[6], 40
    while proto in (0, 43, 44, 60):
        proto, size = packet[size], size + (8 if proto == 44 else (packet[size + 1] + 1) * 8)
    return size


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("case", QUOTED, ids=lambda case: f"v{family_of(case.packet)} {case.name}")
def test_an_icmp_error_has_the_key_of_its_packet(case: Case, policy: int) -> None:
    packet = bytes(case.packet)
    expected = flow_key(packet, policy)
    quotes = [packet, packet[: headers_size(packet) + 8]]
    assert [flow_key(error_about(quote), policy) for quote in quotes] == [expected] * 2


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("error", [*ERRORS4, *ERRORS6], ids=lambda error: error.summary())
def test_every_kind_of_icmp_error(error: Packet, policy: int) -> None:
    packet = bytes((v4() if isinstance(error, ICMP) else v6()) / UDP(sport=1, dport=2))
    assert flow_key(error_about(packet, error), policy) == flow_key(packet, policy)


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("behind", [IPv6ExtHdrDestOpt(), HEADERS], ids=["one", "three"])
def test_icmpv6_error_behind_extension_headers(behind: Packet, policy: int) -> None:
    packet = bytes(v6() / UDP(sport=1, dport=2))
    assert flow_key(error_about(packet, behind=behind), policy) == flow_key(packet, policy)


def test_quote_without_ports() -> None:
    for packet in (bytes(v4() / TCP(sport=1, dport=2)), bytes(v6() / TCP(sport=1, dport=2))):
        expected = flow_key(packet, 1)._replace(sport=0, dport=0)
        assert flow_key(error_about(packet[: headers_size(packet) + 3]), 1) == expected
    options = bytes(v4(options=[IPOption_NOP()] * 8) / TCP(sport=1, dport=2))
    expected = flow_key(options, 1)._replace(sport=0, dport=0)
    assert flow_key(error_about(options[:20]), 1) == expected  # the options are not there


def outer_keys(packet: bytes, proto: int) -> list[FlowKey]:
    if family_of(packet) == 4:
        ends = FlowKey(4, packet[12:16], packet[16:20])
        return [ends, ends._replace(proto=proto)]
    ends = FlowKey(6, packet[8:24], packet[24:40])
    return [ends._replace(proto=packet[6], flow_label=0x77), ends._replace(proto=proto)]


UDP4, UDP6 = bytes(v4() / UDP(sport=1, dport=2)), bytes(v6() / UDP(sport=1, dport=2))


@pytest.mark.parametrize(
    ("packet", "proto"),
    [
        pytest.param(error_about(UDP4[:19]), 1, id="v4 quoted header not whole"),
        pytest.param(error_about(UDP6[:39]), 58, id="v6 quoted header not whole"),
        pytest.param(error_about(UDP4, ICMP(type=8)), 1, id="v4 echo"),
        pytest.param(error_about(UDP6, ICMPv6EchoRequest()), 58, id="v6 echo"),
        pytest.param(
            bytes(IPv6(src=R6, dst=A6, fl=0x77, nh=1) / ICMP(type=3) / Raw(UDP6)), 1, id="v6 ICMPv4"
        ),
        pytest.param(
            bytes(IP(src=R4, dst=A4, frag=5, proto=1) / ICMP(type=3) / Raw(UDP4)),
            1,
            id="v4 later fragment",
        ),
        pytest.param(
            error_about(UDP6, behind=IPv6ExtHdrFragment()), 58, id="v6 behind a fragment header"
        ),
    ],
)
def test_no_quote_to_go_by(packet: bytes, proto: int) -> None:
    assert [flow_key(packet, policy) for policy in (0, 1)] == outer_keys(packet, proto)


def test_first_fragment_of_an_icmpv4_error() -> None:
    packet = bytes(IP(src=R4, dst=A4, flags="MF") / ICMP(type=3) / Raw(UDP4))
    assert [flow_key(packet, p) for p in (0, 1)] == [flow_key(UDP4, p) for p in (0, 1)]


@given(st.sampled_from([4, 6]), st.binary(max_size=200), st.sampled_from([0, 1]), st.data())
def test_any_bytes_give_a_key_that_hashes(
    family: int, rest: bytes, policy: int, data: st.DataObject
) -> None:
    proto = data.draw(st.sampled_from([0, 1, 6, 43, 44, 51, 58, 60]))
    l3 = IP(src=A4, dst=B4, proto=proto) if family == 4 else IPv6(src=A6, dst=B6, nh=proto)
    assert 0 <= flow_key(bytes(l3 / Raw(rest)), policy).hash(1) < HASH_SPACE


# --- select --------------------------------------------------------------------------------------

weight_lists = st.lists(st.none() | st.integers(1, 65536), min_size=1, max_size=64).filter(any)
hashes = st.integers(0, HASH_SPACE - 1)
members = st.sampled_from("abcd")


@given(weight_lists)
def test_bounds_ascend_to_the_last_hash(weights: list[int | None]) -> None:
    result = bounds(weights)
    alive = [bound for bound in result if bound != -1]
    assert [bound == -1 for bound in result] == [weight is None for weight in weights]
    assert alive == sorted(set(alive))
    assert alive[-1] == HASH_SPACE - 1


@given(weight_lists)
def test_shares_sum_to_one_and_follow_the_weights(weights: list[int | None]) -> None:
    result = shares(bounds(weights))
    total = sum(weight or 0 for weight in weights)
    assert sum(result) == 1
    for share, weight in zip(result, weights, strict=True):
        assert abs(share - Fraction(weight or 0, total)) <= Fraction(1, HASH_SPACE)


@given(weight_lists, hashes)
def test_select_agrees_with_a_naive_scan(weights: list[int | None], hash31: int) -> None:
    result = bounds(weights)
    chosen = select(result, hash31)
    assert chosen == min(i for i, bound in enumerate(result) if bound != -1 and hash31 <= bound)
    assert weights[chosen] is not None
    edges = [bound for bound in result if bound != -1]
    assert [select(result, edge) for edge in edges] == [result.index(edge) for edge in edges]


def test_bounds_are_rounded_to_nearest() -> None:
    assert bounds([1, 1, 1]) == (715827882, 1431655764, HASH_SPACE - 1)


def test_all_paths_dead() -> None:
    assert bounds([None, None]) == (-1, -1)
    assert shares([-1, -1]) == (Fraction(0), Fraction(0))
    with pytest.raises(LookupError):
        select([-1, -1], 0)
    assert (bounds([]), shares([])) == ((), ())


@pytest.mark.parametrize("weight", [0, -1])
def test_weights_are_positive(weight: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bounds([1, weight])


def paths(draw: st.DrawFn) -> list[tuple[str, int]]:
    weights = draw(weight_lists)
    return [(draw(members), bound) for bound in bounds(weights)]


path_lists = st.composite(paths)()


@given(path_lists, path_lists)
def test_moved_share_is_symmetric_and_zero_for_no_change(
    old: list[tuple[str, int]], new: list[tuple[str, int]]
) -> None:
    assert moved_share(old, old) == 0
    assert moved_share(old, new) == moved_share(new, old)
    assert 0 <= moved_share(old, new) <= 1


@given(path_lists, path_lists)
def test_moved_share_counts_the_hashes_that_move(
    old: list[tuple[str, int]], new: list[tuple[str, int]]
) -> None:
    def member(paths: list[tuple[str, int]], hash31: int) -> str:
        return paths[select([bound for _, bound in paths], hash31)][0]

    edges = sorted({bound for _, bound in old + new if bound != -1})
    sizes = [edge - before for before, edge in zip([-1, *edges], edges, strict=False)]
    moved = sum(
        size
        for size, edge in zip(sizes, edges, strict=True)
        if member(old, edge) != member(new, edge)
    )
    assert moved_share(old, new) == Fraction(moved, HASH_SPACE)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("a1 b1", "a1 b1", Fraction(0), id="nothing"),
        pytest.param("a1 b1", "b1 a1", Fraction(1), id="order"),
        pytest.param("a1 b1", "a2 b2", Fraction(0), id="same ratio"),
        pytest.param("a1 b1", "a3 b1", Fraction(1, 4), id="more weight"),
        pytest.param("a1 a1 b2", "a1 b1", Fraction(0), id="one member twice"),
        pytest.param("a1 b1", "a1", Fraction(1, 2), id="member gone"),
        pytest.param("a1 b1 c2", "a1 b0 c2", Fraction(1, 4), id="member dead"),
        pytest.param("a1", "a0", Fraction(1), id="nobody left"),
    ],
)
def test_moved_share(old: str, new: str, expected: Fraction) -> None:
    def parse(text: str) -> list[tuple[str, int]]:
        weights = [int(word[1:]) or None for word in text.split()]
        names = [word[0] for word in text.split()]
        return list(zip(names, bounds(weights), strict=True))

    assert abs(moved_share(parse(old), parse(new)) - expected) <= Fraction(2, HASH_SPACE)
