"""Compiles the BPF programs: the only module that knows bcc.

It is run as a process of its own, so that nobody else carries a compiler in memory, what the
compiler says on stderr can be caught, and the caller does other things meanwhile. That process
reads no file of this package, which may be another version's by then: `BOOT` has Python run this
very text, and take the sources, from a `request` on standard input. It prints an `Image` as JSON.
So this module imports nothing of the package at its top.
"""

from __future__ import annotations

import base64
import ctypes
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .image import Image

FUNCTIONS = {
    "MAIN": ("xdpecmp", "xdpecmp_clock"),
    "DEEP": ("xdpecmp_deep",),
    "EXPLAIN": ("xdpecmp_explain", "xdpecmp_explain_deep"),
}
"""The programs of each variant: what bpf/xdpecmp.c and explain.c define under VARIANT_*."""

BOOT = (
    "import json, sys; asked = json.load(sys.stdin); "
    "exec(compile(asked.pop('code'), 'xdpecmp/program/compiler.py', 'exec'), "
    "{'__name__': '__main__', 'asked': asked})"
)
"""What `python -c` runs."""

CODE = Path(__file__).read_text() if "__file__" in globals() else ""
"""This module, as it was when it was imported."""

_QUICK = ("-g0", "-Xclang", "-disable-llvm-passes")
"""Without debug information, and without clang's optimiser: bcc runs LLVM's over it anyway. Both
together take a third off the time, and cost a packet one nanosecond."""


READ_BY_THE_PROGRAM = {"INTERFACES_MAX", "DESTINATIONS_MAX"}
"""Capacities that are more than the size of a map."""


def flags(variant: str, capacity: Mapping[str, int]) -> list[str]:
    """What bpf/xdpecmp.c is compiled with, beside what bcc adds, and where its headers are.

    bcc makes the maps as it compiles, only for us to throw them away: so they are small then, and
    get their sizes in the image.
    """
    sizes = [
        f"-D{name}={value if name in READ_BY_THE_PROGRAM else 1}"
        for name, value in capacity.items()
    ]
    return [*sizes, f"-DVARIANT_{variant}", *_QUICK]


def version() -> str:
    """What tells one compiler from another, without loading it; "" where there is none."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        return ""
    path = Path(found.origin).with_name("version.py")
    return path.read_text() if path.exists() else ""


def joined(name: str, text: str, sources: Mapping[str, str]) -> str:
    """A BPF source with the text of the .c files of bpf/ that it includes in place of their names.

    bcc rewrites map accesses in the main source alone; what it includes would compile and not load.
    The compiler's messages name files and lines as they are.
    """

    def part(include: re.Match[str]) -> str:
        included, after = include[1], text.count("\n", 0, include.end()) + 2
        return f'#line 1 "{included}"\n{sources[included]}#line {after} "{name}"'

    whole = re.sub(r'^#include "(\w+\.c)"$', part, text, flags=re.MULTILINE)
    return f'#line 1 "{name}"\n{whole}'


def request(variant: str, source: Path | None = None) -> dict[str, Any]:
    """All that goes into an image but bcc and the kernel: what a compiling process is told.
    `source`: another file than bpf/xdpecmp.c."""
    from .abi import CAPACITY, SOURCES

    name = "xdpecmp.c" if source is None else source.name
    text = SOURCES[name] if source is None else source.read_text()
    return {
        "code": CODE,
        "text": joined(name, text, SOURCES),
        "files": SOURCES,
        "flags": flags(variant, CAPACITY),
        "functions": FUNCTIONS[variant],
        "capacity": CAPACITY,
    }


def compile_image(variant: str, source: Path | None = None) -> Image:
    """Compile in this process, from the files. Raises what bcc raises, which has said why on
    stderr."""
    from .abi import BPF_DIR
    from .image import Image

    return Image.parse(json.dumps(_compile(request(variant, source), BPF_DIR)))


def _compile(asked: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """An Image as plain values, and which compiler made it. `directory` has the headers."""
    os.environ["BCC_KERNEL_SOURCE"] = str(directory / "uapi")
    import bcc

    bpf = bcc.BPF(text=asked["text"].encode(), cflags=[*asked["flags"], f"-I{directory}"])
    count = bcc.lib.bpf_num_tables(bpf.module)
    maps = [_map_spec(bcc.lib, bpf.module, number, asked["capacity"]) for number in range(count)]
    numbers = {bpf[spec["name"].encode()].map_fd: number for number, spec in enumerate(maps)}
    functions = {
        name: base64.b64encode(_relocatable(bpf.dump_func(name.encode()), numbers)).decode()
        for name in asked["functions"]
    }
    return {"maps": maps, "functions": functions, "compiler": version()}


def _map_spec(
    library: Any, module: Any, number: int, capacity: Mapping[str, int]
) -> dict[str, Any]:
    """The fields of a MapSpec."""

    def ask(call: str, kind: Any = ctypes.c_int) -> Any:
        """Of the table with that number: what bcc's Python does not declare all of."""
        function = getattr(library, call)
        function.restype, function.argtypes = kind, [ctypes.c_void_p, ctypes.c_size_t]
        return function(module, number)

    name = ask("bpf_table_name", ctypes.c_char_p)
    entries = ask("bpf_table_max_entries_id")
    return {
        "name": name.decode(),
        "type": ask("bpf_table_type_id"),
        "key_size": ask("bpf_table_key_size_id"),
        "value_size": ask("bpf_table_leaf_size_id"),
        "max_entries": capacity.get(f"{name.decode().upper()}_MAX", entries),
        "flags": ask("bpf_table_flags_id"),
        "key": json.loads(library.bpf_table_key_desc(module, name)),
        "value": json.loads(library.bpf_table_leaf_desc(module, name)),
    }


def _relocatable(code: bytes, numbers: dict[int, int]) -> bytes:
    """Instructions that name maps by their number in the image rather than by descriptor."""
    found = bytearray(code)
    for at in _map_references(code):
        fd = int.from_bytes(code[at : at + 4], sys.byteorder)
        found[at : at + 4] = numbers[fd].to_bytes(4, sys.byteorder)
    return bytes(found)


def _map_references(code: bytes) -> list[int]:
    """See Image.map_references, which is not here in that process."""
    return [at + 4 for at in range(0, len(code), 8) if code[at] == 0x18 and code[at + 1] >> 4 == 1]


_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


_MOUNT_POINT = Path("/proc/fs")
"""Any directory that every Linux has, and that neither Python nor bcc needs."""


def _mount_apart() -> Path | None:
    """Have mounts of our own, which end with this process: a file system in memory, which is
    returned, and nothing in place of the kernel's symbols, over 100,000 lines.

    bcc reads them all before it compiles, to learn about a helper of tracing programs, which takes
    a third of the time. None where that is not permitted.
    """
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        return None
    libc.mount(os.devnull.encode(), b"/proc/kallsyms", None, _MS_BIND, None)
    point = os.fsencode(_MOUNT_POINT)
    return None if libc.mount(b"none", point, b"tmpfs", 0, b"mode=0700") else _MOUNT_POINT


_PR_SET_PDEATHSIG = 1


def _end_with_the_caller() -> None:
    """However that ends: between starting us and knowing us it may be told to."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _main(asked: Mapping[str, Any]) -> None:
    """Do what was asked for, print it and end."""
    _end_with_the_caller()
    os.setpriority(
        os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0))
    )  # not the agent's
    apart = _mount_apart()
    directory = apart or Path(tempfile.mkdtemp(prefix="xdpecmp-"))
    try:
        for name, text in asked["files"].items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        print(json.dumps(_compile(asked, directory)))
        sys.stdout.flush()
    finally:
        if apart is None:
            with suppress(OSError):
                shutil.rmtree(directory)
    os._exit(0)  # taking a compiler down in good order takes 50 ms


if __name__ == "__main__":
    _main(globals()["asked"])
