"""The backlog: how long ago the kernel changed something that the data path does not know yet.

Netlink puts no time on its events. But everything that happened before a moment at which the socket
was empty, and all that had been read from it was followed, is in the data path. The time since the
last such moment is the lag. When it exceeds a limit everything passes to Linux until the agent has
caught up, rather than going to next hops that the kernel has already withdrawn.

The loop says what it reads and what it has followed. It may itself be busy for long with a single
step, so the limit is watched by the lease's thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

BEHIND_SECONDS = 0.08
"""The limit. Together with a look every `LOOK_SECONDS` it keeps what is old below 100 ms."""

LOOK_SECONDS = 0.01
"""How often the lag is looked at while there is one."""


def boottime() -> float:
    """Seconds, those that the machine was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Backlog:
    """Says whether the data path is behind. For two threads: the loop and whoever watches it."""

    def __init__(
        self,
        fall_behind: Callable[[float], None],
        catch_up: Callable[[], None],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`fall_behind(seconds)` has everything pass to Linux, by one store, and is told the lag;
        `catch_up` ends that."""
        self._fall_behind, self._catch_up, self._clock = fall_behind, catch_up, clock
        self._lock = threading.Lock()
        self._as_of = clock()
        """What had happened by then is in the data path."""
        self._unfollowed = False
        """The loop may have read what it has not followed."""
        self._lost = False
        """Events were lost, or could not be followed."""
        self._lost_until = 0.0
        self._asleep = False
        """Whoever watches waits for events alone."""
        self.behind = False
        self._settled = False
        """Nothing waited to be read or followed at the last look."""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # --- the loop ---------------------------------------------------------------------------------

    def reading(self) -> float:
        """Events are about to be read. Returns the moment, for `followed`."""
        self._unfollowed = True
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._wake, 1)
        return self._clock()

    def followed(self, as_of: float) -> None:
        """All that had happened by that moment is in the data path, and all that was read."""
        with self._lock:
            self._as_of = max(self._as_of, as_of)
            self._unfollowed = False
            self._lost &= as_of < self._lost_until

    def lose(self, until: float = 0.0) -> None:
        """Something was missed: pass to Linux until all is followed that happened by then."""
        with self._lock:
            self._unfollowed = self._lost = True
            self._lost_until = max(self._lost_until, until)
            self._store(True)

    # --- who watches ------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when the loop reads events while the watcher sleeps: see `sleep`."""
        return self._wake

    def sleep(self) -> bool:
        """Whether the watcher may wait for an event, or for this to be readable, since there is
        nothing to be watched."""
        self._asleep = True  # before the check: who reads events after it will write
        if not self._settled or self._unfollowed or self.behind:
            self._asleep = False
        return self._asleep

    def woken(self, in_time: bool) -> None:
        """The wait is over. `in_time`: what ended it has just happened; otherwise the watcher was
        kept from running."""
        self._asleep = False
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if in_time:
            with self._lock:
                self._as_of = max(self._as_of, self._clock())

    def look(self, pending: Callable[[], bool]) -> None:
        """Pass to Linux if the lag exceeds the limit; forward again if the loop has caught up.
        `pending`: whether events wait to be read."""
        moment = self._clock()
        waits = pending()
        with self._lock:
            if not waits and not self._unfollowed:  # still: so nobody has read them meanwhile
                self._as_of = max(self._as_of, moment)
            self._store(self._lost or self._clock() - self._as_of > BEHIND_SECONDS)
            self._settled = not waits and not self._unfollowed

    def _store(self, behind: bool) -> None:
        if behind and not self.behind:
            self._fall_behind(max(0.0, self._clock() - self._as_of))
        elif self.behind and not behind:
            self._catch_up()
        self.behind = behind
