"""Compiles the BPF programs: the only module that knows bcc.

It runs in a separate process, so that no other process has a compiler in memory, messages of the
compiler on stderr can be captured, and the caller does other things meanwhile. That process reads
no file of this package, which may be of another version by then: `BOOT` makes Python run the text
of this module, and compile the sources, from a `request` on standard input. It prints an `Image` as
JSON. So this module imports nothing of the package at its top.
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
    "KEY_READ": ("xdpecmp_key_read",),
    "KEY_SEARCH": ("xdpecmp_key_search",),
}
"""The programs of each variant: what bpf/xdpecmp.c and explain.c define under VARIANT_*."""

SOURCE = {"KEY_READ": "key_read.c", "KEY_SEARCH": "key_search.c"}
"""The sources of those that are not made of bpf/xdpecmp.c."""

BOOT = (
    "import json, sys; asked = json.load(sys.stdin); "
    "exec(compile(asked.pop('code'), 'xdpecmp/program/compiler.py', 'exec'), "
    "{'__name__': '__main__', 'asked': asked})"
)
"""The code for `python -c`."""

CODE = Path(__file__).read_text() if "__file__" in globals() else ""
"""The text of this module, as it was when it was imported."""

_QUICK = ("-g0", "-Xclang", "-disable-llvm-passes")
"""Without debug information, and without clang's optimiser, since bcc runs LLVM's anyway. This
saves a third of the time, and costs a packet one nanosecond."""

READ_BY_THE_PROGRAM = {"INTERFACES_MAX", "DESTINATIONS_MAX"}
"""Capacities that the program's code uses too, not only the maps."""


def flags(variant: str, capacity: Mapping[str, int]) -> list[str]:
    """Compiler flags for bpf/xdpecmp.c; bcc adds others, `_compile` the directory of headers.

    bcc makes maps as it compiles, which nobody uses: so they are small, and the capacities are put
    into the image afterwards.
    """
    sizes = [
        f"-D{name}={value if name in READ_BY_THE_PROGRAM else 1}"
        for name, value in capacity.items()
    ]
    return [*sizes, f"-DVARIANT_{variant}", *_QUICK]


def version() -> str:
    """The text of bcc's version.py, which identifies the compiler without loading it; "" if there
    is no bcc."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        return ""
    path = Path(found.origin).with_name("version.py")
    return path.read_text() if path.exists() else ""


def joined(name: str, text: str, sources: Mapping[str, str]) -> str:
    """A BPF source with the text of the .c files of bpf/ in place of the #include lines for them.

    bcc rewrites map accesses in the main source only; included ones would compile, but not load.
    #line keeps the compiler's messages right.
    """

    def part(include: re.Match[str]) -> str:
        included, after = include[1], text.count("\n", 0, include.end()) + 2
        return f'#line 1 "{included}"\n{sources[included]}#line {after} "{name}"'

    whole = re.sub(r'^#include "(\w+\.c)"$', part, text, flags=re.MULTILINE)
    return f'#line 1 "{name}"\n{whole}'


def request(variant: str, source: Path | None = None) -> dict[str, Any]:
    """All that an image depends on, except bcc and the kernel: the input of a compiling process.
    `source`: another file than bpf/xdpecmp.c."""
    from .abi import CAPACITY, SOURCES

    name = SOURCE.get(variant, "xdpecmp.c") if source is None else source.name
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
    """Compiles in this process, from the files. Raises bcc's exceptions; the cause is on stderr."""
    from .abi import BPF_DIR
    from .image import Image

    return Image.parse(json.dumps(_compile(request(variant, source), BPF_DIR)))


def _compile(asked: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """An Image as plain values, and the compiler's version. `directory` has the headers."""
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
        """The answer of a bcc function about that table; bcc's Python does not declare them all."""
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
    """Instructions that refer to maps by their number in the image instead of a descriptor."""
    found = bytearray(code)
    for at in _map_references(code):
        fd = int.from_bytes(code[at : at + 4], sys.byteorder)
        found[at : at + 4] = numbers[fd].to_bytes(4, sys.byteorder)
    return bytes(found)


_INSTRUCTION, _IMMEDIATE, _LOAD_64, _PSEUDO_MAP_FD = 8, 4, 0x18, 1
"""As in `image`."""


def _map_references(code: bytes) -> list[int]:
    """See Image.map_references, which that process cannot import."""
    return [
        at + _IMMEDIATE
        for at in range(0, len(code), _INSTRUCTION)
        if code[at] == _LOAD_64 and code[at + 1] >> 4 == _PSEUDO_MAP_FD
    ]


_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
"""include/uapi/linux/sched.h and mount.h."""

_MOUNT_POINT = Path("/proc/fs")
"""A directory that every Linux has, and that neither Python nor bcc needs."""


def _mount_apart() -> Path | None:
    """Makes mounts that only this process sees: a file system in memory, which is returned, and an
    empty file instead of /proc/kallsyms. None if that is not permitted.

    bcc reads all of the kernel's symbols before it compiles, over 100,000 lines, only to learn
    about a helper of tracing programs; that takes a third of the time.
    """
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        return None
    libc.mount(os.devnull.encode(), b"/proc/kallsyms", None, _MS_BIND, None)
    point = os.fsencode(_MOUNT_POINT)
    return None if libc.mount(b"none", point, b"tmpfs", 0, b"mode=0700") else _MOUNT_POINT


_PR_SET_PDEATHSIG = 1


def _end_with_the_caller() -> None:
    """However the caller ends: a signal may end it before it knows this process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _main(asked: Mapping[str, Any]) -> None:
    """Compiles what was asked for, prints the image and ends."""
    _end_with_the_caller()
    # the agent's priority is higher, and inherited
    os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
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
    os._exit(0)  # an orderly end of the compiler would take 50 ms


if __name__ == "__main__":
    _main(globals()["asked"])
