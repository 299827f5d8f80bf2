"""How long to wait on this machine: polling with a deadline, and more of it under emulation."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable

STOCK_KERNEL = os.environ.get("XDPECMP_STOCK_KERNEL", "")
"""In the virtual machine of `make test-vm`: what runs it, "kvm" or "tcg". Empty elsewhere."""


def _is_emulated() -> bool:
    """Whether QEMU emulates this machine's processor, as on a host without KVM."""
    if not shutil.which("systemd-detect-virt"):
        return False
    done = subprocess.run(
        ["systemd-detect-virt", "--vm"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "qemu"


PATIENCE = 12 if STOCK_KERNEL == "tcg" or _is_emulated() else 1
"""How many times as long as usual to wait for anything that needs the processor."""


def wait_until(condition: Callable[..., bool], what: str, deadline: float = 5.0) -> None:
    """Poll a condition every 5 ms until it holds. It is called without arguments: those that a
    lambda in a loop has are defaults, which bind the loop's variables.

    Raises AssertionError, which names `what`, after `deadline` seconds times PATIENCE.
    """
    deadline *= PATIENCE
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.005)
