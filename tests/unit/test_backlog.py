"""How far the data path is behind, and when everything passes to Linux for it."""

from __future__ import annotations

import select

import pytest

from xdpecmp.agent.backlog import BEHIND_SECONDS, LOOK_SECONDS, Backlog


class Clock:
    """Time as told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A backlog, its clock, whether events wait, and what it had done."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.waits = False
        self.lag: float | None = None
        self.backlog = Backlog(self._fall_behind, self._catch_up, self.clock)

    def _fall_behind(self, seconds: float) -> None:
        assert self.lag is None
        self.lag = seconds

    def _catch_up(self) -> None:
        assert self.lag is not None
        self.lag = None

    def passes(self, after: float = 0.0) -> bool:
        """Whether all passes to Linux, looked at every now and then for so long."""
        end = self.clock.now + after
        while True:
            self.backlog.look(lambda: self.waits)
            if self.clock.now >= end:
                return self.lag is not None
            self.clock.now = min(end, self.clock.now + LOOK_SECONDS)


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_waits(world: World) -> None:
    assert not world.passes(3600)


def test_events_that_nobody_reads(world: World) -> None:
    """As where one step of the loop takes long."""
    assert not world.passes()
    world.waits = True
    assert not world.passes(BEHIND_SECONDS - 0.001)
    assert world.passes(LOOK_SECONDS)
    assert world.lag is not None
    assert BEHIND_SECONDS < world.lag < 0.1
    world.waits = False
    assert not world.passes()


def test_events_that_were_read_and_are_not_followed(world: World) -> None:
    began = world.backlog.reading()
    assert world.passes(0.1)
    world.backlog.followed(began)
    assert not world.passes()


def test_a_steady_stream_that_is_followed_in_time(world: World) -> None:
    world.waits = True
    for _ in range(1000):
        began = world.backlog.reading()
        world.clock.now += BEHIND_SECONDS / 3
        assert not world.passes()
        world.backlog.followed(began)
        assert not world.passes()


def test_one_that_is_followed_too_late(world: World) -> None:
    """Passing does not end before what is followed is young enough."""
    world.waits = True
    for _ in range(10):
        began = world.backlog.reading()
        world.clock.now += 2 * BEHIND_SECONDS
        assert world.passes()
        world.backlog.followed(began)
        assert world.passes()
    began = world.backlog.reading()
    world.clock.now += BEHIND_SECONDS / 2
    world.backlog.followed(began)
    assert not world.passes()


def test_events_that_were_lost(world: World) -> None:
    """At once; what had been read before does not make up for it."""
    before = world.backlog.reading()
    world.clock.now += 0.001
    world.backlog.lose(world.clock.now)
    assert world.lag is not None
    world.backlog.followed(before)
    assert world.passes()
    world.backlog.followed(world.backlog.reading())
    assert not world.passes()


def test_the_watcher_sleeps_only_while_nothing_waits(world: World) -> None:
    backlog = world.backlog
    assert not backlog.sleep(), "nobody has looked"
    world.passes()
    assert backlog.sleep()
    backlog.woken(in_time=True)
    began = backlog.reading()
    assert not backlog.sleep()
    backlog.followed(began)
    world.waits = True
    world.passes()
    assert not backlog.sleep()
    backlog.lose()
    world.waits = False
    world.passes()
    assert not backlog.sleep()


def test_reading_wakes_it(world: World) -> None:
    """Also where the loop takes the event before the watcher sees it."""
    world.passes()
    assert world.backlog.sleep()
    assert not select.select([world.backlog], [], [], 0)[0]
    world.backlog.reading()
    assert select.select([world.backlog], [], [], 0)[0]
    world.backlog.woken(in_time=True)
    assert not select.select([world.backlog], [], [], 0)[0]


@pytest.mark.parametrize("in_time", [True, False])
def test_an_event_is_as_old_as_the_wait_unless_the_wait_just_ended(
    world: World, in_time: bool
) -> None:
    world.passes()
    assert world.backlog.sleep()
    world.clock.now += 1.0
    world.waits = True
    world.backlog.woken(in_time)
    assert world.passes() is not in_time
