"""Reads Linux's multipath hash key from the kernel's memory.

An XDP program, run by test run (bpf/key_read.c), reads what /proc/kallsyms names. That takes
CAP_PERFMON (or CAP_SYS_ADMIN), CONFIG_BPF_EVENTS, a kernel that is not locked down to
"confidentiality", and one whose kallsyms has variables too (CONFIG_KALLSYMS_ALL, as distributions
have it) and shows their addresses. Whatever is read is a candidate, to be confirmed by asking.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from errno import EACCES, EPERM
from pathlib import Path
from typing import NamedTuple

from ..errors import XdpecmpError
from . import libbpf
from .build import BuildFailed, Compilation, Variant, explained
from .image import Image

SEED_SYMBOL = "proc_fib_multipath_hash_rand_seed"
"""32 bits, the same in every namespace: since Linux 6.11 (net/ipv4/sysctl_net_ipv4.c)."""
KEY_SYMBOL = "hashrnd"
"""128 bits, made when Linux first hashes (net/core/flow_dissector.c); not the only one of that
name."""

_KALLSYMS = Path("/proc/kallsyms")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_RESTRICT = Path("/proc/sys/kernel/kptr_restrict")
_CHUNK = 1 << 18
_READING = struct.Struct("<QqQQ")
"""struct reading of bpf/key_read.c."""


class Unreadable(XdpecmpError):
    """The kernel's memory cannot be read; the message says why."""


class Symbol(NamedTuple):
    """A line of /proc/kallsyms."""

    name: str
    address: int


class Reader:
    """The program that reads. Compiling begins at once."""

    def __init__(self) -> None:
        self._compilation = Compilation(Variant.KEY_READ)

    def close(self) -> None:
        """End the compiler, if it still runs."""
        self._compilation.abandon()

    def read(self) -> list[tuple[str, bytes]]:
        """What stands at each symbol that may be the key: its name and 16 bytes. Raises
        Unreadable."""
        if is_locked_down():
            raise Unreadable("kernel lockdown (confidentiality) forbids reading kernel memory")
        symbols = find((SEED_SYMBOL, KEY_SYMBOL))
        try:
            program = self._compilation.load_by(_load)
        except BuildFailed as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (EPERM, EACCES):
                raise Unreadable("this process may not read kernel memory (CAP_PERFMON)") from error
            if isinstance(cause, libbpf.Refused):  # an unknown function
                raise Unreadable(
                    "this kernel lets no BPF program read its memory (CONFIG_BPF_EVENTS)"
                ) from error
            raise Unreadable(f"no program to read kernel memory: {error.message}") from error
        try:
            return [(name, got) for name, at in symbols if (got := _peek(program, at)) is not None]
        finally:
            os.close(program)


def _load(made: Image) -> int:
    (name,) = made.functions
    with explained():
        return libbpf.load_xdp(name, made.code(name, []))


def _peek(program: int, address: int) -> bytes | None:
    """16 bytes at that address; None where nothing is mapped there."""
    frame = libbpf.run_program(program, _READING.pack(address, -1, 0, 0)).frame
    _, error, *halves = _READING.unpack_from(frame)
    return None if error else struct.pack("<QQ", *halves)


def is_locked_down() -> bool:
    """Whether the kernel keeps its memory to itself (security/lockdown); "integrity", which Secure
    Boot sets, does not."""
    try:
        return "[confidentiality]" in _LOCKDOWN.read_text()
    except OSError:  # a kernel without lockdown
        return False


def find(names: Iterable[str], path: Path = _KALLSYMS) -> list[Symbol]:
    """The symbols of these names, with addresses. Raises Unreadable where there are none."""
    names = list(names)
    try:
        found = list(_symbols(names, path))
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from error
    if not found:
        raise Unreadable(
            f"{path} knows neither {' nor '.join(names)}: a kernel without CONFIG_KALLSYMS_ALL"
        )
    shown = [symbol for symbol in found if symbol.address]
    if not shown:
        raise Unreadable(f"{path} shows no addresses: {_why_hidden()}")
    return shown


def _symbols(names: list[str], path: Path) -> Iterator[Symbol]:
    wanted = {name.encode() for name in names}
    rest = b""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            chunk = rest + chunk
            whole = chunk.rfind(b"\n") + 1
            rest = chunk[whole:]
            if any(name in chunk for name in wanted):
                for line in chunk[:whole].splitlines():
                    address, _, name, *_ = line.split()
                    if name in wanted:
                        yield Symbol(name.decode(), int(address, 16))


def _why_hidden() -> str:
    try:
        if int(_RESTRICT.read_text()) >= 2:
            return "sysctl kernel.kptr_restrict=2"
    except (OSError, ValueError):
        pass
    return "this process may not see them (CAP_SYSLOG), as in a container"
