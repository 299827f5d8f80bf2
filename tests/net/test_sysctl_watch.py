"""Sysctls that change without an event are seen at a glance."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from testbed.waiting import wait_until
from tests.capabilities import Since, require_kernel
from tests.net.small import Small
from tests.net.topology import DEADLINE
from xdpecmp.agent import loop as agent_module
from xdpecmp.netlink import Kernel
from xdpecmp.netlink.sysctl import _DECISIVE, _FILES_AT_ONCE, _WATCHED, _WATCHED_INTERFACE

pytestmark = pytest.mark.root

INTERFACES = ("in0", "in1")


@pytest.fixture(scope="module")
def router() -> Iterator[Small]:
    with Small() as made:
        yield made


@pytest.fixture
def kernel(router: Small) -> Iterator[Kernel]:
    """Of the router's namespace, used from outside of it, as anybody may."""
    with router.ns.enter():
        made = Kernel()
    with made:
        made.filters(made.links().values())
        assert made.glance(INTERFACES), "nobody has looked"
        assert not made.glance(INTERFACES)
        yield made


@pytest.mark.parametrize(
    "path",
    [
        *_DECISIVE,
        *_WATCHED,
        "ipv4/conf/in0/send_redirects",
        "ipv4/conf/in1/send_redirects",
        "ipv4/conf/in0/accept_redirects",
        "ipv6/conf/in0/accept_redirects",
    ],
)
def test_a_change_is_seen_once(router: Small, kernel: Kernel, path: str) -> None:
    if path.endswith("_seed"):
        require_kernel(Since.HASH_SEED)
    key = f"net.{path}".replace("/", ".")
    before = router.ns.sysctl(key)
    router.ns.sysctl(key, 1 if before.strip() != "1" else 0)
    assert _seen(kernel) == ({"peek"} if path in _DECISIVE else {"glance"})
    assert not _seen(kernel)
    router.ns.sysctl(key, before)
    assert _seen(kernel)


def _seen(kernel: Kernel) -> set[str]:
    looks = {"peek": kernel.peek(), "glance": kernel.glance(INTERFACES)}
    return {look for look, changed in looks.items() if changed}


def test_other_namespaces_do_not_count(kernel: Kernel) -> None:
    with Small() as other:
        other.ns.sysctl("net.ipv4.fib_multipath_hash_policy", 1)
        other.ns.sysctl("net.ipv4.conf.in0.send_redirects", 0)
        assert not _seen(kernel)


def test_an_interface_goes_and_comes(router: Small, kernel: Kernel) -> None:
    names = (*INTERFACES, "new")
    router.ns.ip("link add new type veth peer name peer")
    kernel.glance(names)
    router.ns.ip("link del new")
    assert kernel.glance(names)
    kernel.glance(names)
    assert not kernel.glance(names)
    router.ns.ip("link add new type veth peer name peer")
    kernel.glance(INTERFACES)
    kernel.glance(names)
    router.ns.sysctl("net.ipv4.conf.new.send_redirects", 0)
    assert kernel.glance(names)
    router.ns.ip("link del new")


def test_of_many_interfaces_some_are_read_each_time(router: Small, kernel: Kernel) -> None:
    names = [f"m{i}" for i in range(20)]
    try:
        for name in names:
            router.ns.ip(f"link add {name} type veth peer name {name}p")
        kernel.glance(tuple(names))
        rounds = -(-len(_WATCHED_INTERFACE) * len(names) // _FILES_AT_ONCE)
        assert rounds > 1
        assert not any(kernel.glance(tuple(names)) for _ in range(rounds))
        router.ns.sysctl("net.ipv4.conf.m19.send_redirects", 0)
        assert any(kernel.glance(tuple(names)) for _ in range(rounds))
    finally:
        for name in names:
            router.ns.ip(f"link del {name}")


def test_no_file_is_left_open(router: Small) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with router.ns.enter():
        made = Kernel()
    with made:
        for _ in range(3):
            made.glance(INTERFACES)
            made.glance(INTERFACES[:1])
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_agent_looks_often(router: Small) -> None:
    """More often than it reads everything, which it does too."""
    assert agent_module.PEEK_SECONDS <= 0.1 < agent_module.TICK_SECONDS
    router.run("attach", "in0")
    for policy in (1, 0):
        router.ns.sysctl("net.ipv4.fib_multipath_hash_policy", policy)
        wait_until(lambda p=policy: router.status()["policy4"] == p, "policy", DEADLINE)
    router.detach()
