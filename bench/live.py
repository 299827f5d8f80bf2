"""Test runs with live frames: packets that really travel (BPF_F_TEST_XDP_LIVE_FRAMES)."""

from __future__ import annotations

import ctypes
import os

from xdpecmp.errors import XdpecmpError

LIVE_FRAMES = 1 << 1
BATCH = 64


class _TestRunOpts(ctypes.Structure):
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


def send(program: int, size: int, count: int) -> int:
    """Run a generator `count` times, on frames of `size` bytes that it sends where it likes.

    Returns the nanoseconds that each took, and all that it set off: what receives a batch on this
    CPU comes in between. The kernel counts neither what it takes to begin and end nor the time that
    it gives others the CPU.
    """
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    frame = ctypes.create_string_buffer(size)
    options = _TestRunOpts(
        sz=ctypes.sizeof(_TestRunOpts),
        data_in=ctypes.addressof(frame),
        data_size_in=size,
        repeat=count,
        flags=LIVE_FRAMES,
        batch_size=BATCH,
    )
    if library.bpf_prog_test_run_opts(program, ctypes.byref(options)) < 0:
        errno = ctypes.get_errno()
        raise XdpecmpError(
            f"cannot send packets by test run: {os.strerror(errno)}", "it takes Linux 5.18"
        )
    return int(options.duration)
