"""A kernel that answers wrongly about itself is told from one that chooses otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from errno import EHOSTUNREACH, ENETUNREACH
from typing import Any, ClassVar

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from xdpecmp.control.advice import Disagreement, disagreement
from xdpecmp.model.hashkey import HashKey, Origin
from xdpecmp.model.values import (
    NextHop,
    NexthopGroup,
    Path,
    Prefix,
    Route,
    RouteKind,
    Settings,
    Snapshot,
)
from xdpecmp.netlink import Answer, Query
from xdpecmp.observe.explain import Comparison, Decision, HashSettings, Judge
from xdpecmp.observe.scratch import Trial
from xdpecmp.program.abi import GroupKind, Reason

PREFIX = Prefix.parse("2001:db8:80::/48")
DESTINATION = Prefix.parse("2001:db8:80::80").address
HOP, OTHER = NextHop(b"\xfd" + bytes(15), 5), NextHop(b"\xfe" + bytes(15), 6)
RIGHT = Answer(RouteKind.UNICAST, HOP)
WRONG = Answer(RouteKind.UNICAST, OTHER)
ERROR = Answer(RouteKind.SPECIAL, error=ENETUNREACH)
LOCAL = Answer(RouteKind.LOCAL)


def decision(own_seed: bool = False) -> Decision:
    packet = bytes(IPv6(src="2001:db8:1::1", dst="2001:db8:80::80") / UDP(sport=1, dport=2))
    return Decision(
        reason=Reason.FORWARDED,
        family=6,
        ingress=2,
        packet=packet,
        hash=1,
        nexthop=0,
        group=(GroupKind.THRESHOLD, 0, 2),
        is_icmp_error=False,
        quote_offset=0,
        settings=HashSettings(1, 7, HashKey.of_seed(7, Origin.OWN if own_seed else Origin.SYSCTL)),
    )


def over(nhid: int, **more: Any) -> Route:
    return Route(PREFIX, 254, 1024, RouteKind.UNICAST, nhid=nhid)._replace(**more)


OBJECT = NexthopGroup(10, RouteKind.UNICAST, (Path(HOP), Path(OTHER)))


class FakeKernel:
    """Answers by the CPU that it is asked on."""

    def __init__(self, answers: Mapping[int, Answer], *routes: Route, rules: bool = False) -> None:
        self.answers, self.routes, self.rules = answers, routes, rules
        self.asked: list[int] = []

    def route_get(self, _query: Query) -> Answer:
        (cpu,) = self.affinity
        self.asked.append(cpu)
        return self.answers[cpu]

    def snapshot(self) -> Snapshot:
        return Snapshot(
            {}, {}, self.routes, Settings(), custom_rules6=self.rules, nexthop_groups={10: OBJECT}
        )

    affinity: ClassVar[set[int]] = {0, 1}


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Four CPUs, of which the process may not run on the last one at all."""
    history: list[set[int]] = []

    def move(_pid: int, to: set[int]) -> None:
        if to == {3}:
            raise OSError(22, "Invalid argument")
        FakeKernel.affinity = to
        history.append(to)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", move)
    monkeypatch.setattr(os, "sysconf", lambda _: 4)
    return history


def judged(kernel: FakeKernel, first: Answer = ERROR, own_seed: bool = False) -> Comparison:
    judge = Judge(kernel)  # type: ignore[arg-type]
    return judge.judge(decision(own_seed), HOP, Comparison(first, False))


@pytest.mark.parametrize(
    ("answers", "routes", "agrees"),
    [
        ((ERROR, RIGHT, RIGHT), [over(10)], True),
        ((ERROR, ERROR, RIGHT), [], True),
        ((WRONG, RIGHT, RIGHT), [], True),
        ((LOCAL, RIGHT, RIGHT), [], True),
        ((WRONG, WRONG, WRONG), [over(10)], False),
        ((ERROR, WRONG, ERROR), [over(10)], False),
        ((ERROR, ERROR, ERROR), [over(10)], None),
        ((ERROR, ERROR, ERROR), [], False),
        ((ERROR, ERROR, ERROR), [over(11)], False),
        ((ERROR, ERROR, ERROR), [over(0, paths=(Path(HOP),))], False),
        ((ERROR, ERROR, ERROR), [over(10), over(0, kind=RouteKind.SPECIAL, metric=1)], False),
        ((ERROR, ERROR, ERROR), [over(10), over(0, kind=RouteKind.LOCAL, table=255)], False),
        ((LOCAL, LOCAL, LOCAL), [over(10)], False),
    ],
)
def test_it_takes_all_cpus_to_disagree(
    cpus: list[set[int]], answers: tuple[Answer, ...], routes: list[Route], agrees: bool | None
) -> None:
    kernel = FakeKernel(dict(enumerate(answers)), *routes)
    comparison = judged(kernel, answers[0])
    assert comparison.agrees is agrees
    assert sorted(kernel.asked) == [0, 1, 2]
    assert cpus[-1] == {0, 1}, "the thread goes back to where it was"
    assert bool(comparison.why) == (agrees is not False)


@pytest.mark.usefixtures("cpus")
def test_a_longer_prefix_may_be_what_linux_goes_by() -> None:
    longer = over(0, prefix=Prefix(DESTINATION, 128), kind=RouteKind.SPECIAL)
    answers = dict.fromkeys(range(3), ERROR)
    assert judged(FakeKernel(answers, over(10), longer)).agrees is False
    assert judged(FakeKernel(answers, over(10), rules=True)).agrees is False


@pytest.mark.usefixtures("cpus")
def test_which_cpu_answers_wrongly_is_remembered() -> None:
    kernel = FakeKernel({0: ERROR, 1: ERROR, 2: RIGHT})
    judge = Judge(kernel)  # type: ignore[arg-type]
    for _ in range(5):
        judge.judge(decision(), HOP, Comparison(ERROR, False))
    assert kernel.asked == [0, 1, 2, 2, 2, 2, 2]
    assert judge.complaint() == (
        f"on CPU 0, 1 Linux answers wrongly about itself ({os.strerror(ENETUNREACH)})"
    )


def test_what_agreed_or_cannot_be_asked_is_not_asked_again(cpus: list[set[int]]) -> None:
    kernel = FakeKernel({})
    judge = Judge(kernel)  # type: ignore[arg-type]
    for first in (Comparison(RIGHT, True), Comparison(ERROR, None, "why")):
        assert judge.judge(decision(), HOP, first) is first
    assert judged(kernel, own_seed=True).agrees is False
    assert not cpus
    assert not judge.complaint()


def test_an_error_has_words() -> None:
    assert str(Answer(RouteKind.SPECIAL, error=EHOSTUNREACH)) == os.strerror(EHOSTUNREACH)


@pytest.mark.parametrize(
    ("trial", "fix"),
    [
        (Trial(64, 20), "xdpecmp detach --all"),
        (Trial(64, 64), f"xdpecmp verify {PREFIX}"),
        (None, f"xdpecmp verify {PREFIX}"),
    ],
)
def test_to_detach_is_advised_only_where_packets_confirm_it(trial: Trial | None, fix: str) -> None:
    assert disagreement(Disagreement(PREFIX, trial)).fix == fix
