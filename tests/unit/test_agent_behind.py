"""When the agent says that all is followed, and when that it is behind."""

from __future__ import annotations

import pytest

from tests.unit.fake_agent import FakeMirror, agent_of, update
from xdpecmp.agent.loop import Agent
from xdpecmp.netlink import ANYWHERE, Changes


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
    agent._mirror.update = lambda _: seen.append(lags(agent)) or True  # type: ignore[method-assign,assignment,func-returns-value]
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
    mirror.update = lambda _: False  # type: ignore[method-assign,assignment]
    agent._follow(agent._drain())
    assert lags(agent)
    mirror.unsure_of_all = False
    agent._follow(Changes(routes=True))
    assert not lags(agent)
