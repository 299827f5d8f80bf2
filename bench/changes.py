"""From a route change in the kernel to the packets that go by it.

What counts is where packets go, not what some map holds: test runs of the attached program, on
packets for destinations in every route.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from xdpecmp.instance.instance import Instance
from xdpecmp.observe.view import View
from xdpecmp.program import libbpf

from . import packets
from .router import EGRESSES, MAC, BenchError, Router, gateway, neighbour_mac
from .routes import PAIRS, Feeder, Table, group_message, messages
from .spread import Spreader, Target
from .timing import XDP_REDIRECT, Run

LIGHT, HEAVY = 1, 256
GIVE_UP_SECONDS = 60.0
RATES = (100, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
RATE_SECONDS = 2.0
FOLLOWED_SECONDS = 1.0
"""A rate is followed if the data path is up to date so soon after the last change, and forwarded
all the while."""
_LOOK_SECONDS = 0.0003
_LOOK_AT_ALL_SECONDS = 0.02
_TICK_SECONDS = 0.01
_FLOWS = 4
_GROUP, _MEMBERS = 900, (901, 902)
_GROUP_FLOWS = 16
_GROUP_NETWORK, _GROUP_HOST = "198.19.0.0/24", "198.19.0.80"


class Watcher:
    """Sends a packet to every route of a table and sees by which next hops they go."""

    def __init__(self, inside: Router, table: Table) -> None:
        self.inside, self.table = inside, table
        self.hosts, self.numbers = table.hosts()
        self._spreader = Spreader(destinations=len(self.hosts), sets=1)
        self._spreader.add_set(self.hosts)
        self._far = {gateway(4, n) for n in range(2 * PAIRS, 4 * PAIRS)}
        self._looked = 0.0
        self.fd = -1
        self._all: Run
        self.one: Run

    def attach(self) -> None:
        """To be called when another program has been attached."""
        if self.fd >= 0:
            os.close(self.fd)
        with self.inside.namespace.enter():
            instance = Instance()
            self.fd = instance.open_program(instance.generation())
        forwarder = self._spreader.add_forwarder(self.fd)
        target = Target(self._spreader, self.inside, 4, 0)
        self._all = target.run("all routes", forwarder, repeat=len(self.hosts))
        self.one = target.run("one packet", forwarder, repeat=1)

    def look(self) -> tuple[int, int]:
        """Of a packet to every route: how many are forwarded, and how many of them by the next
        hops that `shift=PAIRS` turns routes to."""
        before = self._counts()
        with self.inside.namespace.enter():
            libbpf.run_program(self._all.fd, self._all.frame, self.inside.ingress, self._all.repeat)
        self._looked = time.perf_counter()
        after = self._counts()
        return after[0] - before[0], after[1] - before[1]

    def _counts(self) -> tuple[int, int]:
        with self.inside.namespace.enter(), Instance().open_maps() as maps:
            rows = View(maps, {}).stats().nexthops
        far = sum(row.packets for row in rows if row.via in self._far)
        return sum(row.packets for row in rows), far

    def seconds_until(self, begin: float, shifted: int | None = None) -> float | None:
        """Seconds from `begin` until all are forwarded and so many of them by the shifted next hops
        (None: no matter which); None if that takes too long."""
        while time.perf_counter() - begin < GIVE_UP_SECONDS:
            forwarded, far = self.look()
            if forwarded == len(self.hosts) and shifted in (None, far):
                return self._looked - begin
            time.sleep(_LOOK_AT_ALL_SECONDS)
        return None

    def is_forwarding(self) -> bool:
        """Whether one packet is."""
        with self.inside.namespace.enter():
            result = libbpf.run_program(self.one.fd, self.one.frame, self.inside.ingress)
        return result.verdict == XDP_REDIRECT


def weight_changes(watcher: Watcher, count: int, advance: Callable[[], object]) -> Iterator[float]:
    """Seconds from when the kernel has a route's new weights to the first packet that goes by
    them, for one route after another. The routes' weights were HEAVY and LIGHT; they change places,
    which moves nearly every flow."""
    inside = watcher.inside
    with Feeder(inside.namespace) as feeder:
        for i in range(count):
            at = i % len(watcher.hosts)
            heavy_first = i // len(watcher.hosts) % 2
            weights = (HEAVY, LIGHT) if heavy_first else (LIGHT, HEAVY)
            route = watcher.table.part([watcher.numbers[at]])
            host = ".".join(map(str, watcher.hosts[at]))
            frames = _flows(host, _FLOWS)
            before = _next_hops(watcher, frames)
            feeder.feed(messages(route, inside.egresses, replace=True, weights=weights))
            what = f"new weights of the route to {host}"
            yield _seconds_until(watcher, frames, before.__ne__, what)
            advance()


def departures(
    watcher: Watcher, count: int, meanwhile: Callable[[], object], advance: Callable[[], object]
) -> Iterator[float]:
    """Seconds from when one of two next hops has left their group, in the kernel, until no packet
    goes by it any more. `meanwhile` is called a moment before."""
    inside = watcher.inside
    for number, member in enumerate(_MEMBERS):
        inside.namespace.ip(
            f"nexthop add id {member} via {gateway(4, number)} dev {EGRESSES[number]}"
        )
    inside.namespace.ip(f"nexthop add id {_GROUP} group {_MEMBERS[0]}/{_MEMBERS[1]}")
    inside.namespace.ip(f"route add {_GROUP_NETWORK} nhid {_GROUP}")
    frames = _flows(_GROUP_HOST, _GROUP_FLOWS)
    macs = [neighbour_mac(number) for number in range(len(_MEMBERS))]

    with Feeder(inside.namespace) as feeder:
        for i in range(count):
            feeder.feed(group_message(_GROUP, _MEMBERS))
            _seconds_until(watcher, frames, lambda found: set(found) == set(macs), "the group")
            meanwhile()
            feeder.feed(group_message(_GROUP, [_MEMBERS[i % 2]]))
            gone = macs[1 - i % 2]
            yield _seconds_until(
                watcher, frames, partial(_goes_elsewhere, gone), "a group without one next hop"
            )
            advance()
    for number in (_GROUP, *_MEMBERS):
        inside.namespace.ip(f"nexthop del id {number}")


def _goes_elsewhere(mac: bytes, found: list[bytes]) -> bool:
    return mac not in found


def _seconds_until(
    watcher: Watcher, frames: list[bytes], holds: Callable[[list[bytes]], bool], what: str
) -> float:
    """From now on, until that holds for the next hops of these packets. Raises BenchError where it
    takes too long."""
    begin = time.perf_counter()
    while not holds(_next_hops(watcher, frames)):
        if time.perf_counter() - begin > GIVE_UP_SECONDS:
            raise BenchError(f"{what} never took effect")
        time.sleep(_LOOK_SECONDS)
    return time.perf_counter() - begin


def _flows(host: str, count: int) -> list[bytes]:
    return [packets.ethernet(MAC, packets.udp(f"203.0.113.{1 + n}", host)) for n in range(count)]


def _next_hops(watcher: Watcher, frames: list[bytes]) -> list[bytes]:
    """The MAC addresses that these packets are sent to. The watching sleeps between its looks: the
    agent may have few processors to share with the rest of the machine."""
    with watcher.inside.namespace.enter():
        runs = [libbpf.run_program(watcher.fd, f, watcher.inside.ingress) for f in frames]
    return [run.frame[:6] for run in runs]


@dataclass(frozen=True)
class Burst:
    """Many changes as fast as the kernel takes them."""

    changes: int
    kernel_seconds: float
    sync_seconds: float | None
    """from the last change"""


def burst(watcher: Watcher, count: int) -> Burst:
    """The first `count` routes get other next hops; afterwards they get their own again."""
    with Feeder(watcher.inside.namespace) as feeder:
        kernel, sync = _turn(watcher, feeder, count, PAIRS)
        _turn(watcher, feeder, count, 0)
    return Burst(count, kernel, sync)


def _turn(watcher: Watcher, feeder: Feeder, count: int, shift: int) -> tuple[float, float | None]:
    """The first `count` routes to the next hops `shift` further on, as fast as it goes. Seconds
    that the kernel takes, and from then on until the data path goes by all of them."""
    begin = time.perf_counter()
    feeder.feed(_turned(watcher, count, shift))
    last = time.perf_counter()
    return last - begin, watcher.seconds_until(last, _shifted(watcher, count, shift))


def _turned(watcher: Watcher, count: int, shift: int) -> Any:
    table = watcher.table.part(slice(0, count))
    return messages(table, watcher.inside.egresses, replace=True, shift=shift)


def _shifted(watcher: Watcher, count: int, shift: int) -> int:
    """Of the watched routes, how many go by shifted next hops then."""
    return int((watcher.numbers < count).sum()) if shift else 0


@dataclass(frozen=True)
class Pace:
    """A rate of changes, and whether the data path kept up."""

    rate: float
    """changes a second, as they really came"""
    lag_seconds: float | None
    """from the last change until the data path went by all of them"""
    passed: int
    """looks during the changes that found a packet passed to Linux"""

    @property
    def is_followed(self) -> bool:
        in_time = self.lag_seconds is not None and self.lag_seconds <= FOLLOWED_SECONDS
        return in_time and not self.passed


def paces(watcher: Watcher, advance: Callable[[], object]) -> Iterator[Pace]:
    """One rate after another, up to the first that is too much."""
    with Feeder(watcher.inside.namespace) as feeder:
        for rate in RATES:
            count = min(int(rate * RATE_SECONDS), len(watcher.table))
            pace = _pace(watcher, feeder, count, rate)
            yield pace
            advance()
            if not pace.is_followed:
                return
            _turn(watcher, feeder, count, 0)


def _pace(watcher: Watcher, feeder: Feeder, count: int, rate: int) -> Pace:
    found = _turned(watcher, count, PAIRS)
    begin = last = time.perf_counter()
    sent = passed = 0
    while sent < count:
        due = min(count, int((time.perf_counter() - begin) * rate) + 1)
        feeder.feed(found[sent:due])
        sent, last = due, time.perf_counter()
        passed += not watcher.is_forwarding()
        time.sleep(_TICK_SECONDS)
    lag = watcher.seconds_until(last, _shifted(watcher, count, PAIRS))
    return Pace(count / (last - begin), lag, passed)
