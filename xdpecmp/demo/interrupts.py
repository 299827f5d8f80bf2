"""Ctrl-C that can never leave half of a demo behind.

Python's own handler raises KeyboardInterrupt anywhere, also between making a namespace and noting
that it has to be removed. Here a signal is only *recorded* by default; it raises SystemExit (with
the shell's status, 128 + signal) solely inside an `allowed()` block. Building and cleaning up run
outside of one, the traffic inside.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from .commands import SIGNALS


class Interrupts:
    """Says whether, and lets the main thread be stopped where, one of the signals came."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._raises = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Own the signals for a `with` block; one that came too late to raise counts at its end."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self._check()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """A block that a signal ends at once, or keeps from beginning if it came before."""
        self._raises = True
        try:
            self._check()
            yield
        finally:
            self._raises = False

    def wait(self) -> None:
        """Until a signal comes, which is then done with."""
        with contextlib.suppress(SystemExit), self.allowed():
            while True:
                signal.pause()
        self._received = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        if self._raises:
            self._raises = False  # a second, impatient Ctrl-C must not hit the cleaning up
            self._check()

    def _check(self) -> None:
        if self._received is not None:
            raise SystemExit(128 + self._received)
