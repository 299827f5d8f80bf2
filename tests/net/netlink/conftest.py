"""A router in a namespace of its own, its peers in another, and the router's `Kernel`.

The tests here ask `ip` to set something up and `Kernel` what is there, and the other way round.
Waiting is by poll with a deadline. They need root.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.netns import Namespace, veth
from xdpecmp.netlink import Kernel


@pytest.fixture
def peer() -> Iterator[Namespace]:
    """The namespace at the other end of the router's devices: peer0 (10.0.0.2, fd00::2), peer1."""
    with Namespace("peer") as made:
        yield made


@pytest.fixture
def router(peer: Namespace) -> Iterator[Namespace]:
    """A namespace with eth0 (10.0.0.1/24, fd00::1/64) and eth1 (10.0.1.1/24, fd01::1/64)."""
    with Namespace("router") as router:
        for i in (0, 1):
            veth(router, f"eth{i}", peer, f"peer{i}")
            router.ip(f"addr add 10.0.{i}.1/24 dev eth{i}")
            router.ip(f"addr add fd0{i}::1/64 dev eth{i}")
            peer.ip(f"addr add 10.0.{i}.2/24 dev peer{i}")
            peer.ip(f"addr add fd0{i}::2/64 dev peer{i}")
        yield router


@pytest.fixture
def kernel(router: Namespace) -> Iterator[Kernel]:
    """The router's kernel, used from outside its namespace like any other."""
    with router.enter():
        made = Kernel()
    with made:
        yield made
