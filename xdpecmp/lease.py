"""The lease: for how long the data path may go on by itself, kept by a thread of its own.

Reading a million routes takes longer than a lease lasts. So it is not the loop that follows the
kernel which renews the lease, but it says how it gets on: a mirror that may be wrong, or that has
been stuck for long, loses it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

from .errors import XdpecmpError

log = logging.getLogger("xdpecmp.agent")

RENEW_SECONDS = 1.0
STUCK_SECONDS = 10.0
"""Who has not said for so long that he gets on is taken to be stuck, and the lease runs out."""


class Lease:
    """Renewed for the length of a `with` block, which must not last over a fork: threads don't."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._granted = False
        self._progress = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._ended.clear()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def grant(self) -> None:
        """The mirror is right."""
        self.progress()
        self._granted = True

    def progress(self) -> None:
        """Whatever is being done gets on."""
        self._progress = time.monotonic()

    def withhold(self) -> None:
        """The mirror may be wrong."""
        self._granted = False

    def turn(self) -> None:
        """Renew it, if that may be."""
        if self._granted and time.monotonic() - self._progress < STUCK_SECONDS:
            self._renew()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.turn()
            except (XdpecmpError, OSError) as error:  # the next time it may do
                log.warning("cannot renew the lease: %s", error)
