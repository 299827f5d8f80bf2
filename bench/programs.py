"""The programs beside the pinned one, compiled with bcc; and what a program weighs."""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xdpecmp.instance.instance import BPFFS, Instance
from xdpecmp.program import libbpf
from xdpecmp.program.abi import BPF_DIR, CAPACITY
from xdpecmp.program.build import Variant, load, new_generation, pin_name
from xdpecmp.program.compiler import compile_image

from .router import SEED

FOLDER = Path(__file__).parent
XDPECMP, REFERENCE, FLOOR = "xdpecmp", "reference", "floor_tx"
CHECKS, BARE_REDIRECT, MINIMUM, LOOK_UP = "checks", "bare_redirect", "minimum", "look_up"


def _bcc() -> Any:
    """bcc, told to do without kernel headers (see xdpecmp/program/compiler.py)."""
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR / "uapi")
    import bcc

    return bcc


class Compiled:
    """A C file of this folder, compiled, with some of its functions loaded."""

    def __init__(self, source: str, functions: Sequence[str], **defines: int) -> None:
        bcc = _bcc()
        flags = [f"-I{BPF_DIR}", *(f"-D{name}={value:#x}" for name, value in defines.items())]
        self._bpf = bcc.BPF(src_file=str(FOLDER / source), cflags=flags)
        self._functions = {name: self._bpf.load_func(name, bcc.BPF.XDP) for name in functions}

    def fd(self, function: str) -> int:
        return int(self._functions[function].fd)

    def map_fd(self, name: str) -> int:
        return int(self._bpf[name].map_fd)

    def store(self, table: str, key: int, value: int) -> None:
        """An entry of a map from 32-bit numbers to such: a device, a program."""
        pair = (number.to_bytes(4, "little") for number in (key, value))
        libbpf.map_update(self.map_fd(table), *pair)


def reference(egresses: Sequence[int]) -> Compiled:
    """The reference and the floor. `egresses`: devices of the current namespace it may send on."""
    compiled = Compiled("reference.c", (REFERENCE, FLOOR, "clang_version"))
    for ifindex in egresses:
        compiled.store("transmit", ifindex, ifindex)
    return compiled


def minimum(egresses: Sequence[int]) -> Compiled:
    """Parts of the work by themselves. `egresses`: two devices of the current namespace."""
    programs = CHECKS, BARE_REDIRECT, MINIMUM, LOOK_UP
    compiled = Compiled("minimum.c", programs, SEED=SEED, **CAPACITY)
    for i, ifindex in enumerate(egresses):
        compiled.store("paths", i, ifindex)
    return compiled


def versions(compiled: Compiled) -> dict[str, str]:
    """bcc's version, and clang's: asked of reference.c."""
    number = libbpf.run_program(compiled.fd("clang_version"), bytes(64)).verdict
    clang = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return {"bcc": str(_bcc().__version__), "clang": clang}


# --- what a program weighs -----------------------------------------------------------------------


class _ProgInfo(ctypes.Structure):
    """struct bpf_prog_info (include/uapi/linux/bpf.h), up to verified_insns."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("between", ctypes.c_uint8 * 192),  # jited_prog_insns .. recursion_misses
        ("verified_insns", ctypes.c_uint32),
        ("attach_btf", ctypes.c_uint32 * 2),
    ]


@dataclass(frozen=True)
class Weight:
    """How large a loaded program is."""

    instructions: int
    """of BPF, as the verifier left them"""
    jited_bytes: int
    verified: int
    """instructions that the verifier walked through, all paths together"""


def weight(fd: int) -> Weight:
    """Asks the kernel about a loaded program."""
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    info, length = _ProgInfo(), ctypes.c_uint32(ctypes.sizeof(_ProgInfo))
    if library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), "bpf_obj_get_info_by_fd")
    return Weight(info.xlated_prog_len // 8, info.jited_prog_len, info.verified_insns)


def called_program(instance: Instance) -> int:
    """File descriptor of the program that xdpecmp calls for the policies that take a walk."""
    pin = instance.directory / pin_name("programs", instance.generation())
    table = libbpf.get_pinned(pin)
    try:
        number = libbpf.map_lookup(table, bytes(4), 4)
    finally:
        os.close(table)
    assert number is not None, f"{pin} is empty"
    return libbpf.program_by_id(int.from_bytes(number, "little"))


def build_seconds(source: Path | None = None) -> tuple[float, float]:
    """Seconds that compiling, where nothing is in the cache, and loading the XDP program take."""
    _bcc()  # importing it is not what is measured
    directory = BPFFS / f"xdpecmp-bench-{os.getpid()}"
    directory.mkdir()
    try:
        begin = time.perf_counter()
        image = compile_image(Variant.MAIN.value, source)
        compiled = time.perf_counter()
        load(image, directory, new_generation(), Variant.MAIN)
        loaded = time.perf_counter()
    finally:
        shutil.rmtree(directory)
    return compiled - begin, loaded - compiled
