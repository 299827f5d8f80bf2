"""The BPF programs of one instance: compiled or taken from the cache, loaded and pinned.

Compiling is done by another process (`compiler`), so a `Build` runs while its caller does other
things. Every `attach` is a *generation*: its programs have their own pins, so that during an
upgrade no old program calls a new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TypeVar

from ..errors import XdpecmpError
from . import compiler, image, libbpf
from .image import Image
from .maps import NAMES, Layout

PROGRAM, CLOCK, EXPLAIN = "xdpecmp", "xdpecmp_clock", "xdpecmp_explain"
"""C functions: the program on the interfaces, the one that reads the clock, and the one that only
records its decision."""

EXPLANATION = "explanation"
"""The map that EXPLAIN records to."""


class Variant(Enum):
    """Which entry points of bpf/xdpecmp.c are built."""

    MAIN = "MAIN"
    DEEP = "DEEP"
    """What the main program calls if the hash takes a walk through the packet."""
    EXPLAIN = "EXPLAIN"
    """The same decisions, recorded. A separate generation, with its own deep program."""
    KEY_READ = "KEY_READ"
    """bpf/key_read.c, which nothing pins; as the next."""
    KEY_SEARCH = "KEY_SEARCH"
    """bpf/key_search.c."""


_PINNED = {Variant.MAIN: (PROGRAM, CLOCK), Variant.DEEP: (), Variant.EXPLAIN: (EXPLAIN,)}
"""Of the variants that are pinned at all."""
_CALLED = {Variant.DEEP: "xdpecmp_deep", Variant.EXPLAIN: "xdpecmp_explain_deep"}
_CALLS = "programs"
"""The map through which those are called."""
_DEEP_PROGRAM = 0
"""Index into it: DEEP_PROGRAM in bpf/maps.c."""
OF_GENERATION = {_CALLS, "workspaces", "destinations", EXPLANATION}
"""Maps that programs of different generations do not share."""

GENERATION_DIGITS = 8


def new_generation() -> str:
    """A name for a program and those that it calls."""
    return os.urandom(GENERATION_DIGITS // 2).hex()


def pin_name(function: str, generation: str) -> str:
    """Name of a program's pin. With ANY_GENERATION, a glob pattern for any generation's."""
    return f"{function}_{generation}"


ANY_GENERATION = "[0-9a-f]" * GENERATION_DIGITS


class BuildFailed(XdpecmpError):
    """The BPF programs do not compile, or the kernel does not load them."""


@contextmanager
def explained() -> Iterator[None]:
    """Raises BuildFailed for what the kernel has against loading."""
    try:
        yield
    except libbpf.Refused as error:
        raise BuildFailed(
            f"the kernel does not load the XDP program: {_essence(error.log)}",
            "see what may prevent it: xdpecmp doctor",
        ) from error
    except OSError as error:
        raise BuildFailed(
            f"cannot load the XDP program: {error.filename}: {error.strerror}",
            "see what may prevent it: xdpecmp doctor",
        ) from error


Loaded = TypeVar("Loaded")


class Compilation:
    """A running compilation."""

    def __init__(self, variant: Variant, source: Path | None = None) -> None:
        """Starts at once, unless the cache has the image. `source`: another than the variant's."""
        self._variant = variant
        self._request = json.dumps(compiler.request(variant.value, source))
        self._compiler = compiler.version()
        self._key = _cache_key(variant, self._request, self._compiler)
        self._cached = image.cached(self._key)
        self._no_compiler: OSError | None = None
        self._process = None if self._cached else self._compile()

    def _compile(self) -> subprocess.Popen[str] | None:
        try:
            # no pipe, which would fill up
            with open(os.memfd_create("request"), "w+") as request:
                request.write(self._request)
                request.seek(0)
                return subprocess.Popen(
                    compiling(self._variant),
                    cwd="/",
                    stdin=request,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
        except OSError as error:  # for instance, Python was uninstalled; `result` raises it
            self._no_compiler = error
            return None

    def fileno(self) -> int | None:
        """Becomes readable when the compiler is done; None: there is nothing to wait for."""
        if self._process is None or self._process.stdout is None:
            return None
        return self._process.stdout.fileno()

    def load_by(self, load: Callable[[Image], Loaded]) -> Loaded:
        """Waits for the compiler and has `load` load the image. Raises BuildFailed, as `load` may,
        with the line of its output that names the cause."""
        if self._cached:
            try:
                return load(self._cached)
            except BuildFailed:  # perhaps another verifier's: compile the sources again
                image.forget(self._key)
                self._process = self._compile()
        compiled, compiler_version = self._compiled()
        loaded = load(compiled)
        if compiler_version == self._compiler:  # bcc may have been upgraded meanwhile
            image.keep(self._key, compiled)
        return loaded

    def _compiled(self) -> tuple[Image, str]:
        """The image, and the version of the compiler that made it."""
        if self._no_compiler is not None:
            raise BuildFailed(
                f"cannot start the compiler: {self._no_compiler.strerror}",
                "upgrade: xdpecmp attach IFACE",
            )
        assert self._process is not None
        out, err = self._process.communicate()
        if self._process.returncode:
            raise BuildFailed(
                f"cannot build the XDP program: {_essence(err)}",
                "see what is missing: /usr/bin/python3 -c 'import bcc'; then run "
                "vagrant/provision.sh",
            )
        return Image.parse(out), str(json.loads(out)["compiler"])

    def abandon(self) -> None:
        """Ends the build if it still runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.communicate()


class Build(Compilation):
    """A running build. Pins appear in `directory`; existing maps there are used again."""

    def __init__(
        self,
        directory: Path,
        generation: str,
        variant: Variant = Variant.MAIN,
        source: Path | None = None,
    ) -> None:
        """Starts to compile at once, unless the cache has the image. `directory` must exist, in a
        bpffs. A variant that others call has the generation of the main one. `source`: another
        file than bpf/xdpecmp.c."""
        self._directory, self._generation = directory, generation
        super().__init__(variant, source)

    def result(self) -> Layout:
        """Waits for the compiler and loads the image. Raises BuildFailed with the line of its
        output that names the cause."""
        return self.load_by(self._load)

    def _load(self, compiled: Image) -> Layout:
        with explained():
            load(compiled, self._directory, self._generation, self._variant)
        shown = (*NAMES, EXPLANATION)
        return Layout({m.name: (m.key, m.value) for m in compiled.maps if m.name in shown})


def compiling(variant: Variant) -> list[str]:
    """The command that compiles the `compiler.request` on its standard input."""
    return [sys.executable, "-P", "-c", compiler.BOOT, compiler.__name__, variant.value]


def load(compiled: Image, directory: Path, generation: str, variant: Variant) -> None:
    """Loads an image's programs and pins them, and those of its maps that are not pinned yet.
    Raises OSError; libbpf.Refused if the verifier refuses a program."""
    with ExitStack() as undo:
        fds = []
        for spec in compiled.maps:
            own = spec.name in OF_GENERATION
            pin = directory / (pin_name(spec.name, generation) if own else spec.name)
            fds.append(_open_map(pin, spec))
            undo.callback(os.close, fds[-1])
        called = _CALLED.get(variant)
        programs = {}
        for name in compiled.functions:
            programs[name] = libbpf.load_xdp(name, compiled.code(name, fds))
            undo.callback(os.close, programs[name])
        for name, program in programs.items():  # pinned once all of them are loaded
            if name == called:
                calls = [spec.name for spec in compiled.maps].index(_CALLS)
                libbpf.map_update(fds[calls], _u32(_DEEP_PROGRAM), _u32(program))
            if name in _PINNED[variant]:
                libbpf.pin(program, directory / pin_name(name, generation))


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _open_map(pin: Path, spec: image.MapSpec) -> int:
    try:
        return libbpf.get_pinned(pin)
    except FileNotFoundError:
        fd = libbpf.create_map(
            spec.type, spec.name, spec.key_size, spec.value_size, spec.max_entries, spec.flags
        )
        try:
            libbpf.pin(fd, pin)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _cache_key(variant: Variant, request: str, compiler_version: str) -> str:
    """A hash over all that an image depends on: the request with the text of the sources, the
    compiler, and the kernel, whose version bcc reads."""
    digest = hashlib.sha256()
    for part in (request, compiler_version, os.uname().release):
        digest.update(f"{part}\n".encode())
    return f"{variant.value.lower()}-{digest.hexdigest()[:16]}"


def _essence(output: str) -> str:
    """The line of a compiler's, verifier's or Python's error output that names the cause."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for mark in ("error:", "Error:", "Permission", "not permitted", "Exception:"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "no message"
