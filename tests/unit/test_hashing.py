"""`xdpecmp.hashing` against published vectors, recorded kernel answers and its own laws."""

from __future__ import annotations

import ipaddress
import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from xdpecmp.hashing import (
    HASH_SPACE,
    FlowKey,
    bounds,
    flow_key,
    jhash_2words,
    moved_share,
    select,
    shares,
    sip_absorb,
    sip_state,
    siphash24,
    siphash32,
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


def test_siphash32_cuts_the_64_bit_hash() -> None:
    seed, message = 0xDEADBEEF, bytes(range(48))
    full = siphash24(message, 0xDEADBEEFDEADBEEF, 0xDEADBEEFDEADBEEF)
    assert siphash32(message, seed) == full & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("a", "b", "initval", "expected"),
    [  # what include/linux/jhash.h gives when compiled
        (0, 0, 0, 0x58C184BF),
        (1, 2, 0, 0x8B4C7979),
        (0xFFFFFFFF, 0x80000001, 0, 0x2D90DB0E),
        (0xC0FFEE42, 0, 7, 0xFECBB6E9),
    ],
)
def test_jhash_of_two_words(a: int, b: int, initval: int, expected: int) -> None:
    assert jhash_2words(a, b, initval) == expected


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
