"""Compiles and loads the BPF programs: the only module that knows bcc.

It runs as a process of its own (`python -m xdpecmp.program DIRECTORY`), which pins what it made and
ends: so nobody else carries a compiler in memory, what the compiler and the verifier say on stderr
can be caught, and the caller reads routes meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from enum import Enum
from pathlib import Path

from . import libbpf
from .abi import BPF_DIR, CAPACITY
from .errors import XdpecmpError
from .maps import NAMES, Layout

PROGRAM, CLOCK, EXPLAIN = "xdpecmp", "xdpecmp_clock", "xdpecmp_explain"
"""What runs on the interfaces, what tells the time, and what only says how it would decide: the
names of their C functions."""

EXPLANATION = "explanation"
"""The map that EXPLAIN writes to."""


class Variant(Enum):
    """Which entry points of bpf/xdpecmp.c are built."""

    MAIN = "VARIANT_MAIN"
    DEEP = "VARIANT_DEEP"
    """What the main program calls for a hash that takes a walk through the packet."""
    EXPLAIN = "VARIANT_EXPLAIN"
    """The same decisions, written down. A generation by itself: it calls a deep one of its own."""


_PINNED = {Variant.MAIN: (PROGRAM, CLOCK), Variant.DEEP: (), Variant.EXPLAIN: (EXPLAIN,)}
_CALLED = {Variant.DEEP: "xdpecmp_deep", Variant.EXPLAIN: "xdpecmp_explain_deep"}


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
        source: Path = BPF_DIR / "xdpecmp.c",
    ) -> None:
        """Starts at once. `directory` must exist, in a bpffs. A variant that others call goes with
        the main one of the same generation."""
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                __spec__.name,
                str(directory),
                generation,
                variant.name,
                str(source),
            ],
            cwd=Path(__file__).parent.parent,  # where this very package is found
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> Layout:
        """Waits for the end. Raises BuildFailed with the line that says most."""
        out, err = self._process.communicate()
        if self._process.returncode:
            raise BuildFailed(
                f"cannot build the XDP program: {_essence(err)}",
                "see what is missing: /usr/bin/python3 -c 'import bcc'; then run "
                "vagrant/provision.sh",
            )
        return Layout(json.loads(out))

    def abandon(self) -> None:
        """Ends the build if it still runs."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.communicate()


def _essence(output: str) -> str:
    """The one line of a compiler's, verifier's or Python's complaint that names the cause."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for mark in ("error:", "Error:", "Permission", "not permitted", "Exception:"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "no message"


def compiler_flags(directory: Path, generation: str, variant: Variant) -> list[str]:
    """What bpf/xdpecmp.c is compiled with, beside what bcc adds.

    Without debug information, and without clang's optimiser: bcc runs LLVM's over it anyway. Both
    together take a third off the time.
    """
    sizes = [f"-D{name}={value}" for name, value in CAPACITY.items()]
    pins = [f'-DPIN_DIR="{directory}"', f'-DGENERATION="{generation}"', f"-D{variant.value}"]
    quick = ["-g0", "-Xclang", "-disable-llvm-passes"]
    return [*sizes, *pins, f"-I{BPF_DIR}", *quick]


def _build(directory: Path, generation: str, variant: Variant, source: Path) -> dict[str, object]:
    """Compile, load and pin; the maps' descriptions by bcc (see maps.Layout)."""
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR / "uapi")
    import bcc

    bpf = bcc.BPF(src_file=str(source), cflags=compiler_flags(directory, generation, variant))
    if variant in _CALLED:
        called = bpf.load_func(_CALLED[variant], bcc.BPF.XDP)
        libbpf.map_update(bpf["programs"].map_fd, bytes(4), called.fd.to_bytes(4, "little"))
    for name in _PINNED[variant]:
        function = bpf.load_func(name, bcc.BPF.XDP)
        libbpf.pin(function.fd, directory / pin_name(name, generation))
    names = (*NAMES, EXPLANATION) if variant is Variant.EXPLAIN else NAMES
    return {name: _descriptions(bcc.lib, bpf.module, name) for name in names}


def _descriptions(library: object, module: object, name: str) -> tuple[object, object]:
    calls = ("bpf_table_key_desc", "bpf_table_leaf_desc")
    key, value = (json.loads(getattr(library, call)(module, name.encode())) for call in calls)
    return key, value


if __name__ == "__main__":
    _, where, name, which, what = sys.argv
    print(json.dumps(_build(Path(where), name, Variant[which], Path(what))))
    sys.stdout.flush()
    os._exit(0)  # taking a compiler down in good order takes 50 ms
