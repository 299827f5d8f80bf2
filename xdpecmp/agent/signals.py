"""Signals that end a command: what it has begun is undone, and nothing is left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as SIGINT does, so that what it has begun is undone. A
    SIGHUP that is ignored, as under nohup(1), stays so."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    defaults = [n for n in ENDING if signal.getsignal(n) == signal.SIG_DFL]
    for number in defaults:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in defaults:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What would end the command waits until this is through: a switch is never left half done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
