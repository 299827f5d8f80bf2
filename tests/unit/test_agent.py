"""When the agent reads everything again, and when it says that all is followed."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Collection

import pytest

from xdpecmp.agent.loop import EVERYTHING, Agent, Reconciliation, _is_whole
from xdpecmp.errors import DumpInterrupted, MalformedMessage, XdpecmpError
from xdpecmp.model.values import Prefix, Route, RouteKind, RouteUpdate
from xdpecmp.netlink import ANYWHERE, Changes

QUIET, LATEST, SHARE = (
    Reconciliation.QUIET_SECONDS,
    Reconciliation.LATEST_SECONDS,
    Reconciliation.SHARE,
)


def after_a_pass(took: float, end: float = 100.0) -> Reconciliation:
    made = Reconciliation()
    made.done(end - took, end)
    return made


def test_once_it_is_quiet() -> None:
    due = after_a_pass(took=0.001)
    assert due.due > 1e9
    for now in (101.0, 101.01, 101.02):
        due.want(now)
    assert due.due == 101.02 + QUIET
    due.done(101.1, 101.101)
    assert due.due > 1e9


def test_even_where_it_never_gets_quiet() -> None:
    due = after_a_pass(took=0.001)
    for step in range(200):
        due.want(101 + step / 100)
    assert due.due == 101 + LATEST


def test_never_more_than_a_part_of_the_time() -> None:
    due = after_a_pass(took=3.0)
    for step in range(3000):
        due.want(101 + step / 100)
    assert due.due == 100 + 3.0 * SHARE


def test_a_doubt_is_not_put_off_for_long() -> None:
    for took, now, wanted in ((0.001, 101.0, 101.0), (3.0, 101.0, 103.0), (3.0, 110.0, 110.0)):
        due = after_a_pass(took)
        due.want(now)
        due.need(now)
        assert due.due == wanted
        due.want(now + 0.001)
        assert due.due == wanted, "what comes then does not put it off"


def update(last: int, gone: bool = False) -> RouteUpdate:
    return RouteUpdate(Route(Prefix(bytes([10, 0, 0, last]), 32), 254, 0, RouteKind.SPECIAL), gone)


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        (Changes(updates=(update(1), update(2))), True),
        (Changes(updates=(update(1), update(2, gone=True))), False),
        (Changes(updates=(update(1, gone=True), update(1))), True),
        (Changes(updates=(update(1), update(1, gone=True))), False),
        (Changes(updates=(update(1),), neighbours=True), False),
        (Changes(links=True), False),
    ],
)
def test_what_is_gone_may_be_coming_back(changes: Changes, whole: bool) -> None:
    """So it is waited for, and everything else that comes in several parts."""
    assert _is_whole(changes) is whole


class Garbled:
    """A monitor, or a poll, of which the former hears what it doesn't understand."""

    emptied = False

    def fileno(self) -> int:
        return 0

    def drain(self) -> Changes:
        raise MalformedMessage("netlink event 24 of 3 bytes")

    def poll(self, _timeout: float) -> bool:
        return False


def test_an_event_that_makes_no_sense_has_everything_read_again() -> None:
    agent = agent_of(FakeMirror())
    agent._monitor = Garbled()  # type: ignore[assignment]
    assert agent._heard(Garbled()) == EVERYTHING  # type: ignore[arg-type]


class FakeBuild:
    """Done once there is something to read; None: there is nothing to wait for."""

    def __init__(self, readable: int | None) -> None:
        self.readable = readable

    def fileno(self) -> int | None:
        return self.readable


class FakeMirror:
    """Does as told, and counts what it is asked for."""

    def __init__(
        self,
        fails: bool = False,
        fits: bool = True,
        build: FakeBuild | None = None,
        datagrams: int = 0,
    ) -> None:
        self.fails, self.fits, self.datagrams = fails, fits, datagrams
        self.pushed = 0
        self.build = build
        self.unsure = self.unsure_of_all = False
        self.interrupted = False
        self.behind = self.glanced = False
        self.used = {ANYWHERE, 7}
        self.did: list[object] = []

    def lease_deadline(self) -> int:
        return 0

    def set_lease(self, deadline: int) -> None: ...

    def fall_behind(self, _seconds: float) -> None:
        self.behind = True

    def catch_up(self) -> None:
        self.behind = False

    def uses(self, devices: Collection[int]) -> bool:
        return not self.used.isdisjoint(devices)

    def mark_down(self, devices: Collection[int]) -> bool:
        return not self.used.isdisjoint(devices)

    def glance(self) -> bool:
        if self.fails:
            raise OSError(5, "I/O error")
        return self.glanced

    def peek(self) -> bool:
        return self.glanced

    def pull(self, changes: Changes, meanwhile: Callable[[bool], None]) -> bool:
        if self.fails:
            raise OSError(28, "no space")
        if self.interrupted and not changes.routes:
            raise DumpInterrupted("links")
        self.did.append(changes)
        if changes.routes:
            for _ in range(self.datagrams):
                meanwhile(False)
            meanwhile(True)
        return self.pushed == 0

    def push(self, wait: bool) -> bool:
        assert not wait, "the agent never waits for a build"
        self.did.append("push")
        self.pushed += 1
        return self.fits

    def complete(self) -> None:
        self.build = None

    def spoil(self) -> None:
        self.did.append("spoilt")

    def update(self, updates: object) -> bool:
        self.did.append(updates)
        return True

    def follow(self, changes: Changes) -> bool:
        if changes.neighbour_updates or changes.nexthop_updates:
            self.did.append("followed")
        return not changes.nexthop_updates

    def keep_resolved(self) -> None: ...


class FakeMonitor:
    """Hears these things one after the other."""

    def __init__(self, *heard: Changes) -> None:
        self.heard = list(heard)
        self.emptied = True

    def fileno(self) -> int:
        return 0

    def drain(self) -> Changes:
        return self.heard.pop(0) if self.heard else Changes()


def agent_of(mirror: FakeMirror, *heard: Changes) -> Agent:
    """`heard`: what its monitor hears, one after the other."""
    return Agent(mirror, FakeMonitor(*heard), lambda: False, lambda: (True, False))  # type: ignore[arg-type]


def test_what_fails_waits_for_the_next_tick() -> None:
    agent = agent_of(FakeMirror(fails=True))
    agent._reconciliation.need(0.0)
    agent._follow(Changes(routes=True))
    assert agent._behind
    assert agent._reconciliation.due > 1e9, "else it would be tried again at once, for ever"


def test_what_is_built_is_brought_into_use_once_it_is_there() -> None:
    """And an event that comes before it is not kept waiting."""
    (event, announce), (built, finish) = os.pipe(), os.pipe()
    try:
        poll = select.poll()
        poll.register(event, select.POLLIN)
        mirror = FakeMirror(build=FakeBuild(built))
        agent = agent_of(mirror)
        assert not agent._wait(poll, 0)
        os.write(announce, b"1")
        assert agent._wait(poll, 30_000)
        assert (mirror.pushed, mirror.build is None) == (0, False)
        os.write(finish, b"1")
        agent._wait(poll, 30_000)
        assert (mirror.pushed, mirror.build is None) == (1, True)
        assert agent._wait(poll, 0), "the event is still there to be followed"
    finally:
        for descriptor in (event, announce, built, finish):
            os.close(descriptor)


def test_what_need_not_be_built_is_brought_into_use_at_once() -> None:
    mirror = FakeMirror(build=FakeBuild(None))
    agent_of(mirror)._wait(select.poll(), 30_000)
    assert (mirror.pushed, mirror.build is None) == (1, True)


def test_what_did_not_fit_is_tried_once_more() -> None:
    mirror = FakeMirror(fits=False)
    agent = agent_of(mirror)
    for _ in range(3):
        agent._follow(Changes(routes=True))
    assert mirror.pushed == 2


def test_what_takes_no_dump_is_followed_before_one() -> None:
    """A link that is down, a next hop that left its group: with a million routes it takes seconds
    to read them, and meanwhile packets would go there."""
    mirror = FakeMirror()
    agent_of(mirror)._follow(Changes(routes=True, links=True, nexthops=True))
    assert mirror.did == [Changes(links=True, nexthops=True), "push", Changes(routes=True)]


def test_nor_does_it_wait_for_one_that_is_being_read() -> None:
    mirror = FakeMirror(datagrams=3)
    agent = agent_of(mirror, Changes(neighbours=True), Changes(updates=(update(1),)))
    agent._follow(Changes(routes=True))
    begun, *meanwhile = mirror.did
    assert begun == Changes(routes=True)
    assert meanwhile == [Changes(neighbours=True), "push", (update(1),)]
    assert not agent._put_off


def test_what_takes_another_dump_comes_behind() -> None:
    mirror = FakeMirror(datagrams=3)
    agent = agent_of(mirror, Changes(routes=True, links=True), Changes())
    agent._follow(Changes(routes=True))
    assert agent._put_off == Changes(routes=True)
    assert "spoilt" not in mirror.did


@pytest.mark.parametrize("how", [Changes(lost=True, updates=(update(1),)), None])
def test_a_dump_that_events_are_lost_in_is_spoilt(how: Changes | None) -> None:
    """What was heard before may be older than what it says. None: an event that makes no sense."""
    mirror = FakeMirror(datagrams=3)
    agent = agent_of(mirror, how or Changes())
    if how is None:
        agent._monitor = Garbled()  # type: ignore[assignment]
    agent._follow(Changes(routes=True))
    assert "spoilt" in mirror.did
    assert (update(1),) not in mirror.did
    assert agent._put_off == Changes(routes=True)
    assert not agent._behind


def test_what_fails_meanwhile_fails_the_whole() -> None:
    """Its being interrupted is not taken for the dump's, which would only begin again."""
    mirror = FakeMirror(datagrams=3)
    mirror.interrupted = True
    agent = agent_of(mirror, Changes(links=True, updates=(update(1, gone=True),)), Changes())
    with pytest.raises(XdpecmpError) as caught:
        agent._meanwhile(True)
    assert not isinstance(caught.value, DumpInterrupted)
    agent = agent_of(mirror, Changes(links=True), Changes())
    agent._follow(Changes(routes=True))
    assert agent._behind
    assert not agent._held


def test_what_was_followed_during_a_dump_is_looked_after_by_another() -> None:
    agent = agent_of(FakeMirror(datagrams=3), Changes(updates=(update(1),)))
    agent._follow(Changes(routes=True))
    assert agent._reconciliation.due < 1e9
    agent._follow(Changes(routes=True))
    assert agent._reconciliation.due > 1e9


@pytest.mark.parametrize("lost", [False, True])
def test_updates_are_followed_before_a_dump_too(lost: bool) -> None:
    """Unless others are missing, which may have been newer."""
    mirror = FakeMirror()
    agent_of(mirror)._follow(Changes(routes=True, lost=lost, updates=(update(1),)))
    before = mirror.did[: mirror.did.index(Changes(routes=True))]
    assert ((update(1),) in before) is not lost


@pytest.mark.parametrize("datagrams", [5, 0])
def test_what_is_gone_may_be_coming_back_meanwhile(datagrams: int) -> None:
    """Also at the end of the dump."""
    mirror = FakeMirror(datagrams=datagrams)
    agent = agent_of(
        mirror, Changes(updates=(update(1, gone=True),)), Changes(updates=(update(1),))
    )
    agent._follow(Changes(routes=True))
    assert mirror.did[1] == (update(1, gone=True), update(1))


@pytest.mark.parametrize("unsure", [False, True])
def test_a_dump_that_is_not_sure_is_made_good_by_another(unsure: bool) -> None:
    mirror = FakeMirror()
    mirror.unsure = unsure
    agent = agent_of(mirror)
    agent._follow(Changes(routes=True))
    assert (agent._reconciliation._needed < 1e9) is unsure


@pytest.mark.parametrize("changed", [False, True])
def test_what_is_seen_at_a_glance_is_followed(changed: bool) -> None:
    mirror = FakeMirror()
    mirror.glanced = changed
    agent_of(mirror)._glance()
    assert (Changes(settings=True) in mirror.did) is changed


def test_a_glance_that_fails_waits_for_the_tick(caplog: pytest.LogCaptureFixture) -> None:
    mirror = FakeMirror(fails=True)
    agent = agent_of(mirror)
    agent._glance()
    assert "cannot read the sysctls" in caplog.text
    assert not agent._behind


@pytest.mark.parametrize(("device", "pushes"), [(7, 2), (8, 1)])
def test_a_device_that_goes_down_and_comes_back_at_once(device: int, pushes: int) -> None:
    """Nothing differs then from what was known, but its next hops were marked."""
    agent = agent_of(mirror := FakeMirror(), Changes(links=True, down=frozenset({device})))
    agent._follow(Changes(links=True))
    assert mirror.pushed == 1
    agent._follow(agent._drain())
    assert mirror.pushed == pushes
    agent._follow(Changes(links=True))
    assert mirror.pushed == pushes


# --- how far behind -----------------------------------------------------------------------------


def pending() -> bool:
    return False


def lags(agent: Agent) -> bool:
    """Whether the agent owes the data path something, with no event waiting."""
    agent._backlog.look(pending)
    return agent._backlog._unfollowed or agent._backlog.behind


def test_what_is_heard_is_owed_until_it_is_followed() -> None:
    agent = agent_of(FakeMirror(), Changes(updates=(update(1),)))
    heard = agent._drain()
    assert lags(agent)
    agent._follow(heard)
    assert not lags(agent)


def test_a_drain_that_leaves_some_is_not_the_end() -> None:
    agent = agent_of(FakeMirror(), Changes(updates=(update(1),)))
    agent._monitor.emptied = False
    agent._follow(agent._drain())
    assert lags(agent)


@pytest.mark.parametrize(("device", "owed"), [(7, True), (8, False), (ANYWHERE, True)])
def test_routes_that_change_in_silence_are_owed_until_the_dump(device: int, owed: bool) -> None:
    """Where the device is one that routes lead to; others come and go all the time."""
    mirror = FakeMirror(datagrams=1)
    agent = agent_of(mirror, Changes(routes=True, links=True, silent=frozenset({device})))
    seen = []
    agent._mirror.update = lambda _: seen.append(lags(agent)) or True  # type: ignore[method-assign,func-returns-value]
    agent._monitor.heard.append(Changes(updates=(update(1),)))  # type: ignore[attr-defined]
    agent._follow(agent._drain())
    agent._tell_backlog()
    assert seen == [True]
    assert not lags(agent)
    agent._monitor.heard.append(Changes(silent=frozenset({device})))  # type: ignore[attr-defined]
    agent._drain()
    agent._tell_backlog()
    assert lags(agent) is owed


def test_a_change_heard_during_a_dump_is_owed_until_the_next() -> None:
    mirror = FakeMirror(datagrams=1)
    agent = agent_of(mirror, Changes(), Changes(routes=True, silent=frozenset({7})))
    agent._follow(Changes(routes=True))
    assert lags(agent)
    put_off, agent._put_off = agent._put_off, Changes()
    agent._follow(put_off)
    assert not lags(agent)


def test_lost_events_pass_all_to_linux_at_once() -> None:
    mirror = FakeMirror()
    agent = agent_of(mirror, Changes(lost=True))
    heard = agent._drain()
    assert mirror.behind
    agent._follow(heard)
    assert not lags(agent)
    assert not mirror.behind


def test_what_cannot_be_followed_passes_to_linux_until_it_is() -> None:
    mirror = FakeMirror(fails=True)
    agent = agent_of(mirror)
    agent._follow(agent._drain() | Changes(links=True))
    assert mirror.behind
    assert lags(agent)
    mirror.fails = False
    agent._follow(Changes(settings=True))
    assert not lags(agent)
    assert not mirror.behind


def test_updates_that_exceed_the_limit_are_owed_until_the_dump() -> None:
    mirror = FakeMirror()
    mirror.unsure_of_all = True
    agent = agent_of(mirror, Changes(updates=(update(1),)))
    mirror.update = lambda _: False  # type: ignore[method-assign]
    agent._follow(agent._drain())
    assert lags(agent)
    mirror.unsure_of_all = False
    agent._follow(Changes(routes=True))
    assert not lags(agent)
