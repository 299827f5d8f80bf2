"""The agent's log: bounded, and legible while an error lasts.

A message that comes again is written at growing intervals only, with how often it came meanwhile.
The file keeps what earlier agents wrote, since that says why they ended; at its limit it becomes
FILE.1 and a new one begins. If nothing can be written the agent goes on without.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from .. import places

LIMIT = 256 << 10
"""Bytes of one file; there are at most two."""

FIRST_SECONDS, LONGEST_SECONDS = 10.0, 3600.0
_KNOWN = 64


class Repetitions(logging.Filter):
    """Lets a message through when it is new, and then after 10, 20, 40 ... seconds; an hour at
    most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._known: dict[str, tuple[float, float, int]] = {}
        """By message: not before then, the interval after that, and how many were left out."""

    def filter(self, record: logging.LogRecord) -> bool:
        now, text = self._clock(), record.getMessage()
        due, interval, count = self._known.pop(text, (now, FIRST_SECONDS, 0))
        if now - due > LONGEST_SECONDS:  # long ago: it is news again
            interval = FIRST_SECONDS
        if now < due:
            self._known[text] = due, interval, count + 1
            return False
        if count:
            record.msg, record.args = f"{text} ({count} more since)", None
        self._known[text] = now + interval, min(2 * interval, LONGEST_SECONDS), 0
        while len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        return True


class BoundedFile(logging.Handler):
    """Writes to a file that is standard output and error too, for what Python or a library says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._open()

    def _open(self) -> None:
        try:
            fd = places.open_file(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except (OSError, places.Untrusted):  # full, say
            fd = os.open(os.devnull, os.O_WRONLY)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if os.fstat(2).st_size > LIMIT:
                os.rename(self._path, self._path.with_name(f"{self._path.name}.1"))
                self._open()
            os.write(2, f"{self.format(record)}\n".encode(errors="replace"))
        except OSError:
            pass  # what only records must stop nothing


def to_file(path: Path) -> None:
    """Have this process log to that file."""
    _configure(BoundedFile(path))


def to_stderr() -> None:
    """Have this process log to where a service manager listens."""
    _configure(logging.StreamHandler())


def _configure(handler: logging.Handler) -> None:
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.addFilter(Repetitions())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.raiseExceptions = False
