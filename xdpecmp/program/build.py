"""The BPF programs of one instance: compiled or taken from the cache, loaded and pinned."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from enum import Enum
from pathlib import Path

from ..errors import XdpecmpError
from . import compiler, image, libbpf
from .image import Image
from .maps import NAMES, Layout

PROGRAM, CLOCK, EXPLAIN = "xdpecmp", "xdpecmp_clock", "xdpecmp_explain"
"""What runs on the interfaces, what tells the time, and what only says how it would decide: the
names of their C functions."""

EXPLANATION = "explanation"
"""The map that EXPLAIN writes to."""


class Variant(Enum):
    """Which entry points of bpf/xdpecmp.c are built."""

    MAIN = "MAIN"
    DEEP = "DEEP"
    """What the main program calls for a hash that takes a walk through the packet."""
    EXPLAIN = "EXPLAIN"
    """The same decisions, written down. A generation by itself: it calls a deep one of its own."""


_PINNED = {Variant.MAIN: (PROGRAM, CLOCK), Variant.DEEP: (), Variant.EXPLAIN: (EXPLAIN,)}
_CALLED = {Variant.DEEP: "xdpecmp_deep", Variant.EXPLAIN: "xdpecmp_explain_deep"}
_CALLS = "programs"
"""The map through which they are called."""
OF_GENERATION = {_CALLS, "workspaces", "destinations", EXPLANATION}
"""Maps that programs of different generations don't share."""


GENERATION_DIGITS = 8


def new_generation() -> str:
    """A name for a program and those that it calls: they share pins that others don't."""
    return os.urandom(GENERATION_DIGITS // 2).hex()


def pin_name(function: str, generation: str) -> str:
    """How a program's pin is called. A glob pattern for any generation with ANY_GENERATION."""
    return f"{function}_{generation}"


ANY_GENERATION = "[0-9a-f]" * GENERATION_DIGITS


class BuildFailed(XdpecmpError):
    """The BPF programs do not compile, or the kernel does not take them."""


class Build:
    """A running build. Pins appear in `directory`; existing maps there are used again."""

    def __init__(
        self,
        directory: Path,
        generation: str,
        variant: Variant = Variant.MAIN,
        source: Path | None = None,
    ) -> None:
        """Starts to compile at once, unless that was done before. `directory` must exist, in a
        bpffs. A variant that others call goes with the main one of the same generation. `source`:
        another file than bpf/xdpecmp.c."""
        self._directory, self._generation, self._variant = directory, generation, variant
        self._request = json.dumps(compiler.request(variant.value, source))
        self._compiler = compiler.version()
        self._key = _cache_key(variant, self._request, self._compiler)
        self._cached = image.cached(self._key)
        self._no_compiler: OSError | None = None
        self._process = None if self._cached else self._compile()

    def _compile(self) -> subprocess.Popen[str] | None:
        try:
            with open(os.memfd_create("request"), "w+") as told:  # no pipe, which would fill up
                told.write(self._request)
                told.seek(0)
                return subprocess.Popen(
                    compiling(self._variant),
                    cwd="/",
                    stdin=told,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
        except OSError as error:  # Python itself is gone, say: `result` tells
            self._no_compiler = error
            return None

    def fileno(self) -> int | None:
        """What becomes readable when the compiler is done; None: there is nothing to wait for."""
        if self._process is None or self._process.stdout is None:
            return None
        return self._process.stdout.fileno()

    def result(self) -> Layout:
        """Waits for the compiler and loads what it made. Raises BuildFailed with the line that says
        most."""
        if self._cached:
            try:
                return self._load(self._cached)
            except BuildFailed:  # by another kernel's verifier, say: the sources decide
                image.forget(self._key)
                self._process = self._compile()
        made, by = self._compiled()
        layout = self._load(made)
        if by == self._compiler:  # the distribution's bcc may just have been upgraded
            image.keep(self._key, made)
        return layout

    def _compiled(self) -> tuple[Image, str]:
        """The image, and which compiler made it."""
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

    def _load(self, made: Image) -> Layout:
        try:
            load(made, self._directory, self._generation, self._variant)
        except libbpf.Refused as error:
            raise BuildFailed(
                f"the kernel does not load the XDP program: {_essence(error.log)}",
                "xdpecmp doctor says what may be in its way",
            ) from error
        except OSError as error:
            raise BuildFailed(
                f"cannot load the XDP program: {error.filename}: {error.strerror}",
                "xdpecmp doctor says what may be in its way",
            ) from error
        shown = (*NAMES, EXPLANATION)
        return Layout({m.name: (m.key, m.value) for m in made.maps if m.name in shown})

    def abandon(self) -> None:
        """Ends the build if it still runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.communicate()


def compiling(variant: Variant) -> list[str]:
    """The command that compiles what it is told on standard input."""
    return [sys.executable, "-P", "-c", compiler.BOOT, compiler.__name__, variant.value]


def load(made: Image, directory: Path, generation: str, variant: Variant) -> None:
    """Load an image's programs and pin them; its maps too, where they are not pinned yet. Raises
    OSError, and libbpf.Refused where it was the verifier."""
    with ExitStack() as undo:
        fds = []
        for spec in made.maps:
            own = spec.name in OF_GENERATION
            pin = directory / (pin_name(spec.name, generation) if own else spec.name)
            fds.append(_open_map(pin, spec))
            undo.callback(os.close, fds[-1])
        called = _CALLED.get(variant)
        programs = {}
        for name in made.functions:
            programs[name] = libbpf.load_xdp(name, made.code(name, fds))
            undo.callback(os.close, programs[name])
        for name, program in programs.items():  # pinned when all of them were taken
            if name == called:
                calls = [spec.name for spec in made.maps].index(_CALLS)
                libbpf.map_update(fds[calls], bytes(4), program.to_bytes(4, sys.byteorder))
            if name in _PINNED[variant]:
                libbpf.pin(program, directory / pin_name(name, generation))


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


def _cache_key(variant: Variant, request: str, by: str) -> str:
    """All that goes into an image: what the compiling process is told, which is the very text, the
    compiler, and the kernel, whose version bcc looks at."""
    digest = hashlib.sha256()
    for part in (request, by, os.uname().release):
        digest.update(f"{part}\n".encode())
    return f"{variant.value.lower()}-{digest.hexdigest()[:16]}"


def _essence(output: str) -> str:
    """The one line of a compiler's, verifier's or Python's complaint that names the cause."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for mark in ("error:", "Error:", "Permission", "not permitted", "Exception:"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "no message"
