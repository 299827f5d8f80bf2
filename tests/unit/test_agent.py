"""In which order the agent follows what it hears, and what it reads again."""

from __future__ import annotations

import os
import select

import pytest

from tests.unit.fake_agent import FakeBuild, FakeMirror, Garbled, agent_of, update
from xdpecmp.agent.loop import EVERYTHING, _is_whole
from xdpecmp.errors import DumpInterrupted, XdpecmpError
from xdpecmp.netlink import Changes


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


def test_an_event_that_makes_no_sense_has_everything_read_again() -> None:
    agent = agent_of(FakeMirror())
    agent._monitor = Garbled()  # type: ignore[assignment]
    assert agent._heard(Garbled()) == EVERYTHING  # type: ignore[arg-type]


def test_what_fails_waits_for_the_next_tick() -> None:
    agent = agent_of(FakeMirror(fails=True))
    agent._reconciliation.need(0.0)
    agent._follow(Changes(routes=True))
    assert agent._behind
    assert agent._reconciliation.due > 1e9, "else it would be tried again at once, endlessly"


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
        assert (mirror.pushed, mirror.deep.is_building) == (0, True)
        os.write(finish, b"1")
        agent._wait(poll, 30_000)
        assert (mirror.pushed, mirror.deep.is_building) == (1, False)
        assert agent._wait(poll, 0), "the event is still there to be followed"
    finally:
        for descriptor in (event, announce, built, finish):
            os.close(descriptor)


def test_what_need_not_be_built_is_brought_into_use_at_once() -> None:
    mirror = FakeMirror(build=FakeBuild(None))
    agent_of(mirror)._wait(select.poll(), 30_000)
    assert (mirror.pushed, mirror.deep.is_building) == (1, False)


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


def test_settings_that_move_flows_are_seen_while_all_routes_are_read() -> None:
    mirror = FakeMirror()
    mirror.glanced = True
    agent_of(mirror)._follow(Changes(routes=True))
    assert Changes(settings=True) in mirror.did


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
