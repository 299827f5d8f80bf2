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
from pathlib import Path

from . import libbpf
from .abi import BPF_DIR, CAPACITY
from .errors import XdpecmpError
from .maps import NAMES, Layout

PROGRAM, CLOCK = "xdpecmp", "xdpecmp_clock"
"""The programs, by the names of their C functions and of their pins."""


class BuildFailed(XdpecmpError):
    """The BPF programs do not compile, or the kernel does not take them."""


class Build:
    """A running build. Pins appear in `directory`; existing maps there are used again."""

    def __init__(self, directory: Path, source: Path = BPF_DIR / "xdpecmp.c") -> None:
        """Starts at once. `directory` must exist, in a bpffs."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(directory), str(source)],
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


def _build(directory: Path, source: Path) -> dict[str, object]:
    """Compile, load and pin; the maps' descriptions by bcc (see maps.Layout)."""
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR / "uapi")
    import bcc

    flags = [f"-D{name}={value}" for name, value in CAPACITY.items()]
    flags += [f'-DPIN_DIR="{directory}"', f"-I{BPF_DIR}"]
    bpf = bcc.BPF(src_file=str(source), cflags=flags)
    for name in (PROGRAM, CLOCK):
        function = bpf.load_func(name, bcc.BPF.XDP)
        fresh = directory / f"{name}_new"  # bpffs reserves names with dots
        libbpf.pin(function.fd, fresh)
        fresh.rename(directory / name)  # replaces the pin of the program before
    return {name: _descriptions(bcc.lib, bpf.module, name) for name in NAMES}


def _descriptions(library: object, module: object, name: str) -> tuple[object, object]:
    calls = ("bpf_table_key_desc", "bpf_table_leaf_desc")
    key, value = (json.loads(getattr(library, call)(module, name.encode())) for call in calls)
    return key, value


if __name__ == "__main__":
    print(json.dumps(_build(Path(sys.argv[1]), Path(sys.argv[2]))))
