"""When the data path gets and loses its lease."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from tests.unit.test_backlog import Clock
from xdpecmp.agent import lease as module
from xdpecmp.agent.backlog import Backlog
from xdpecmp.agent.lease import Lease


class Deadlines:
    """A lease that is kept in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.stored: list[int] = []
        self.pause = 0.0
        """How long the process does not run once it has looked at the clock."""
        self.behind = False
        self.renewed = threading.Event()

    def lease_deadline(self) -> int:
        now = self._clock()
        self._clock.now += self.pause
        return int(now * 100)

    def set_lease(self, deadline: int) -> None:
        self.stored.append(deadline)
        self.renewed.set()

    def fall_behind(self, _seconds: float) -> None:
        self.behind = True

    def catch_up(self) -> None:
        self.behind = False


class World:
    """A lease with a clock as told, and its backlog."""

    def __init__(self, events: int) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.backlog = Backlog(self.deadlines.fall_behind, self.deadlines.catch_up, self.clock)
        self.lease = Lease(self.deadlines, self.backlog, events, self.clock)

    def renews(self) -> bool:
        """Whether the lease is renewed, now that it is due."""
        self.deadlines.stored.clear()
        self.clock.now += module.RENEW_SECONDS
        self.lease.turn()
        return bool(self.deadlines.stored)


@pytest.fixture
def events() -> Iterator[tuple[int, int]]:
    """A descriptor that is readable once something is written to the other one."""
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def world(events: tuple[int, int]) -> World:
    return World(events[0])


def test_it_is_renewed_while_the_loop_gets_on(world: World) -> None:
    lease, clock = world.lease, world.clock
    assert not world.renews(), "not granted yet"
    lease.grant()
    for _ in range(int(module.STUCK_SECONDS) - 1):
        assert world.renews(), "a long dump is no reason"
    lease.progress()
    for _ in range(int(module.STUCK_SECONDS) - 1):
        assert world.renews(), "it got on"
    assert not world.renews(), "stuck"
    lease.progress()
    assert world.renews()
    lease.withhold()
    lease.progress()
    assert not world.renews(), "a mirror that may be wrong gets none"
    lease.grant()
    assert world.renews()
    clock.now += module.RENEW_SECONDS / 2
    world.deadlines.stored.clear()
    lease.turn()
    assert not world.deadlines.stored, "not due"


def test_after_a_pause_all_is_followed_first(world: World) -> None:
    lease, backlog = world.lease, world.backlog
    lease.grant()
    assert world.renews()
    before = backlog.reading()
    world.clock.now += module.PAUSE_SECONDS
    assert not world.renews()
    assert world.deadlines.behind
    backlog.followed(before)
    lease.grant()  # the loop was in the middle of something, as before the pause
    assert not world.renews()
    assert world.deadlines.behind
    assert lease.interrupted
    lease.resume()
    began = backlog.reading()
    assert not world.renews()
    backlog.followed(began)
    lease.grant()
    assert world.renews()
    assert not world.deadlines.behind


def test_a_pause_is_not_added_to_the_lease(world: World) -> None:
    """Wherever it comes between looking at the clock and storing the deadline."""
    world.lease.grant()
    begin = world.clock.now + module.RENEW_SECONDS
    world.deadlines.pause = 1.5
    assert world.renews()
    assert world.deadlines.stored == [int(begin * 100)]


def test_what_waits_while_the_loop_is_busy_passes_to_linux(
    world: World, events: tuple[int, int]
) -> None:
    """The loop says nothing at all; its lease goes on."""
    world.lease.grant()
    assert world.renews()
    os.write(events[1], b"1")
    assert world.renews()
    assert world.deadlines.behind


def test_a_thread_does_it(monkeypatch: pytest.MonkeyPatch, events: tuple[int, int]) -> None:
    """From `with` to its end, and again."""
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.0005)
    world = World(events[0])
    lease = Lease(world.deadlines, Backlog(lambda _: None, lambda: None), events[0])
    lease.grant()
    for _ in range(2):
        before = threading.active_count()
        with lease:
            world.deadlines.renewed.clear()
            assert world.deadlines.renewed.wait(10)
        assert threading.active_count() == before


def test_the_thread_watches_while_the_loop_is_busy(events: tuple[int, int]) -> None:
    """Woken from its sleep by the event."""
    fallen, caught_up = threading.Event(), threading.Event()
    backlog = Backlog(lambda _: fallen.set(), caught_up.set)
    world = World(events[0])
    lease = Lease(world.deadlines, backlog, events[0])
    lease.grant()
    with lease:
        assert world.deadlines.renewed.wait(10)
        os.write(events[1], b"1")
        assert fallen.wait(10)
        assert not caught_up.is_set()
        began = backlog.reading()
        os.read(events[0], 1)
        backlog.followed(began)
        assert caught_up.wait(10)


def test_one_failure_does_not_end_the_lease(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, events: tuple[int, int]
) -> None:
    """Renewing is a system call, which may fail once."""
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.001)
    tries: list[int] = []
    often = threading.Event()

    class Failing(Deadlines):
        def set_lease(self, deadline: int) -> None:
            tries.append(deadline)
            if len(tries) == 1:
                raise OSError(12, "no memory")
            often.set()

    backlog = Backlog(lambda _: None, lambda: None)
    with Lease(Failing(Clock()), backlog, events[0]) as lease:
        lease.grant()
        assert often.wait(30)
    assert "cannot renew the lease" in caplog.text
