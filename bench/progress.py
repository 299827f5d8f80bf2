"""What is being done and how far it is, on stderr.

Drawn only between two measurements, never by a thread beside them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import progress
from rich.console import Console

_REDRAW_SECONDS = 0.5


class Progress:
    """One line a task, gone at the end."""

    def __init__(self) -> None:
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
        )
        self._bars = progress.Progress(
            *columns, console=Console(stderr=True), transient=True, auto_refresh=False
        )
        self._drawn = 0.0

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def task(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        """A task of so many steps for a `with` block; gives what is to be called after each."""
        task = self._bars.add_task(text, total=total or None)
        self._bars.refresh()

        def advance() -> None:
            self._bars.advance(task)
            if time.monotonic() - self._drawn > _REDRAW_SECONDS:
                self._bars.refresh()
                self._drawn = time.monotonic()

        yield advance
        self._bars.refresh()
