"""An agent with a fake mirror and a fake monitor."""

from __future__ import annotations

from collections.abc import Callable, Collection

from xdpecmp.agent.loop import Agent
from xdpecmp.errors import DumpInterrupted, MalformedMessage
from xdpecmp.model.values import Prefix, Route, RouteKind, RouteUpdate
from xdpecmp.netlink import ANYWHERE, Changes


def update(last: int, gone: bool = False) -> RouteUpdate:
    return RouteUpdate(Route(Prefix(bytes([10, 0, 0, last]), 32), 254, 0, RouteKind.SPECIAL), gone)


class Garbled:
    """A monitor, or a poll, of which the former hears what it doesn't understand."""

    emptied = False

    def fileno(self) -> int:
        return 0

    def drain(self) -> Changes:
        raise MalformedMessage("netlink event 24 of 3 bytes")

    def poll(self, _timeout: float) -> bool:
        return False


class FakeBuild:
    """Done once there is something to read; None: there is nothing to wait for."""

    def __init__(self, readable: int | None) -> None:
        self.readable = readable

    def fileno(self) -> int | None:
        return self.readable


class FakeDeep:
    """A program of which a build may be under way."""

    def __init__(self, build: FakeBuild | None) -> None:
        self._build = build

    @property
    def is_building(self) -> bool:
        return self._build is not None

    def fileno(self) -> int | None:
        return self._build.fileno() if self._build else None

    def complete(self) -> None:
        self._build = None


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
        self.deep = FakeDeep(build)
        self.unsure = self.unsure_of_all = False
        self.interrupted = False
        self.behind = self.glanced = False
        self.lease = self
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
