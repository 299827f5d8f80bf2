"""The programs beside the pinned one: the floor and the reference; and what a program weighs."""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xdpecmp import libbpf
from xdpecmp.abi import BPF_DIR
from xdpecmp.instance import BPFFS, Instance
from xdpecmp.program import Variant, compiler_flags, new_generation, pin_name

SOURCE = Path(__file__).parent / "reference.c"
XDPECMP, REFERENCE, FLOOR = "xdpecmp", "reference", "floor_tx"


def _bcc() -> Any:
    """bcc, told to do without kernel headers (see program.py)."""
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR / "uapi")
    import bcc

    return bcc


class Helpers:
    """The compiled reference.c."""

    def __init__(self) -> None:
        bcc = _bcc()
        self._bpf = bcc.BPF(src_file=str(SOURCE))
        names = (REFERENCE, FLOOR, "clang_version")
        self._functions = {name: self._bpf.load_func(name, bcc.BPF.XDP) for name in names}

    def fd(self, name: str) -> int:
        return int(self._functions[name].fd)

    def transmit(self, ifindex: int) -> None:
        """Let the reference send on that device of the current namespace."""
        table = self._bpf["transmit"]
        table[table.Key(ifindex)] = table.Leaf(ifindex)

    def clang_version(self) -> str:
        number = libbpf.run_program(self.fd("clang_version"), bytes(64)).verdict
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"

    @staticmethod
    def bcc_version() -> str:
        return str(_bcc().__version__)


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


def build_seconds(source: Path = BPF_DIR / "xdpecmp.c") -> tuple[float, float]:
    """Seconds that compiling (with making the maps) and loading the XDP program take."""
    bcc = _bcc()
    directory = BPFFS / f"xdpecmp-bench-{os.getpid()}"
    directory.mkdir()
    try:
        flags = compiler_flags(directory, new_generation(), Variant.MAIN)
        begin = time.perf_counter()
        bpf = bcc.BPF(src_file=str(source), cflags=flags)
        compiled = time.perf_counter()
        bpf.load_func(XDPECMP, bcc.BPF.XDP)
        loaded = time.perf_counter()
        bpf.cleanup()
    finally:
        shutil.rmtree(directory)
    return compiled - begin, loaded - compiled
