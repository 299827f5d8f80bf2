"""One way to print: data as a table for people or as JSON for programs, notes on stderr."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


def print_json(data: object) -> None:
    """Data on stdout, as one JSON document."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_line(text: str) -> None:
    """A line on stdout, at once. (click's echo turns a closed pipe into an exit status of 1.)"""
    print(text, flush=True)


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
    """A table of rows; `columns`: key → heading. Numbers go to the right."""
    from rich.table import Table  # not for commands that print none: it takes its time

    rows = list(rows)
    result = Table(box=None, pad_edge=False, header_style="bold")
    for key, heading in columns.items():
        numeric = bool(rows) and all(isinstance(row.get(key), int | float) for row in rows)
        result.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        result.add_row(*(_cell(row.get(key)) for key in columns))
    return result


def print_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """A table on stdout."""
    print_rich(table(rows, columns))


def print_rich(what: RenderableType) -> None:
    """Anything that rich can draw, on stdout; in a pipe as wide as it needs to be, so that nothing
    is cut, and by ourselves, since rich makes an exit status of 1 of a closed pipe."""
    from rich.console import Console

    if sys.stdout.isatty():
        console().print(what)
        return
    text = io.StringIO()
    Console(file=text, width=1000, soft_wrap=True).print(what)
    print(text.getvalue(), end="", flush=True)


def console() -> Console:
    """The terminal, for what is drawn live."""
    from rich.console import Console

    return Console(soft_wrap=True)


def note(text: str) -> None:
    """Something the user should know, on stderr."""
    print(f"note: {text}", file=sys.stderr)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
