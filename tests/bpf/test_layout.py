"""The layout of the maps as C has it and as Python sees it, by way of bcc's descriptions."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from tests.bpf.harness import Plane
from xdpecmp.program import libbpf
from xdpecmp.program.abi import BPF_DIR, CAPACITY, ICMP_ERROR_INDEX, STAT_ENTRIES, GroupKind, Reason
from xdpecmp.program.build import Build, BuildFailed, Variant
from xdpecmp.program.maps import NAMES, Layout

pytestmark = pytest.mark.root

STRUCTS = {
    "control": ("control", "value"),
    "config": ("config", "value"),
    "interface": ("interfaces", "value"),
    "vlan_key": ("vlans", "key"),
    "mac_key": ("macs", "key"),
    "direct": ("direct24", "value"),
    "route4_key": ("routes4", "key"),
    "route6_key": ("routes6", "key"),
    "group": ("groups", "value"),
    "path": ("paths", "value"),
    "bucket": ("buckets", "value"),
    "nexthop": ("nexthops", "value"),
    "traffic": ("path_stats", "value"),
    "explanation": ("explanation", "value"),
}
"""Each struct of abi.h and a map that holds it."""


def asserted_sizes() -> dict[str, int]:
    text = (BPF_DIR / "abi.h").read_text()
    rows = re.findall(r"^_Static_assert\(sizeof\(struct (\w+)\) == (\d+),", text, re.MULTILINE)
    return {name: int(size) for name, size in rows}


def test_every_struct_has_its_size_asserted() -> None:
    declared = re.findall(r"^struct (\w+) {", (BPF_DIR / "abi.h").read_text(), re.MULTILINE)
    assert asserted_sizes().keys() == set(declared) == STRUCTS.keys()


@pytest.fixture(scope="module")
def layout(shared_plane: Plane, pins: Path) -> Layout:
    """Of the variant that has every map."""
    return Build(pins, "layout", Variant.EXPLAIN).result()


def python_type(layout: Layout, name: str) -> type[ctypes.Structure]:
    map_name, part = STRUCTS[name]
    kind = layout.key(map_name) if part == "key" else layout.value(map_name)
    assert isinstance(kind, type)
    assert issubclass(kind, ctypes.Structure)
    return kind


@pytest.mark.parametrize("name", STRUCTS)
def test_size(layout: Layout, name: str) -> None:
    kind = python_type(layout, name)
    assert kind.__name__ == name
    assert ctypes.sizeof(kind) == asserted_sizes()[name]


def test_maps_are_as_large_as_the_layout_says(plane: Plane) -> None:
    for name in NAMES:
        info = libbpf.map_info(plane.maps.fds[name])
        sizes = [ctypes.sizeof(part(name)) for part in (plane.layout.key, plane.layout.value)]
        assert [info.key_size, info.value_size] == sizes, name


def test_capacities(plane: Plane) -> None:
    entries = {name: libbpf.map_info(plane.maps.fds[name]).max_entries for name in NAMES}
    expected = {
        name: CAPACITY[f"{name.upper()}_MAX"] for name in NAMES if f"{name.upper()}_MAX" in CAPACITY
    }
    expected |= {
        "control": 1,
        "config": 2,
        "reason_stats": STAT_ENTRIES,
    }
    assert entries == expected


def assertions(layout: Layout) -> list[str]:
    """What Python believes of the layout, in C."""
    rows = []
    for name in STRUCTS:
        kind = python_type(layout, name)
        for field, *_ in kind._fields_:
            descriptor = getattr(kind, field)
            member = f"((struct {name} *)0)->{field}"
            rows.append(f"__builtin_offsetof(struct {name}, {field}) == {descriptor.offset}")
            rows.append(f"sizeof({member}) == {descriptor.size}")
    rows += [f"REASON_{reason.name} == {int(reason)}" for reason in Reason]
    rows += [f"{index} < STAT_COUNT" for index in ICMP_ERROR_INDEX.values()]
    rows += [f"GROUP_{kind.name} == {int(kind)}" for kind in GroupKind]
    return rows


def build(pins: Path, name: str, source: Path, rows: list[str]) -> None:
    text = (BPF_DIR / "xdpecmp.c").read_text()
    source.write_text(text + "".join(f'\n_Static_assert({row}, "{row}");' for row in rows) + "\n")
    directory = pins / name
    directory.mkdir()
    Build(directory, "test", Variant.EXPLAIN, source).result()


def test_offsets_and_numbers(layout: Layout, pins: Path, tmp_path: Path) -> None:
    """The compiler that makes the program checks them: ctypes packs, so it would not see a pad that
    the compiler put in."""
    rows = assertions(layout)
    build(pins, "right", tmp_path / "right.c", rows)


def test_a_wrong_offset_would_be_seen(pins: Path, tmp_path: Path) -> None:
    wrong = "__builtin_offsetof(struct nexthop, mtu) == 23"
    with pytest.raises(BuildFailed, match=r"static_assert|static assertion"):
        build(pins, "wrong", tmp_path / "wrong.c", [wrong])


def test_the_layout_survives_the_disk(layout: Layout, tmp_path: Path) -> None:
    layout.save(tmp_path / "layout.json")
    again = Layout.load(tmp_path / "layout.json")
    for name in STRUCTS:
        one, other = python_type(layout, name), python_type(again, name)
        fields = [
            [(f, getattr(kind, f).offset, getattr(kind, f).size) for f, *_ in kind._fields_]
            for kind in (one, other)
        ]
        assert fields[0] == fields[1]
