"""The bpf(2) system call through libbpf.so.1, which bcc depends on anyway.

What bcc's Python lacks, or what must work without compiling: loading, pins, maps by file
descriptor, queries, test runs. Keys and values are bytes, laid out as the C structs (see `maps`).
Attaching is done by netlink, and not here.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOENT
from functools import cache
from pathlib import Path
from typing import Any

BPF_MAP_TYPE_PERCPU_ARRAY = 6  # include/uapi/linux/bpf.h, as all constants of that name here
BPF_F_MMAPABLE = 1 << 10
BATCH = 4096
"""Entries that one system call reads."""


@cache
def library() -> Any:
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    # otherwise libbpf writes to stderr what callers report too
    library.libbpf_set_print(None)
    return library


def check(result: int, what: str) -> int:
    """The result of a call. Raises OSError with `what` as its file name."""
    if result < 0:
        errno = ctypes.get_errno() or -result
        # OSError makes a PermissionError, FileNotFoundError ... of itself, by its number
        raise OSError(errno, os.strerror(errno), what)
    return result


def pin(fd: int, path: Path) -> None:
    """Pins a map or program at a path in bpffs."""
    check(library().bpf_obj_pin(fd, os.fsencode(path)), str(path))


def get_pinned(path: Path) -> int:
    """A new file descriptor for the map or program pinned at `path`; the caller closes it."""
    return check(library().bpf_obj_get(os.fsencode(path)), str(path))


# --- programs -----------------------------------------------------------------------------------


class _ProgInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info (include/uapi/linux/bpf.h)."""

    _fields_ = [("type", ctypes.c_uint32), ("id", ctypes.c_uint32), ("tag", ctypes.c_uint8 * 8)]


def prog_id(fd: int) -> int:
    """The kernel's id of a program, as `bpftool prog` and `ip link` show it."""
    info, length = _ProgInfo(), ctypes.c_uint32(ctypes.sizeof(_ProgInfo))
    check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length)), "prog")
    return int(info.id)


class Refused(OSError):
    """The verifier refused a program; `log` is its output."""

    def __init__(self, error: OSError, log: str) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.log = log


class _ProgLoadOpts(ctypes.Structure):
    """struct bpf_prog_load_opts (libbpf's bpf.h), as of 1.0."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("numbers", ctypes.c_uint32 * 7),  # prog_btf_fd .. attach_btf_obj_fd
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32 * 2),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32 * 2),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    ]


_BPF_PROG_TYPE_XDP, _BPF_PROG_TYPE_SYSCALL = 6, 31
_PROG_FLAGS = 1
"""Index of prog_flags among the numbers."""
_BPF_F_SLEEPABLE = 1 << 4
_LOG_SIZE = 1 << 20


def load_xdp(name: str, code: bytes) -> int:
    """Loads an XDP program and returns its descriptor; the caller closes it. Raises Refused."""
    return _load(name, code, _BPF_PROG_TYPE_XDP)


def load_syscall(name: str, code: bytes) -> int:
    """Loads a program that only `run_syscall` runs; otherwise as `load_xdp`."""
    return _load(name, code, _BPF_PROG_TYPE_SYSCALL, _BPF_F_SLEEPABLE)


def _load(name: str, code: bytes, kind: int, flags: int = 0) -> int:
    options = _ProgLoadOpts(sz=ctypes.sizeof(_ProgLoadOpts))
    options.numbers[_PROG_FLAGS] = flags
    what = f"program {name}"
    arguments = (
        ctypes.c_int(kind),
        name.encode(),
        b"GPL",
        code,
        ctypes.c_size_t(len(code) // 8),
        ctypes.byref(options),
    )
    try:
        return check(library().bpf_prog_load(*arguments), what)
    except OSError as error:  # again, to get the verifier's log
        log = ctypes.create_string_buffer(_LOG_SIZE)
        options.log_level, options.log_size = 1, len(log)
        options.log_buf = ctypes.addressof(log)
        fd = library().bpf_prog_load(*arguments)
        if fd >= 0:
            return int(fd)
        raise Refused(error, log.value.decode(errors="replace") or str(error)) from error


def program_by_id(number: int) -> int:
    """A new file descriptor for the program of that id; the caller closes it."""
    return check(library().bpf_prog_get_fd_by_id(ctypes.c_uint32(number)), f"program {number}")


class RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts (libbpf's bpf.h)."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class Context(ctypes.Structure):
    """struct xdp_md (include/uapi/linux/bpf.h)."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "data",
            "data_end",
            "data_meta",
            "ingress_ifindex",
            "rx_queue_index",
            "egress_ifindex",
        )
    ]


def run(fd: int, options: RunOptions) -> None:
    """BPF_PROG_TEST_RUN; the result is in `options` afterwards."""
    options.sz = ctypes.sizeof(RunOptions)
    check(library().bpf_prog_test_run_opts(fd, ctypes.byref(options)), "test run")


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """Result of BPF_PROG_TEST_RUN: verdict, frame afterwards, mean nanoseconds a run."""

    verdict: int
    frame: bytes
    nanoseconds: int


MIN_TEST_FRAME = 14
"""Bytes that the kernel asks for: an Ethernet header."""


_XDP_HEADROOM = 256
"""XDP_PACKET_HEADROOM: a program may make a frame longer by that."""


def run_syscall(fd: int, argument: ctypes.Array[ctypes.c_char]) -> int:
    """Runs a program of `load_syscall` on its argument, a buffer; returns what it returns."""
    options = RunOptions(ctx_in=ctypes.addressof(argument), ctx_size_in=len(argument))
    run(fd, options)
    return int(options.retval)


def run_program(fd: int, frame: bytes, ifindex: int = 0, repeat: int = 1) -> ProgramRun:
    """Runs an XDP program on a frame (at least MIN_TEST_FRAME bytes) as if it had come in on
    `ifindex`, a device of the caller's namespace. Between repeats the frame is not reset."""
    size = max(len(frame), 1)
    data_in = ctypes.create_string_buffer(frame, size)
    data_out = ctypes.create_string_buffer(size + _XDP_HEADROOM)
    context = Context(data_end=len(frame), ingress_ifindex=ifindex)
    options = RunOptions(
        data_in=ctypes.addressof(data_in),
        data_size_in=len(frame),
        data_out=ctypes.addressof(data_out),
        data_size_out=len(data_out),
        repeat=repeat,
    )
    if ifindex:
        options.ctx_in = ctypes.addressof(context)
        options.ctx_size_in = ctypes.sizeof(context)
    run(fd, options)
    return ProgramRun(options.retval, data_out.raw[: options.data_size_out], options.duration)


# --- maps ---------------------------------------------------------------------------------------


class _MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info (include/uapi/linux/bpf.h)."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in ("type", "id", "key_size", "value_size", "max_entries", "map_flags")
    ]


class _MapCreateOpts(ctypes.Structure):
    """struct bpf_map_create_opts (libbpf's bpf.h), as of 1.0."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 5),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    ]


def create_map(
    kind: int, name: str, key_size: int, value_size: int, max_entries: int, flags: int
) -> int:
    """A new map's descriptor; the caller closes it. `kind`: BPF_MAP_TYPE_*."""
    options = _MapCreateOpts(sz=ctypes.sizeof(_MapCreateOpts), map_flags=flags)
    return check(
        library().bpf_map_create(
            kind, name.encode(), key_size, value_size, max_entries, ctypes.byref(options)
        ),
        f"map {name}",
    )


def map_info(fd: int) -> Any:
    """type, id, key_size, value_size, max_entries and map_flags of a map."""
    info, length = _MapInfo(), ctypes.c_uint32(ctypes.sizeof(_MapInfo))
    check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length)), "map")
    return info


def map_lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """The value under `key`, `size` bytes of it (all CPUs' for a per-CPU map), None if absent."""
    value = ctypes.create_string_buffer(size)
    if library().bpf_map_lookup_elem(fd, key, value) < 0:
        return None
    return value.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Stores `value` under `key`, whether that exists or not."""
    check(library().bpf_map_update_elem(fd, key, value, ctypes.c_uint64(0)), "map update")


def map_delete(fd: int, key: bytes) -> None:
    """Deletes `key`; it may be absent."""
    result = library().bpf_map_delete_elem(fd, key)
    if result < 0 and ctypes.get_errno() != ENOENT:
        check(result, "map delete")


def map_next_key(fd: int, key: bytes | None, size: int) -> bytes | None:
    """The key after `key` in the map's order, the first one if it has no such key; None after the
    last one."""
    following = ctypes.create_string_buffer(size)
    if library().bpf_map_get_next_key(fd, key, following) < 0:
        return None
    return following.raw


def map_batches(fd: int) -> Iterator[tuple[bytes, bytes, int]]:
    """All entries of a hash or LPM map: keys concatenated, values concatenated, their number."""
    info = map_info(fd)
    keys = ctypes.create_string_buffer(info.key_size * BATCH)
    values = ctypes.create_string_buffer(info.value_size * BATCH)
    # hash maps use four bytes as the position, others a whole key
    position, following = (ctypes.create_string_buffer(max(info.key_size, 4)) for _ in range(2))
    start = None
    while True:
        count = ctypes.c_uint32(BATCH)
        result = library().bpf_map_lookup_batch(
            fd, start, following, keys, values, ctypes.byref(count), None
        )
        done = result < 0
        if done and ctypes.get_errno() != ENOENT:  # which means: this was the last batch
            check(result, "map lookup")
        yield (
            keys.raw[: count.value * info.key_size],
            values.raw[: count.value * info.value_size],
            count.value,
        )
        if done:
            return
        position.raw = following.raw
        start = position


def map_first(fd: int, count: int) -> bytes:
    """The values of the first `count` (at least one) entries of an array, concatenated. A per-CPU
    array gives all CPUs' values of an entry, then those of the next, each padded to eight bytes."""
    info = map_info(fd)
    size = info.value_size
    if info.type == BPF_MAP_TYPE_PERCPU_ARRAY:
        size = -(-size // 8) * 8 * possible_cpus()
    keys = ctypes.create_string_buffer(4 * count)
    values = ctypes.create_string_buffer(size * count)
    position, done = ctypes.c_uint32(), ctypes.c_uint32(count)
    result = library().bpf_map_lookup_batch(
        fd, None, ctypes.byref(position), keys, values, ctypes.byref(done), None
    )
    if result < 0 and ctypes.get_errno() != ENOENT:  # which means: there are no more
        check(result, "map lookup")
    return values.raw


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """Stores `count` keys and values, each concatenated."""
    done = ctypes.c_uint32(count)
    check(
        library().bpf_map_update_batch(fd, keys, values, ctypes.byref(done), None),
        "map update",
    )


@cache
def possible_cpus() -> int:
    """Number of values that a per-CPU map holds for each key."""
    return check(library().libbpf_num_possible_cpus(), "CPUs")


_MEMBARRIER_NUMBER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1
_LONGEST_PACKET_SECONDS = 0.2


def wait_for_readers() -> None:
    """Returns when every packet that was in flight at the call has been handled.

    membarrier(2)'s MEMBARRIER_CMD_GLOBAL is synchronize_rcu() for user space, and an XDP program
    runs in an RCU read-side section. If it is unavailable (nohz_full), this waits far longer than
    any packet takes.
    """
    number = _MEMBARRIER_NUMBER.get(os.uname().machine)
    if number is not None and ctypes.CDLL(None).syscall(number, _MEMBARRIER_CMD_GLOBAL, 0) == 0:
        return
    threading.Event().wait(_LONGEST_PACKET_SECONDS)
