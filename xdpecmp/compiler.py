"""Compiles the BPF programs: the only module that knows bcc.

`python -m xdpecmp.compiler VARIANT SOURCE` prints an `Image` as JSON. It is a process of its own,
so that nobody else carries a compiler in memory, what the compiler says on stderr can be caught,
and the caller does other things meanwhile.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from .abi import BPF_DIR, CAPACITY
from .image import Image, MapSpec

FUNCTIONS = {
    "MAIN": ("xdpecmp", "xdpecmp_clock"),
    "DEEP": ("xdpecmp_deep",),
    "EXPLAIN": ("xdpecmp_explain", "xdpecmp_explain_deep"),
}
"""The programs of each variant: what bpf/xdpecmp.c and explain.c define under VARIANT_*."""


_QUICK = ("-g0", "-Xclang", "-disable-llvm-passes")
"""Without debug information, and without clang's optimiser: bcc runs LLVM's over it anyway. Both
together take a third off the time, and cost a packet one nanosecond."""


READ_BY_THE_PROGRAM = {"INTERFACES_MAX", "DESTINATIONS_MAX"}
"""Capacities that are more than the size of a map."""


def flags(variant: str) -> list[str]:
    """What bpf/xdpecmp.c is compiled with, beside what bcc adds.

    bcc makes the maps as it compiles, only for us to throw them away: so they are small then, and
    get their sizes in the image.
    """
    sizes = [
        f"-D{name}={value if name in READ_BY_THE_PROGRAM else 1}"
        for name, value in CAPACITY.items()
    ]
    return [*sizes, f"-DVARIANT_{variant}", f"-I{BPF_DIR}", *_QUICK]


def version() -> str:
    """What tells one compiler from another, without loading it; "" where there is none."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        return ""
    path = Path(found.origin).with_name("version.py")
    return path.read_text() if path.exists() else ""


def joined(source: Path) -> str:
    """A BPF source with the text of the .c files of bpf/ that it includes in place of their names.

    bcc rewrites map accesses in the main source alone; what it includes would compile and not load.
    The compiler's messages name files and lines as they are.
    """

    def part(include: re.Match[str]) -> str:
        name, after = include[1], text.count("\n", 0, include.end()) + 2
        return f'#line 1 "{name}"\n{(BPF_DIR / name).read_text()}#line {after} "{source.name}"'

    text = source.read_text()
    whole = re.sub(r'^#include "(\w+\.c)"$', part, text, flags=re.MULTILINE)
    return f'#line 1 "{source.name}"\n{whole}'


def compile_image(variant: str, source: Path) -> Image:
    """Raises what bcc raises, which has said why on stderr."""
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR / "uapi")
    import bcc

    bpf = bcc.BPF(text=joined(source).encode(), cflags=flags(variant))
    count = bcc.lib.bpf_num_tables(bpf.module)
    maps = [_map_spec(bcc.lib, bpf.module, number) for number in range(count)]
    numbers = {bpf[spec.name.encode()].map_fd: number for number, spec in enumerate(maps)}
    functions = {
        name: _relocatable(bpf.dump_func(name.encode()), numbers) for name in FUNCTIONS[variant]
    }
    return Image(maps, functions)


def _map_spec(library: Any, module: Any, number: int) -> MapSpec:
    def ask(call: str, kind: Any = ctypes.c_int) -> Any:
        """Of the table with that number: what bcc's Python does not declare all of."""
        function = getattr(library, call)
        function.restype, function.argtypes = kind, [ctypes.c_void_p, ctypes.c_size_t]
        return function(module, number)

    name = ask("bpf_table_name", ctypes.c_char_p)
    entries = ask("bpf_table_max_entries_id")
    return MapSpec(
        name.decode(),
        ask("bpf_table_type_id"),
        ask("bpf_table_key_size_id"),
        ask("bpf_table_leaf_size_id"),
        CAPACITY.get(f"{name.decode().upper()}_MAX", entries),
        ask("bpf_table_flags_id"),
        json.loads(library.bpf_table_key_desc(module, name)),
        json.loads(library.bpf_table_leaf_desc(module, name)),
    )


def _relocatable(code: bytes, numbers: dict[int, int]) -> bytes:
    """Instructions that name maps by their number in the image rather than by descriptor."""
    found = bytearray(code)
    for at in Image.map_references(code):
        fd = int.from_bytes(code[at : at + 4], sys.byteorder)
        found[at : at + 4] = numbers[fd].to_bytes(4, sys.byteorder)
    return bytes(found)


_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def _hide_symbols() -> None:
    """Keep this process, and no other, from seeing the kernel's symbols: over 100,000 lines.

    bcc reads them all before it compiles, to learn about a helper of tracing programs, which takes
    a third of the time. Where a mount namespace is not to be had, so be it.
    """
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        return
    libc.mount(os.devnull.encode(), b"/proc/kallsyms", None, _MS_BIND, None)


_PR_SET_PDEATHSIG = 1


def _end_with_the_caller() -> None:
    """However that ends: between starting us and knowing us it may be told to."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_the_caller()
    os.setpriority(
        os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0))
    )  # not the agent's
    _hide_symbols()
    print(compile_image(sys.argv[1], Path(sys.argv[2])).dump())
    sys.stdout.flush()
    os._exit(0)  # taking a compiler down in good order takes 50 ms
