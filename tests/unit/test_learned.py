"""When exceptions are looked for, and how long redirects count."""

from __future__ import annotations

from typing import cast

import pytest

from xdpecmp.errors import DumpInterrupted
from xdpecmp.model.values import InterfaceSettings, Settings
from xdpecmp.netlink import learned, wire

ONE, TWO = bytes(3) + b"\1", bytes(3) + b"\2"


class World:
    """A kernel with counters and exceptions, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: tuple[int, ...] = (0, 0, 0, 0)
        self.exceptions: set[bytes] = set()
        self.dumps = 0
        self.takes = 0.1
        self.fails = False
        self.now = 1000.0
        monkeypatch.setattr(learned, "read_errors", lambda: self.errors)
        monkeypatch.setattr(learned, "read_exceptions", self._dump)
        self.learned = learned.Learned(cast("wire.Socket", None), lambda: self.now)

    def read(self) -> frozenset[bytes]:
        return self.learned.add_to(Settings()).learned

    def _dump(self, _connection: object) -> set[bytes]:
        self.dumps += 1
        self.now += self.takes
        if self.fails:
            raise DumpInterrupted("", "")
        return self.exceptions


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_without_errors_nothing_is_dumped(world: World) -> None:
    world.exceptions = {ONE}
    assert not world.read()
    assert world.dumps == 0


@pytest.mark.parametrize("number", range(4))
def test_after_each_kind_of_error(world: World, number: int) -> None:
    assert not world.read()
    world.errors = tuple(int(i == number) for i in range(4))
    world.exceptions = {ONE}
    assert world.read() == {ONE}
    world.now += 11
    world.exceptions = {TWO}
    assert world.read() == {TWO}, "while there are some"
    world.now += 11
    world.exceptions = set()
    assert not world.read()
    dumps = world.dumps
    world.now += 11
    assert not world.read()
    assert world.dumps == dumps, "until there is another error"


def test_a_storm_of_errors_takes_a_hundredth_of_the_time(world: World) -> None:
    begin = world.now
    for number in range(1, 1000):
        world.errors = (number, 0, 0, 0)
        world.read()
        world.now += 0.1
    assert 0.5 < world.dumps * world.takes * 100 / (world.now - begin) <= 1.1


def test_an_interrupted_dump_is_made_up_for(world: World) -> None:
    world.errors, world.exceptions, world.fails = (1, 0, 0, 0), {ONE}, True
    assert not world.read()
    world.fails = False
    world.now += 11
    assert world.read() == {ONE}


def test_redirects_count_for_the_life_of_an_exception(world: World) -> None:
    def accepts(now: bool) -> bool:
        settings = Settings(interfaces={2: InterfaceSettings(learns_redirects4=now)})
        return world.learned.add_to(settings).interfaces[2].learns_redirects4

    assert not accepts(False)
    assert accepts(True)
    world.errors = (1, 0, 0, 0)
    assert accepts(False), "it may have come before"
    world.now += learned.LIFETIME_S - 1
    assert accepts(False)
    world.now += 2
    assert not accepts(False)
    assert not world.learned.add_to(Settings()).interfaces


def test_without_a_redirect_nothing_was_heeded(world: World) -> None:
    """As where forwarding was off for a moment, which has Linux accept them."""

    def accepts(now: bool) -> bool:
        settings = Settings(interfaces={2: InterfaceSettings(learns_redirects4=now)})
        return world.learned.add_to(settings).interfaces[2].learns_redirects4

    world.errors = (5, 1, 0, 0)
    assert [accepts(now) for now in (False, True, True, False)] == [False, True, True, False]
    assert [accepts(now) for now in (True, False)] == [True, False]


def test_of_what_came_before_the_worst_is_taken(world: World) -> None:
    world.errors = (1, 0, 0, 0)
    for accepting, expected in ((True, True), (False, True)):
        settings = Settings(interfaces={2: InterfaceSettings(learns_redirects4=accepting)})
        found = world.learned.add_to(settings).interfaces[2].learns_redirects4
        assert found == expected


def test_the_counters_of_this_namespace() -> None:
    assert len(learned.read_errors()) == 4
