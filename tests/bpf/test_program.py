"""Building: from the cache or by the compiler, into maps that are there or aren't."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from xdpecmp.program import abi, compiler, image, libbpf
from xdpecmp.program import build as program
from xdpecmp.program.build import PROGRAM, Build, BuildFailed, Variant, load, pin_name
from xdpecmp.program.image import Image

pytestmark = pytest.mark.root

_EXIT_WITHOUT_RESULT = bytes([0x95, 0, 0, 0, 0, 0, 0, 0])
"""`exit` while r0 was never set: no verifier takes that."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(image, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def directory(pins: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = pins / request.node.name.replace("[", "-").replace("]", "")
    path.mkdir()
    yield path
    for pin in path.iterdir():
        pin.unlink()


@pytest.fixture(scope="module")
def compiled() -> Image:
    from xdpecmp.program.compiler import compile_image

    return compile_image(Variant.MAIN.value)


def fill(cache: Path, made: Image) -> str:
    """Have the cache hold that image for the main program; returns its key."""
    request = json.dumps(compiler.request(Variant.MAIN.value))
    key = program._cache_key(Variant.MAIN, request, compiler.version())
    image.keep(key, made)
    return key


def refuse(made: Image) -> Image:
    """The same, for a program that no verifier takes."""
    return replace(made, functions={**made.functions, PROGRAM: _EXIT_WITHOUT_RESULT})


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Build) -> None:
        pytest.fail("a compiler was started")

    monkeypatch.setattr(Build, "_compile", fail)


def test_what_was_compiled_once_is_not_compiled_again(
    cache: Path, directory: Path, compiled: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, compiled)
    no_compiler(monkeypatch)
    layout = Build(directory, "test").result()
    assert layout.value("config") is not None
    fd = libbpf.get_pinned(directory / pin_name(PROGRAM, "test"))
    os.close(fd)


def test_a_build_leaves_its_image_for_the_next_one(cache: Path, directory: Path) -> None:
    Build(directory, "test").result()
    (kept,) = cache.iterdir()
    assert kept.name.startswith("main-")


def test_what_the_compiler_hides_from_itself_stays_in_others_sight() -> None:
    # where mounts are shared, as systemd has it
    script = '"$@" >/dev/null && cat /proc/self/mountinfo'
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "shared", "sh", "-c", script, "sh"),
            *program.compiling(Variant.MAIN),
        ],
        input=json.dumps(compiler.request(Variant.MAIN.value)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shared:" in done.stdout
    assert "kallsyms" not in done.stdout
    assert "/proc/fs" not in done.stdout


def test_other_sources_are_compiled(
    cache: Path, directory: Path, compiled: Image, tmp_path: Path
) -> None:
    fill(cache, compiled)
    other = tmp_path / "other.c"
    text = (abi.BPF_DIR / "xdpecmp.c").read_text()
    other.write_text(text + "int extra(void) { return 1 }")
    with pytest.raises(BuildFailed, match=rf"other\.c:{text.count(chr(10)) + 1}:.*error"):
        Build(directory, "test", source=other).result()


def test_what_the_kernel_refuses_is_compiled_again(
    cache: Path, directory: Path, compiled: Image
) -> None:
    key = fill(cache, refuse(compiled))
    Build(directory, "test").result()
    kept = image.cached(key)
    assert kept is not None
    assert kept.functions[PROGRAM] != _EXIT_WITHOUT_RESULT


def test_the_verifiers_words_reach_the_user(directory: Path, compiled: Image) -> None:
    with pytest.raises(libbpf.Refused) as caught:
        load(refuse(compiled), directory, "test", Variant.MAIN)
    assert "R0 !read_ok" in caught.value.log


def test_maps_are_shared_by_generations_save_their_own(directory: Path, compiled: Image) -> None:
    load(compiled, directory, "00000001", Variant.MAIN)
    load(compiled, directory, "00000002", Variant.MAIN)
    names = {path.name for path in directory.iterdir()}
    shared = {name for name in names if "_0000000" not in name}
    assert {spec.name for spec in compiled.maps} - program.OF_GENERATION == shared
    for own in ("programs", "workspaces", PROGRAM):
        assert {f"{own}_00000001", f"{own}_00000002"} <= names
