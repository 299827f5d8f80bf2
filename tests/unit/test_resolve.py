"""Next hops that cannot be kept resolved cost themselves alone."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOBUFS, ENOSPC
from itertools import pairwise

import pytest

from xdpecmp.agent.resolve import (
    FIRST_RETRY_SECONDS,
    LAST_RETRY_SECONDS,
    MOST_COMPLAINTS,
    MOST_FAILURES,
    Resolver,
)
from xdpecmp.errors import KernelRefused, NoSuchInterface
from xdpecmp.model.values import Link, Neighbour, NextHop, Settings, Snapshot

STALE, FAILED = 0x04, 0x20


def hop(number: int) -> NextHop:
    return NextHop(bytes([10, 0, number >> 8, number & 0xFF]), 2)


class FakeKernel:
    """Refuses some."""

    def __init__(self, refuses: Callable[[bytes], Exception | None] = lambda _: None) -> None:
        self.refuses = refuses
        self.asked: list[bytes] = []

    def manage_neighbour(self, address: bytes, _ifindex: int) -> bool:
        self.asked.append(address)
        error = self.refuses(address)
        if error:
            raise error
        return True

    use_neighbour = manage_neighbour


class World:
    """A resolver with a clock of ours, and its kernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.now = 100.0
        self.recorded: list[NextHop] = []
        self.resolver = Resolver(self.record, lambda: self.now)
        self.neighbours: dict[tuple[bytes, int], Neighbour] = {}

    def record(self, nexthop: NextHop) -> None:
        self.recorded.append(nexthop)

    def keep(self, *gateways: NextHop) -> list[bytes]:
        """Whom the kernel was asked to manage."""
        self.kernel.asked.clear()
        snapshot = Snapshot(
            {2: Link(2, "eth0", bytes(6), 1500, True)}, self.neighbours, [], Settings()
        )
        self.resolver.keep(self.kernel, snapshot, gateways)  # type: ignore[arg-type]
        return list(self.kernel.asked)


def full(address: bytes) -> Exception:
    return KernelRefused(f"neighbour {address[3]}: No buffer space available", ENOBUFS)


def test_one_that_fails_does_not_stop_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    errors = {1: full(bytes(4)), 2: NoSuchInterface("#7"), 3: OSError(5, None), 4: TimeoutError()}
    world = World(FakeKernel(lambda address: errors.get(address[3])))
    hops = [hop(i) for i in range(1, 7)]
    assert world.keep(*hops) == [each.via for each in hops]
    assert len(caplog.records) == 4
    assert "None" not in caplog.text


def test_it_is_tried_later_and_later_and_complained_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(FakeKernel(full))
    tries = []
    for _ in range(400):
        tries += [world.now] if world.keep(hop(1)) else []
        world.now += FIRST_RETRY_SECONDS / 2
    pauses = [b - a for a, b in pairwise(tries)]
    assert pauses[:3] == [FIRST_RETRY_SECONDS, 2 * FIRST_RETRY_SECONDS, 4 * FIRST_RETRY_SECONDS]
    assert max(pauses) == pauses[-1] == LAST_RETRY_SECONDS
    assert len(caplog.records) == 1
    world.kernel.refuses = lambda _: None
    world.now += LAST_RETRY_SECONDS
    assert world.keep(hop(1))
    world.kernel.refuses = full
    assert world.keep(hop(1)), "once it worked the next failure is a new one"
    world.now += FIRST_RETRY_SECONDS
    assert world.keep(hop(1))


def test_thousands_that_fail_hold_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    world = World(FakeKernel(lambda address: None if address[3] == 200 else full(address)))
    hops = [hop(i) for i in range(1000)]
    assert len(world.keep(*hops)) == MOST_FAILURES
    asked: list[bytes] = []
    for _ in range(40):
        asked += world.keep(*hops)
    assert hop(200).via in asked
    assert len(caplog.records) == MOST_COMPLAINTS


def test_what_cannot_be_recorded_is_not_managed() -> None:
    """Else nobody could release it again."""
    world = World(FakeKernel())

    def refuse(_: NextHop) -> None:
        raise OSError(ENOSPC, "No space left on device", "/run/xdpecmp/1/managed")

    world.resolver = Resolver(refuse, lambda: world.now)
    assert not world.keep(hop(1))
    world.resolver._record_managed = world.record
    world.now += FIRST_RETRY_SECONDS
    assert world.keep(hop(1))
    assert world.recorded == [hop(1)]


def test_who_is_kept_by_others_is_left_alone() -> None:
    world = World(FakeKernel())
    for state, managed, asked in ((FAILED, False, 1), (FAILED, True, 0), (0x80, False, 0)):
        world.neighbours[hop(1)] = Neighbour(*hop(1), bytes(6), state, managed)
        assert len(world.keep(hop(1))) == asked
    assert not world.keep(NextHop(bytes(4), 3)), "its link is gone"


def test_use_is_reported_while_packets_go_there() -> None:
    world = World(FakeKernel())
    counts = {hop(1): 1, hop(2): 1}
    hosts = [Neighbour(*hop(i), bytes(6), STALE) for i in (1, 2, 3)]

    def report() -> list[bytes]:
        world.kernel.asked.clear()
        world.resolver.report_use(world.kernel, hosts, counts.get)  # type: ignore[arg-type]
        return list(world.kernel.asked)

    assert report() == []
    counts[hop(1)] += 1
    counts[hop(2)] += 1
    world.kernel.refuses = lambda address: full(address) if address == hop(1).via else None
    assert report() == [hop(1).via, hop(2).via], "one that fails does not stop the rest"
    assert report() == []
    world.resolver.forget({hop(1): None})
    assert world.resolver._forwarded.keys() == {hop(1)}
