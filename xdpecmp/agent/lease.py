"""The lease: for how long the data path may go on alone, kept by its own thread.

Reading a million routes takes longer than a lease lasts. So it is not the loop that follows the
kernel which renews the lease, but it says how it gets on: a mirror that may be wrong, or that has
been stuck for long, loses it. After a pause of the whole process (SIGSTOP, swapping, a suspended
machine) the lease is not renewed before the loop has followed everything again. The thread also
watches how far the loop is behind: see `backlog`.
"""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable
from typing import Protocol, Self

from ..dataplane.plane import Dataplane
from ..errors import XdpecmpError
from ..program.clock import HZ, Clock
from .backlog import LOOK_SECONDS, Backlog, boottime

log = logging.getLogger("xdpecmp.agent")

LEASE_SECONDS = 3
"""So long the data path goes on without its agent; then it passes everything to Linux."""
RENEW_SECONDS = 1.0
STUCK_SECONDS = 10.0
"""Who has not said for so long that he gets on is taken to be stuck, and the lease runs out."""
PAUSE_SECONDS = 2.0
"""When the thread did not run for so long, a lease may have run out meanwhile."""
LATE_SECONDS = 0.03
"""So much later than asked for the thread may be woken on a busy machine."""


class Deadlines(Protocol):
    """Where a lease is kept. Any thread may use it."""

    def lease_deadline(self) -> int:
        """When a lease ends that begins now."""

    def set_lease(self, deadline: int) -> None:
        """Have it last until then."""


class StoredLease:
    """The lease in the data path, and whether that is behind. Any thread may use it."""

    def __init__(self, dataplane: Dataplane, clock: Clock) -> None:
        """`clock`: that of the data path."""
        self._dataplane, self._clock = dataplane, clock

    def renew(self) -> None:
        """Let the data path work for LEASE_SECONDS from now."""
        self.set_lease(self.lease_deadline())

    def lease_deadline(self) -> int:
        """When a lease of LEASE_SECONDS ends that begins now, in jiffies."""
        return self._clock.jiffies() + LEASE_SECONDS * HZ

    def set_lease(self, deadline: int) -> None:
        """Let the data path work until then."""
        self._dataplane.set_lease(deadline)

    def fall_behind(self, seconds: float) -> None:
        """Pass everything to Linux: the data path knows what happened up to so long ago."""
        self._dataplane.fall_behind(max(1, self._clock.jiffies() - int(seconds * HZ)))

    def catch_up(self) -> None:
        """The data path says what the kernel says."""
        self._dataplane.catch_up()


class Lease:
    """Renewed for the length of a `with` block, which must not last over a fork: threads don't."""

    def __init__(
        self,
        deadlines: Deadlines,
        backlog: Backlog,
        events: int,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`events`: a descriptor that is readable while events wait to be read."""
        self._deadlines, self._backlog, self._clock = deadlines, backlog, clock
        self._granted = False
        self.interrupted = False
        """There was a pause; nothing is granted until the loop calls `resume`."""
        self._progress = self._ran = clock()
        self._due = -1.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._events = select.poll()
        self._events.register(events, select.POLLIN)
        self._wake = select.poll()
        for descriptor in (events, backlog.fileno()):
            self._wake.register(descriptor, select.POLLIN)

    def __enter__(self) -> Self:
        self._ended.clear()
        self._ran = self._clock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._backlog.reading()  # wakes the thread
        if self._thread is not None:
            self._thread.join()

    # --- the loop ---------------------------------------------------------------------------------

    def grant(self) -> None:
        """The mirror is right."""
        self.progress()
        if not self.interrupted:
            self._granted = True

    def progress(self) -> None:
        """Whatever is being done gets on."""
        self._progress = self._clock()

    def withhold(self) -> None:
        """The mirror may be wrong."""
        self._granted = False

    def resume(self) -> None:
        """All that may have happened during the pause is read and followed next."""
        self.interrupted = False

    # --- the thread -------------------------------------------------------------------------------

    def turn(self) -> None:
        """Look after the lag, and renew the lease if that is due and may be."""
        # first the clock, then the check: a pause after it is not added to the lease
        now = self._clock()
        deadline = self._deadlines.lease_deadline() if now >= self._due else None
        if now - self._ran > PAUSE_SECONDS:
            log.warning(
                "paused for %.1f s: all passes to Linux until it is followed", now - self._ran
            )
            self._granted, self.interrupted = False, True
            self._backlog.lose(now)
        self._ran = now
        self._backlog.look(lambda: bool(self._events.poll(0)))
        if deadline is not None and self._granted and now - self._progress < STUCK_SECONDS:
            self._deadlines.set_lease(deadline)
            self._due = now + RENEW_SECONDS

    def _keep(self) -> None:
        while not self._ended.is_set():
            try:
                self.turn()
            except (XdpecmpError, OSError) as error:  # the next time it may do
                log.warning("cannot renew the lease: %s", error)
                self._due = self._clock() + RENEW_SECONDS
            self._wait()

    def _wait(self) -> None:
        if not self._backlog.sleep():
            self._ended.wait(LOOK_SECONDS)
            return
        begin = self._clock()
        left = max(LOOK_SECONDS, self._due - begin) if self._granted else RENEW_SECONDS
        self._wake.poll(left * 1000)
        self._backlog.woken(self._clock() - begin < left + LATE_SECONDS)
