"""What a test needs of the machine and of its kernel.

What the machine lacks and could have is a reason to skip, saying how to force it:
XDPECMP_FORCE_ROOT_TESTS=1, as in CI, turns it into an error, so there nothing is skipped unnoticed.
What a kernel lacks nobody can force: the test is skipped, saying which kernel has it, and
`make test-vm KERNEL=…` runs it under that one.
"""

from __future__ import annotations

import os
import platform
import re
from enum import Enum

import pytest

from testbed.waiting import STOCK_KERNEL

FORCE = "XDPECMP_FORCE_ROOT_TESTS"


class Since(Enum):
    """What Linux has learned since 6.1, the oldest that the tests run on: the only list."""

    USO = "UDP segments (USO) of tap devices and in virtio_net_hdr", (6, 2)
    XDP_FEATURES = "netlink's word on which devices take redirected frames", (6, 3)
    BPF_NETFILTER = "BPF programs on netfilter's hooks", (6, 4)
    TCX = "tcx programs", (6, 6)
    LARGE_METADATA = "more than 32 bytes of metadata in a test run", (6, 12)
    HSR = "hsr devices in Debian's kernels", (6, 12)
    HASH_SEED = "net.ipv4.fib_multipath_hash_seed", (6, 11)
    WIDE_WEIGHTS = "nexthop weights of 16 bits", (6, 12)
    GETROUTE_FLOWLABEL = "RTM_GETROUTE's flow label", (6, 14)
    FORCE_FORWARDING = "net.ipv6.conf.*.force_forwarding", (6, 17)


def kernel_has(feature: Since) -> bool:
    """Whether the running kernel is young enough."""
    major, minor = re.findall(r"\d+", platform.release())[:2]
    return (int(major), int(minor)) >= feature.value[1]


def _absent(feature: Since) -> str:
    what, (major, minor) = feature.value
    return f"this kernel, {platform.release()}, is older than {what} (Linux {major}.{minor})"


def require_kernel(feature: Since) -> None:
    """Skip the running test under a kernel that is too old for it."""
    if not kernel_has(feature):
        pytest.skip(_absent(feature))


def since(feature: Since) -> pytest.MarkDecorator:
    """The same as a decorator."""
    return pytest.mark.skipif(not kernel_has(feature), reason=_absent(feature))


NATIVE = pytest.param("native", marks=since(Since.XDP_FEATURES))
"""The mode, for tests in which a veth is to take redirected frames: see
tests/vm/test_unknown_features.py."""


def require(capable: bool, what: str) -> None:
    """Skip the running test, or fail it where forced, unless `capable`; `what` names the need."""
    if capable:
        return
    if os.environ.get(FORCE) == "1":
        pytest.fail(f"needs {what}, and {FORCE}=1 forbids to skip", pytrace=False)
    pytest.skip(f"needs {what} ({FORCE}=1: fail, don't skip)")


def require_host(what: str) -> None:
    """Skip in the virtual machine of `make test-vm`, which is cut off from it."""
    if STOCK_KERNEL:
        pytest.skip(f"needs {what}, which the virtual machine does not reach")


def require_stock_kernel(capable: bool, what: str) -> None:
    """The same for what the distributions' kernels have and this one may not: forced in their
    virtual machine alone."""
    if capable:
        return
    if STOCK_KERNEL:
        pytest.fail(f"needs {what}, which a stock kernel has", pytrace=False)
    pytest.skip(f"needs {what}, which this kernel does not have: make test-vm")
