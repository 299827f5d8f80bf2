"""Compiled programs as values: on disk and back, and linked with the descriptors of maps."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpecmp.program import image
from xdpecmp.program.image import Image, MapSpec

_INSTRUCTION = struct.Struct("=BBhi")
LOAD_64, MOVE, EXIT = 0x18, 0xB7, 0x95
PSEUDO_MAP_FD = 0x10


def load_map(number: int) -> bytes:
    """ld_imm64 of a map into r1: two instructions."""
    return _INSTRUCTION.pack(LOAD_64, PSEUDO_MAP_FD | 1, 0, number) + bytes(8)


CODE = (
    load_map(1)
    + _INSTRUCTION.pack(MOVE, 0, 0, 1)
    + _INSTRUCTION.pack(LOAD_64, 2, 0, 1)  # a number, not a map
    + bytes(8)
    + load_map(0)
    + _INSTRUCTION.pack(EXIT, 0, 0, 0)
)
CONTROL = MapSpec(
    "control", 2, 4, 16, 1, 1024, "unsigned int", ["control", [["a", "int"]], "struct"]
)
GROUPS = MapSpec("groups", 2, 4, 8, 65536, 1024, "unsigned int", "unsigned long long")
MADE = Image([CONTROL, GROUPS], {"xdpecmp": CODE})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(image, "CACHE", tmp_path / "cache" / "xdpecmp")
    return tmp_path / "cache" / "xdpecmp"


def test_maps_are_found_where_instructions_name_them() -> None:
    assert list(Image.map_references(CODE)) == [4, 44]


def test_linking_puts_descriptors_where_maps_are_named_and_nowhere_else() -> None:
    linked = MADE.code("xdpecmp", [77, 88])
    numbers = [int.from_bytes(linked[at : at + 4], sys.byteorder) for at in (4, 44)]
    assert numbers == [88, 77]
    rest = bytearray(linked)
    for at in (4, 44):
        rest[at : at + 4] = CODE[at : at + 4]
    assert bytes(rest) == CODE


def test_an_image_survives_the_disk() -> None:
    again = Image.parse(MADE.dump())
    assert (list(again.maps), again.functions) == (MADE.maps, MADE.functions)


def test_what_is_kept_is_found_under_its_key_alone(cache: Path) -> None:
    assert image.cached("main-1") is None
    image.keep("main-1", MADE)
    found = image.cached("main-1")
    assert found is not None
    assert found.functions == MADE.functions
    assert image.cached("main-2") is None
    image.forget("main-1")
    assert image.cached("main-1") is None
    assert list(cache.iterdir()) == []


def test_nobody_else_may_put_programs_there(cache: Path) -> None:
    image.keep("main-1", MADE)
    assert cache.stat().st_mode & 0o777 == 0o700


@given(
    text=st.one_of(
        st.text(),
        st.sampled_from(["{}", "[]", '{"maps": [{}], "functions": {}}', '{"functions": []}']),
    )
)
def test_what_is_no_image_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        Image.parse(text)


def test_a_spoilt_file_counts_as_none(cache: Path) -> None:
    image.keep("main-1", MADE)
    (cache / "main-1.json").write_text('{"maps": [')
    assert image.cached("main-1") is None


def test_the_cache_does_not_grow_without_end(cache: Path) -> None:
    for number in range(40):
        image.keep(f"main-{number}", MADE)
    assert len(list(cache.iterdir())) < 20
    assert image.cached("main-39") is not None


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(image, "CACHE", tmp_path / "file" / "xdpecmp")
    image.keep("main-1", MADE)
    assert image.cached("main-1") is None
