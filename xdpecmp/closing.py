"""What holds files open until it is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self


class Closing:
    """Base of such classes: `with` closes them at its end. What they opened goes into an ExitStack
    in `__init__`, so that nothing stays open if that fails; `_close` is what the stack becomes."""

    _close: Callable[[], object]

    def close(self) -> None:
        """Close all of it. May be called again."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
