"""Test runs with live frames: packets that really travel (BPF_F_TEST_XDP_LIVE_FRAMES)."""

from __future__ import annotations

import ctypes

from xdpecmp.errors import XdpecmpError
from xdpecmp.program import libbpf

LIVE_FRAMES = 1 << 1
BATCH = 64


def send(program: int, size: int, count: int) -> int:
    """Run a generator `count` times, on frames of `size` bytes that it sends where it likes.

    Returns the nanoseconds that each took, and all that it set off: what receives a batch on this
    CPU comes in between. The kernel counts neither what it takes to begin and end nor the time that
    it gives others the CPU.
    """
    frame = ctypes.create_string_buffer(size)
    options = libbpf.RunOptions(
        data_in=ctypes.addressof(frame),
        data_size_in=size,
        repeat=count,
        flags=LIVE_FRAMES,
        batch_size=BATCH,
    )
    try:
        libbpf.run(program, options)
    except OSError as error:
        raise XdpecmpError(
            f"cannot send packets by test run: {error.strerror}", "it takes Linux 5.18"
        ) from error
    return int(options.duration)
