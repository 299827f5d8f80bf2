"""Real packets in a namespace apart: this kernel hashes as we compute, and another one is seen."""

from __future__ import annotations

import os
import random

import pytest

from tests.capabilities import Since, require, since
from xdpecmp import hashing
from xdpecmp.model.flow import Flow
from xdpecmp.model.hashkey import HashKey
from xdpecmp.netlink.namespace import fresh
from xdpecmp.observe import scratch
from xdpecmp.observe.explain import HashSettings

pytestmark = pytest.mark.root

KEY = HashKey.of_seed(7)


@pytest.fixture(autouse=True)
def tun() -> None:
    require(os.path.exists("/dev/net/tun"), "tun devices: modprobe tun")


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


@since(Since.HASH_SEED)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("policy", [0, 1, 2, 3])
def test_this_kernel(family: int, policy: int) -> None:
    before = here()
    for weights in ((1, 2, 5), (256, 1), (), (1,), (70_000, 1)):
        trial = scratch.try_packets(family, HashSettings(policy, 0x37, KEY), weights)
        assert trial == (64, 64)
    assert here() == before


@since(Since.HASH_SEED)
@pytest.mark.parametrize("family", [4, 6])
def test_another_hash(family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = hashing.select
    monkeypatch.setattr(hashing, "select", lambda b, n: (right(b, n) + 1) % len(b))
    assert scratch.try_packets(family, HashSettings(1, 7, KEY), (1, 1)) == (64, 0)


def test_what_cannot_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    before = here()
    monkeypatch.setattr(scratch, "_TUNSETIFF", 0)
    assert scratch.try_packets(4, HashSettings(1, 7, KEY), (1, 1)) is None
    assert here() == before


def test_packets_that_get_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_SECONDS", 0.05)
    monkeypatch.setattr(scratch, "_random_flow", _to_nowhere)
    assert scratch.try_packets(4, HashSettings(1, 7, KEY), (1, 1)) is None


def _to_nowhere(_rng: random.Random, _prefix: object) -> Flow:
    return Flow(bytes([32, 0, 0, 1]), bytes([203, 0, 113, 1]))


def test_a_fresh_namespace_is_left_whatever_happens() -> None:
    before = here()
    with fresh():
        there = here()
    assert there != before == here()
    with pytest.raises(ZeroDivisionError), fresh():
        raise ZeroDivisionError
    assert here() == before
