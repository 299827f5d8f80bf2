"""One list, one place: what Python read from the C sources, and numbers that stand in two of them.

Offsets and sizes of structs, which only the compiler knows, are in tests/bpf/test_layout.py.
"""

from __future__ import annotations

import re
from enum import IntEnum

import pytest

from xdpecmp.hashing import Policy, headers
from xdpecmp.program import abi, build, keysearch, maps
from xdpecmp.program.abi import (
    BPF_DIR,
    CAPACITY,
    ICMP_ERROR_INDEX,
    INTERFACE_FLAGS,
    GroupKind,
    Reason,
)
from xdpecmp.program.build import OF_GENERATION
from xdpecmp.program.compiler import READ_BY_THE_PROGRAM, joined


def source(name: str) -> str:
    return (BPF_DIR / name).read_text()


def define(file: str, name: str) -> int:
    match = re.search(rf"^#define {name} (\w+)", source(file), re.MULTILINE)
    assert match, f"{file} does not define {name}"
    return int(match[1], 0)


def rows(name: str) -> list[str]:
    return [line for line in source(name).splitlines() if line.startswith("X(")]


# --- reasons -------------------------------------------------------------------------------------


def test_reasons_are_the_rows_in_their_order() -> None:
    assert [f"X({reason.name}," for reason in Reason] == [
        row.split(" ")[0] for row in rows("reasons.def")
    ]
    assert [int(reason) for reason in Reason] == list(range(len(Reason)))
    assert Reason.FORWARDED == 0


def test_every_reason_has_a_text() -> None:
    assert list(abi.REASON_TEXT) == [reason.name for reason in Reason]
    texts = list(abi.REASON_TEXT.values())
    assert all(texts)
    assert len(set(texts)) == len(texts)
    for row, text in zip(rows("reasons.def"), texts, strict=True):
        assert row.endswith(f'"{text}",')


def test_every_reason_has_advice() -> None:
    assert list(abi.REASON_ADVICE) == [reason.name for reason in Reason]
    for name, advice in abi.REASON_ADVICE.items():
        assert advice.endswith("."), name
        assert "  " not in advice, name
        assert advice.count("`") % 2 == 0, name


def test_reasons_fit_their_fields() -> None:
    """A byte in struct config and in struct nexthop, and below the first group proper."""
    assert len(Reason) < 256
    assert len(Reason) < CAPACITY["GROUPS_MAX"]


def test_groups_and_blocks_can_be_told_apart() -> None:
    """In the direct tables, where one bit does."""
    assert max(CAPACITY["GROUPS_MAX"], CAPACITY["DIRECT32_MAX"]) <= abi.DIRECT_BLOCK


# --- ICMP errors ---------------------------------------------------------------------------------


def icmp_rows() -> list[tuple[str, int, int, str]]:
    pattern = re.compile(r'^X\((\w+), (\d), (\d+), (\w+), ".+"\)$')
    matches = [pattern.match(row) for row in rows("icmp_errors.def")]
    assert all(matches)
    return [(m[1], int(m[2]), int(m[3]), m[4]) for m in matches if m]


def test_icmp_errors_are_the_rows_in_their_order() -> None:
    names = [name for name, *_ in icmp_rows()]
    assert list(ICMP_ERROR_INDEX) == names
    assert list(abi.ICMP_ERROR_TEXT) == names
    assert not {reason.name for reason in Reason} & set(names)


def test_icmp_counters_lie_behind_the_reasons() -> None:
    """Each has an entry of its own. That the program takes the same one: test_quotes.py."""
    entries = list(ICMP_ERROR_INDEX.values())
    assert len(set(entries)) == len(entries)
    assert len(Reason) <= min(entries)
    assert max(entries) < define("abi.h", "STAT_COUNT")


def test_icmp_counters_are_those_of_the_types() -> None:
    assert ICMP_ERROR_INDEX["V4_DEST_UNREACH"] == 64 + 3
    assert ICMP_ERROR_INDEX["V4_FRAG_NEEDED"] == 64 + 32 + 3
    assert ICMP_ERROR_INDEX["V6_PACKET_TOO_BIG"] == 128 + 2


def test_the_code_that_is_counted_apart() -> None:
    """Only "fragmentation needed" is: classify_icmp() knows of no other."""
    coded = [row for row in icmp_rows() if row[3] != "ANY_CODE"]
    assert coded == [("V4_FRAG_NEEDED", 4, 3, str(define("abi.h", "ICMPV4_FRAG_NEEDED")))]
    types = [row[1:3] for row in icmp_rows() if row[3] == "ANY_CODE"]
    assert len(set(types)) == len(types)
    assert {row[1:3] for row in coded} < set(types)


@pytest.mark.parametrize("family", [4, 6])
def test_hashing_knows_the_same_errors(family: int) -> None:
    assert {kind for _, f, kind, _ in icmp_rows() if f == family} == headers.ICMP_ERRORS[family]


# --- numbers in two places -----------------------------------------------------------------------


def test_paths_that_are_searched() -> None:
    assert define("select.h", "MAX_PATHS") == abi.MAX_PATHS
    assert 2 ** define("select.h", "SEARCH_STEPS") == abi.MAX_PATHS
    assert CAPACITY["PATHS_MAX"] >= abi.MAX_PATHS
    assert abi.MAX_PATHS < 1 << 16  # struct group's count


def test_what_searching_a_key_takes() -> None:
    assert define("key_search.c", "TRIES") == keysearch._TRIES
    assert keysearch.STEP % keysearch._TRIES == 0
    assert define("key_search.c", "FOUND_MAX") == keysearch._PLACES


def test_the_place_of_the_deep_program() -> None:
    assert define("maps.c", "DEEP_PROGRAM") == build._DEEP_PROGRAM


def test_hash_policies() -> None:
    members = re.findall(r"^\tPOLICY_(\w+),", source("abi.h"), re.MULTILINE)
    assert members == [policy.name for policy in Policy]


def test_headers_that_are_walked() -> None:
    assert define("walk.h", "MAX_HEADERS") == headers.MAX_HEADERS


def test_bits_of_the_local_address_filter() -> None:
    """As many bits of the 32-bit hash as the filter has entries."""
    assert 1 << (32 - abi.LOCAL4_FILTER_SHIFT) == abi.LOCAL4_FILTER_WORDS * 64


def program_source() -> str:
    return joined("xdpecmp.c", source("xdpecmp.c"), abi.SOURCES)


def test_capacities_are_those_that_the_program_asks_for() -> None:
    program = re.sub(r"/\*.*?\*/", "", program_source(), flags=re.DOTALL)
    declared = re.findall(r"^BPF_\w+\(.*\b([A-Z0-9_]+_MAX)\b.*\);$", program, re.MULTILINE)
    assert set(declared) == CAPACITY.keys()
    rest = re.sub(r"^BPF_\w+\(.*$", "", program, flags=re.MULTILINE)
    read = {name for name in CAPACITY if re.search(rf"\b{name}\b", rest)}
    assert read == READ_BY_THE_PROGRAM


def test_capacities_fit_their_fields() -> None:
    interfaces = CAPACITY["INTERFACES_MAX"]
    assert interfaces & (interfaces - 1) == 0  # `ifindex & (INTERFACES_MAX - 1)` is the slot
    assert CAPACITY["NEXTHOPS_MAX"] <= 1 << 16  # struct path's nexthop
    assert CAPACITY["PATH_STATS_MAX"] == CAPACITY["NEXTHOPS_MAX"] + 1  # of earlier layouts
    assert abi.STAT_ENTRIES == 2 * abi.STAT_COUNT
    assert CAPACITY["DIRECT24_MAX"] == CAPACITY["DIRECT16_MAX"] * 256 == 1 << 16
    assert CAPACITY["DEVICES_MAX"] <= 1 << 16  # struct nexthop's device
    assert all(count <= 1 << 32 for count in CAPACITY.values())


def test_interface_flags_are_single_bits() -> None:
    bits = list(INTERFACE_FLAGS.values())
    assert len(set(bits)) == len(bits) > 3
    assert all(0 < bit < 256 and bit & (bit - 1) == 0 for bit in bits)
    used = set(re.findall(r"INTERFACE_([A-Z]\w+)", program_source()))
    assert used == INTERFACE_FLAGS.keys()


def test_kinds_of_groups() -> None:
    assert [kind.name for kind in GroupKind] == re.findall(
        r"^\tGROUP_(\w+),", source("abi.h"), re.M
    )
    assert GroupKind.PASS == 0  # a group that was never written passes


# --- maps ----------------------------------------------------------------------------------------


def declared_maps() -> dict[str, str]:
    """Name → declaration of each map that programs of all generations share."""
    found = {}
    text = program_source()
    for match in re.finditer(r"^BPF_\w+\((.*?)\);", text, re.MULTILINE | re.DOTALL):
        declaration = " ".join(match[1].split())
        name = re.search(r"\b(\w+), [^,]*(, (MMAPABLE|NO_PREALLOC))?$", declaration)
        assert name, declaration
        found[name[1]] = declaration
    return {name: text for name, text in found.items() if name not in OF_GENERATION}


def test_all_maps_are_opened() -> None:
    assert set(maps.NAMES) == declared_maps().keys()
    assert len(set(maps.NAMES)) == len(maps.NAMES)


def test_maps_in_memory_are_those_that_can_be_mapped() -> None:
    mappable = {name for name, text in declared_maps().items() if text.endswith("MMAPABLE")}
    assert {*maps.MAPPED, *maps.DIRECT} == mappable


@pytest.mark.parametrize("file", ["abi.h", "icmp_errors.def"])
def test_the_abi_id_changes_with_its_files(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = abi.abi_id()
    monkeypatch.setattr(abi, "_source", lambda name: source(name) + ("\n" if name == file else ""))
    assert abi.abi_id.__wrapped__() != before


def test_the_abi_id_changes_with_the_names_of_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with their texts, which change no map."""
    before = abi.abi_id()
    names = list(Reason.__members__)
    monkeypatch.setattr(abi, "Reason", IntEnum("Reason", names, start=0))
    assert abi.abi_id.__wrapped__() == before
    monkeypatch.setattr(abi, "Reason", IntEnum("Reason", [*names, "ANOTHER"], start=0))
    assert abi.abi_id.__wrapped__() != before


def test_the_abi_id_changes_with_the_capacities(monkeypatch: pytest.MonkeyPatch) -> None:
    before = abi.abi_id()
    monkeypatch.setitem(CAPACITY, "PATHS_MAX", 7)
    assert abi.abi_id.__wrapped__() != before
