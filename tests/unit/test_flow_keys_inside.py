"""`flow_keys` under policies 2 and 3: tunnels, chosen fields, ICMP errors about such packets."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

from tests.tunnels import TUNNELS, UNFOLLOWED, Ends, Tunnel, out4, out6, random_ends
from xdpecmp.hashing import (
    DEFAULT_FIELDS,
    HASH_SPACE,
    INNER_SHIFT,
    Field,
    FlowKey,
    FlowKeys,
    flow_hash,
    flow_key,
    flow_keys,
    jhash_2words,
)

SEED = 0xC0FFEE42
ALL = 0xFFF
ENDS = Ends()
TARGET = {4: bytes([198, 18]), 6: bytes.fromhex("20010db8")}

all_fields = st.integers(0, ALL)
tunnels = st.sampled_from(TUNNELS)
ends = st.integers(0, 1 << 32).map(lambda n: random_ends(random.Random(n), TARGET))


def with_fields(key: FlowKey, fields: int) -> FlowKey:
    """The key with the fields of these bits, written again from include/net/ip_fib.h."""
    bits = dict(
        zip(
            ("source", "destination", "proto", "flow_label", "sport", "dport"),
            range(6),
            strict=True,
        )
    )
    kept = {name: getattr(key, name) for name, bit in bits.items() if fields >> bit & 1}
    nothing = bytes({4: 4, 6: 16}[key.family])
    base = {"source": nothing, "destination": nothing, **kept}
    label = base.get("flow_label", 0)
    return FlowKey(key.family, **base, label_as_on_the_wire=not label)


# --- policy 2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tunnel", TUNNELS, ids=str)
def test_policy_2_takes_the_innermost_header(tunnel: Tunnel) -> None:
    packet = tunnel.build(ENDS)
    key = tunnel.inner_key(ENDS) if tunnel.inner else tunnel.outer_key(ENDS)
    expected = with_fields(key, 0x03 if key.family == 4 else 0x0F)
    assert flow_keys(packet, 2) == FlowKeys(2, None, expected)
    assert flow_key(packet, 2) == expected
    assert flow_hash(packet, 2, SEED) == expected.hash(SEED)


# --- policy 3 ------------------------------------------------------------------------------------


@given(tunnels, ends, all_fields)
def test_policy_3_takes_the_chosen_fields(tunnel: Tunnel, ends: Ends, fields: int) -> None:
    outer, inner = fields & 0x3F, fields >> 6
    keys = flow_keys(tunnel.build(ends), 3, fields)
    assert keys.is_followed
    assert keys.outer == (with_fields(tunnel.outer_key(ends), outer) if outer else None)
    has_inner = inner and tunnel.inner
    assert keys.inner == (with_fields(tunnel.inner_key(ends), inner) if has_inner else None)


FIELDS = ("address 0", "address 1", "proto", "label", "port 0", "port 1")


def variations(tunnel: Tunnel) -> list[tuple[str, Ends]]:
    """The usual ends with one thing of the outer or the inner header changed, and which one."""
    rows = []
    for layer, family in (("outer", tunnel.outer), ("inner", tunnel.inner)):
        for side in (0, 1):
            pair = list(getattr(ENDS, f"{layer}{family}"))
            pair[side] = "11.9.9.9" if family == 4 else "fdff::9"
            changes: dict[str, Any] = {f"{layer}{family}": tuple(pair)}
            rows.append((f"{layer} address {side}", replace(ENDS, **changes)))
        if family == 6:
            changes = {f"{layer}_label": 0xBEEF}
            rows.append((f"{layer} label", replace(ENDS, **changes)))
    for side in (0, 1):
        ports = (0x7777, ENDS.ports[1]) if side == 0 else (ENDS.ports[0], 0x7777)
        rows.append((f"inner port {side}", replace(ENDS, ports=ports)))
    return rows


@pytest.mark.parametrize("bit", range(12))
def test_each_bit_is_its_field(bit: int) -> None:
    """With one bit set the hash depends on that field and on nothing else."""
    field = f"{'outer' if bit < 6 else 'inner'} {FIELDS[bit % 6]}"
    for tunnel in TUNNELS:
        if tunnel.has_ports and tunnel.label != "outer_label":
            before = flow_hash(tunnel.build(ENDS), 3, SEED, 1 << bit)
            for changed, other in variations(tunnel):
                after = flow_hash(tunnel.build(other), 3, SEED, 1 << bit)
                assert (after != before) == (changed == field), (tunnel, changed)


def test_protocols_count_by_their_own_bits() -> None:
    names = ("UDP in IPv4 in IPv4", "TCP behind IPv4 options in IPv4 in IPv4", "UDP in GRE in GRE")
    packets = [next(t for t in TUNNELS if t.name == name).build(ENDS) for name in names]
    udp, tcp, gre = (flow_hash(packet, 3, SEED, Field.PROTO) for packet in packets)
    assert udp == tcp != gre
    udp, tcp, gre = (flow_hash(packet, 3, SEED, Field.PROTO << INNER_SHIFT) for packet in packets)
    assert udp == gre != tcp


@given(tunnels, ends, all_fields, st.integers(0, (1 << 32) - 1))
def test_the_hash_joins_outer_and_inner(tunnel: Tunnel, ends: Ends, fields: int, seed: int) -> None:
    packet = tunnel.build(ends)
    keys = flow_keys(packet, 3, fields)
    outer, inner = (key.hash32(seed) if key else 0 for key in (keys.outer, keys.inner))
    assert flow_hash(packet, 3, seed, fields) == jhash_2words(outer, inner) >> 1
    assert 0 <= keys.hash(seed) < HASH_SPACE


@given(tunnels, ends)
def test_without_inner_fields_a_tunnel_is_a_plain_packet(tunnel: Tunnel, ends: Ends) -> None:
    packet = tunnel.build(ends)
    assert flow_keys(packet, 3) == flow_keys(packet, 3, DEFAULT_FIELDS)
    key = tunnel.outer_key(ends).for_policy(3)
    assert flow_hash(packet, 3, SEED) == FlowKeys(3, key).hash(SEED)


def test_the_label_is_hashed_in_the_hosts_byte_order() -> None:
    """Under policy 0 as on the wire; with the flow dissector it has passed ntohl()."""
    packet = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2", fl=0x12345, nh=59))
    keys = [flow_key(packet, 0), flow_key(packet, 2), flow_keys(packet, 3, Field.FLOW_LABEL).outer]
    packed = [key.pack()[4:8].hex() for key in keys if key]
    assert packed == ["00012345", "45230100", "45230100"]


def test_policy_3_has_no_single_key() -> None:
    with pytest.raises(ValueError, match="more than one key"):
        flow_key(bytes(IP() / UDP()), 3)


@pytest.mark.parametrize("policy", [0, 1, 2, 3])
@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_by_its_fields_hashes_as_its_packets(family: int, policy: int) -> None:
    rng = random.Random(family)
    for _ in range(20):
        ends, fields = random_ends(rng, TARGET), rng.randrange(1, 0x40)
        head = out4(ends) if family == 4 else out6(ends)
        packet = bytes(head / UDP(sport=ends.ports[0], dport=ends.ports[1]))
        key = Tunnel("", out4 if family == 4 else out6, family, 17).outer_key(ends)
        key = key._replace(sport=ends.ports[0], dport=ends.ports[1]).for_policy(policy, fields)
        assert FlowKeys(policy, key).hash(SEED) == flow_hash(packet, policy, SEED, fields)


# --- what cannot be followed ---------------------------------------------------------------------


@pytest.mark.parametrize("tunnel", UNFOLLOWED, ids=str)
def test_what_cannot_be_followed(tunnel: Tunnel) -> None:
    packet = tunnel.build(ENDS)
    assert not flow_keys(packet, 2).is_followed
    for fields in (0x040, 0x800, ALL):
        assert not flow_keys(packet, 3, fields).is_followed
    for policy, fields in ((0, 0), (1, 0), (3, 0x3F)):
        assert flow_keys(packet, policy, fields).is_followed


# --- ICMP errors ---------------------------------------------------------------------------------


def error_about(quote: bytes) -> bytes:
    """The error that a router sends to the source of the quoted packet."""
    if quote[0] >> 4 == 4:
        source = ".".join(map(str, quote[12:16]))
        return bytes(IP(src="203.0.113.7", dst=source) / ICMP(type=3, code=4) / Raw(quote))
    source = ":".join(quote[i : i + 2].hex() for i in range(8, 24, 2))
    return bytes(IPv6(src="2001:db8:ffff::7", dst=source) / ICMPv6PacketTooBig() / Raw(quote))


@given(tunnels, ends, st.integers(0, 3), all_fields)
def test_an_error_goes_where_the_flow_goes(
    tunnel: Tunnel, ends: Ends, policy: int, fields: int
) -> None:
    """The error about an answer has the hash of the packets that were answered."""
    packet, answer = tunnel.build(ends), tunnel.build(ends.turned())
    expected = flow_keys(packet, policy, fields)
    found = flow_keys(error_about(answer), policy, fields)
    assert found.is_followed
    assert found.hash(SEED) == expected.hash(SEED)
    if policy == 3:
        assert found == expected


@given(tunnels, ends, st.integers(0, 3), st.data())
def test_quotes_cut_anywhere(tunnel: Tunnel, ends: Ends, policy: int, data: st.DataObject) -> None:
    """As much of the key is there as was quoted: of the innermost header that is whole."""
    quote = tunnel.build(ends)
    size = data.draw(st.integers(20 if tunnel.outer == 4 else 40, len(quote)))
    whole = flow_keys(error_about(quote), policy, ALL)
    cut = flow_keys(error_about(quote[:size]), policy, ALL)
    assert 0 <= cut.hash(SEED) < HASH_SPACE
    if whole.outer:
        assert cut.outer is not None
        assert cut.outer[:3] == whole.outer[:3]
    if whole.inner and cut.inner and cut.is_followed:
        no_ports = whole.inner._replace(sport=0, dport=0)
        assert cut.inner in (whole.inner, no_ports)
    if not cut.is_followed:
        assert size < len(quote)


def test_a_quote_that_ends_before_the_inner_header_goes_by_the_outer_one() -> None:
    tunnel = next(t for t in TUNNELS if t.name == "UDP in IPv4")
    keys = flow_keys(error_about(tunnel.build(ENDS.turned())[:28]), 3, ALL)
    assert keys == FlowKeys(3, tunnel.outer_key(ENDS), tunnel.outer_key(ENDS), is_followed=False)


@given(st.binary(max_size=160), st.sampled_from([4, 6]), st.integers(0, 3), all_fields, st.data())
def test_any_bytes_give_keys_that_hash(
    rest: bytes, family: int, policy: int, fields: int, data: st.DataObject
) -> None:
    proto = data.draw(st.sampled_from([0, 1, 4, 6, 41, 43, 44, 47, 51, 58, 60]))
    head = out4(ENDS, proto=proto) if family == 4 else out6(ENDS, nh=proto)
    assert 0 <= flow_hash(bytes(head / Raw(rest)), policy, 1, fields) < HASH_SPACE
