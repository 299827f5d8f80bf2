"""The agent: the loop around the mirror, which keeps the data path saying what the kernel says.

Changes of single routes are followed as the kernel announces them. All else that may have changed
is read again; and so are all routes some time after single ones were followed, since events don't
tell everything: see "What the kernel does not tell" in docs/design.md.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

from ..errors import DumpInterrupted, XdpecmpError
from ..netlink import ANYWHERE, Changes, Monitor
from .backlog import Backlog
from .lease import Lease
from .mirror import Mirror
from .signals import ENDING

log = logging.getLogger("xdpecmp.agent")

TICK_SECONDS = 1.0
"""How often what comes without an event is looked at."""

GLANCE_SECONDS = 0.5
"""How often it is looked at whether some of it has changed."""

PEEK_SECONDS = 0.1
"""And how often at what decides which way flows go."""

QUIET_SECONDS = 0.001
"""After an event, wait until it has been quiet for this long: FRR replaces an IPv6 route by a
DELROUTE and a NEWROUTE 0.1 ms later."""

BURST_SECONDS = 0.008
"""But no longer than this."""

EVERYTHING = Changes(
    routes=True,
    links=True,
    neighbours=True,
    rules=True,
    settings=True,
    nexthops=True,
    filters=True,
    elapsed=True,
    lost=True,
    silent=frozenset({ANYWHERE}),
)


class Reconciliation:
    """When to read all routes again after single ones were followed: once it has been quiet for a
    moment, and never more than a tenth of the time; for a doubt half of it."""

    QUIET_SECONDS = 0.05
    LATEST_SECONDS = 1.0
    """If it doesn't get quiet."""
    SHARE = 10

    def __init__(self) -> None:
        self._wanted = self._needed = self._latest = math.inf
        self._ended = -math.inf
        self._took = 0.0

    @property
    def due(self) -> float:
        """On the monotonic clock."""
        return min(self._wanted, self._needed)

    def want(self, now: float) -> None:
        """Single routes were followed."""
        self._latest = min(self._latest, now + self.LATEST_SECONDS)
        wanted = min(now + self.QUIET_SECONDS, self._latest)
        self._wanted = max(wanted, self._ended + self.SHARE * self._took)

    def need(self, now: float) -> None:
        """What an event said was not enough."""
        self._needed = min(self._needed, max(now, self._ended + self._took))

    def done(self, begin: float, end: float) -> None:
        """All routes were read and are in the data path."""
        self._wanted = self._needed = self._latest = math.inf
        self._ended, self._took = end, end - begin


class Agent:
    """Follows the kernel until told to stop."""

    def __init__(
        self,
        mirror: Mirror,
        monitor: Monitor,
        namespace_gone: Callable[[], bool],
        tend: Callable[[], tuple[bool, bool]],
    ) -> None:
        """The mirror has followed until the monitor was made, or longer. `tend` looks after the
        interfaces; it returns whether there is something to stay for, and whether it has attached
        to one, of which no event tells while that is down."""
        self._mirror = mirror
        self._monitor = monitor
        self._namespace_gone = namespace_gone
        self._tend = tend
        self._stopping = False
        self._behind = False
        """Whether something may have been missed."""
        self._put_off = Changes()
        """What has to be read again, known since all routes were being read."""
        self._held = Changes()
        """Heard while all routes are being read, and not followed yet."""
        self._held_until = 0.0
        self._peek_again = 0.0
        self._followed = False
        """Whether something was followed while all routes were being read."""
        self._unfit = False
        """Whether not all fit into the data path, which it may at a second try."""
        self._backlog = Backlog(mirror.lease.fall_behind, mirror.lease.catch_up)
        self._read_until: float | None = None
        """All events that there were by then are read; None: the last drain left some."""
        self._marked = False
        """Whether next hops pass to Linux until the next push, since their device is down."""
        self._owes_dump = False
        """Whether routes may have changed without an event since all of them were read."""
        self._lease = Lease(mirror.lease, self._backlog, monitor.fileno())
        self._reconciliation = Reconciliation()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> bool:
        """Returns True if the instance must go too: its namespace or its last interface is gone;
        False if it was told to stop, which leaves the data path on its lease."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.set_wakeup_fd(self._wake_write)
        # blocked by `attach`, until there is somebody to heed them
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        poll = select.poll()
        poll.register(self._monitor, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        self._lease.grant()
        with self._lease:
            return self._loop(poll)

    def _loop(self, poll: select.poll) -> bool:
        next_tick = next_glance = 0.0
        while not self._stopping:
            now = time.monotonic()
            if self._lease.interrupted:  # what comes without an event is read too
                self._lease.resume()
                self._follow(self._drain() | Changes(settings=True, elapsed=True))
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                if self._tick():
                    return True
            if now >= next_glance:
                next_glance = now + GLANCE_SECONDS
                self._glance()
            more = self._read_until is None
            due = now if self._put_off or more else min(next_glance, self._reconciliation.due)
            wait = math.ceil(max(0.0, due - time.monotonic()) * 1000)
            if (self._wait(poll, wait) or more) and not self._stopping:
                heard = self._heard(poll)
                self._follow(heard)
                if heard.links:  # an interface may be back
                    next_tick = 0.0
            put_off, self._put_off = self._put_off, Changes()
            if time.monotonic() >= self._reconciliation.due:
                put_off |= Changes(routes=True)
            if put_off and not self._stopping:
                self._follow(put_off)
        return False

    def _wait(self, poll: select.poll, milliseconds: int) -> bool:
        """For events, and for a build that is done, which is brought into use."""
        deep = self._mirror.deep
        if not deep.is_building:
            return bool(self._peek(poll, milliseconds))
        built = deep.fileno()
        if built is not None:
            poll.register(built, select.POLLIN)
            ready = dict(self._peek(poll, milliseconds))
            poll.unregister(built)
            if self._stopping or built not in ready:
                return bool(ready)
        self._lease.progress()
        deep.complete()
        self._follow(Changes(settings=True), push=True)
        return False  # the next time, if there are some

    def _peek(self, poll: select.poll, milliseconds: int) -> list[tuple[int, int]]:
        """Wait for events, following meanwhile the settings that decide most."""
        step = int(PEEK_SECONDS * 1000)
        while milliseconds > step:
            if ready := poll.poll(step):
                return ready
            milliseconds -= step
            if self._mirror.peek():
                self._follow(Changes(settings=True))
                return []
        return poll.poll(milliseconds)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _tick(self) -> bool:
        """What has to be done without an event. Whether the instance must go."""
        if self._namespace_gone():
            log.info("the network namespace is gone")
            return True
        self._follow(Changes(elapsed=True))
        if self._behind:
            return False
        stays, attached = self._tend()
        if attached:
            self._put_off |= Changes(links=True)
        if not stays:
            log.info("no interface runs our program any more")
            return True
        self._mirror.settle_buckets()
        return False

    def _glance(self) -> None:
        """Follow what has changed without an event, as far as that is seen cheaply."""
        try:
            changed = self._mirror.glance()
        except (XdpecmpError, OSError) as error:
            log.warning("cannot read the sysctls: %s", error)
            return  # all is read again before long
        if changed or self._mirror.peek():
            self._follow(Changes(settings=True))

    def _heard(self, poll: select.poll) -> Changes:
        """All changes until what they come to can be told."""
        deadline = time.monotonic() + BURST_SECONDS
        changes = self._drain()
        while (
            not _is_whole(changes)
            and time.monotonic() < deadline
            and poll.poll(math.ceil(QUIET_SECONDS * 1000))
        ):
            if self._stopping:
                break
            changes |= self._drain()
        return changes

    def _drain(self) -> Changes:
        began = self._backlog.reading()
        try:
            changes = self._monitor.drain()
        except (XdpecmpError, OSError) as error:
            log.warning("cannot make out an event, so everything is read again: %s", error)
            changes = EVERYTHING
        self._read_until = began if self._monitor.emptied else None
        if changes.down and self._mirror.mark_down(changes.down):
            self._marked = True
        if changes.lost:
            self._backlog.lose(began)
        self._owes_dump |= changes.lost or self._mirror.uses(changes.silent)
        return changes

    def _tell_backlog(self) -> None:
        """How far the data path is, if it says all that is known."""
        if self._read_until is not None and not (self._behind or self._owes_dump or self._held):
            self._backlog.followed(self._read_until)

    def _follow(self, changes: Changes, push: bool = False) -> None:
        """Bring the data path up to date. What fails is tried again, whole, at the next tick.
        `push`: even if nothing has changed."""
        begin = time.monotonic()
        if self._behind:
            changes = EVERYTHING
        all_routes = changes.routes or changes.lost
        rest = _without_routes(changes)
        try:
            fits = True
            # what takes no dump comes before it: that takes seconds if there are many routes
            if rest:
                fits = self._read(rest, push)
            if changes.told and not changes.lost:
                self._update(changes)
            if all_routes and not self._stopping:
                fits &= self._read(Changes(routes=True), self._behind or self._unfit)
                now = time.monotonic()
                self._reconciliation.done(begin, now)
                if self._followed:
                    self._reconciliation.want(now)
                if self._mirror.unsure:
                    self._reconciliation.need(now)
                self._followed = False
                self._owes_dump = self._mirror.unsure_of_all or (
                    self._owes_dump and self._put_off.routes
                )
            if self._stopping:
                return  # soon enough for whoever waits
            if rest or all_routes:
                self._unfit = not fits and not self._unfit
                if self._unfit:
                    self._reconciliation.need(time.monotonic())
                self._mirror.keep_resolved()
            self._behind = False
            self._tell_backlog()
            self._lease.grant()
        except (XdpecmpError, OSError) as error:
            log.warning("cannot follow the kernel: %s", error)
            self._behind = True
            self._backlog.lose()
            self._held = Changes()
            self._reconciliation.done(begin, time.monotonic())  # the next tick reads all anyway
            self._lease.withhold()  # none for a mirror that may be wrong

    def _read(self, changes: Changes, push: bool) -> bool:
        """False if not all fit into the data path."""
        differs = self._mirror.pull(changes, self._meanwhile)
        if not (differs or push or self._marked) or self._stopping:
            return True
        self._marked = False
        self._lease.progress()
        return self._mirror.push(wait=False)

    def _meanwhile(self, last: bool) -> None:
        """While all routes are read: follow what takes no reading of routes, put off what does.
        `last`: they have been read."""
        self._lease.progress()
        now = time.monotonic()
        heard = self._drain()
        if now >= self._peek_again:
            self._peek_again = now + PEEK_SECONDS
            heard |= Changes(settings=self._mirror.peek())
        if not self._held:
            self._held_until = now + BURST_SECONDS
        self._held |= heard
        while last and heard and not _is_whole(self._held) and now < self._held_until:
            time.sleep(QUIET_SECONDS)
            heard, now = self._drain(), time.monotonic()
            self._held |= heard
        if self._stopping or (heard and not _is_whole(self._held) and now < self._held_until):
            return  # for now: what is gone may be coming back
        held, self._held = self._held, Changes()
        self._followed |= bool(held)
        if held.lost:
            self._mirror.spoil()
        rest = _without_routes(held)
        try:
            if rest:
                self._read(rest, push=False)
        except DumpInterrupted as error:  # this one, not the one that is being read
            raise XdpecmpError(str(error)) from error
        if held.told and not held.lost:
            self._update(held)
        self._put_off |= Changes(routes=held.routes or held.lost)
        self._tell_backlog()

    def _update(self, changes: Changes) -> None:
        now = time.monotonic()
        if not self._mirror.follow(changes):
            self._reconciliation.need(now)
        if not changes.updates:
            return
        self._reconciliation.want(now)
        if not self._mirror.update(changes.updates):
            self._reconciliation.need(now)
            self._owes_dump |= self._mirror.unsure_of_all


def _without_routes(changes: Changes) -> Changes:
    whole = EVERYTHING if changes.lost else changes.untold()
    return replace(whole, routes=False, lost=False, silent=frozenset(), down=frozenset())


def _is_whole(changes: Changes) -> bool:
    """Whether it can be followed at once: new routes, and no route gone that may be coming back."""
    if changes.untold():
        return False
    last = {update.route.prefix: update.gone for update in changes.updates}
    return not any(last.values())
