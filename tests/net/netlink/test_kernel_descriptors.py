"""What a forked process needs to go on with a kernel."""

from __future__ import annotations

import os

import pytest

from testbed.netns import Namespace
from xdpecmp.netlink import Kernel

pytestmark = pytest.mark.root


def open_files() -> set[int]:
    """The listing's own is closed by now."""
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/dev/fd/{fd}")}


def test_it_names_all_that_it_keeps_open(router: Namespace) -> None:
    before = open_files()
    with router.enter():
        kernel = Kernel()
    with kernel:
        kernel.snapshot()
        kernel.glance(("eth0", "eth1"))
        kernel.peek()
        assert kernel.descriptors() == open_files() - before
    assert open_files() == before
