"""Rows as lines of text: a table for people, as wide as the terminal, or as wide as it needs to be.

Rows may come by the hundred thousand, so the first lines are there before the last row is: widths
come from the first LOOK_AHEAD rows. If a terminal is too narrow, the columns that matter least
are left out, then a long first cell gets a line to itself or a column of text is folded within
itself, and at last each row takes several lines. A cell is never cut.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

LOOK_AHEAD = 512
COUNTS = frozenset(
    {"packets", "bytes", "rate", "agree", "differ", "lost", "xdp_drops", "tx_dropped", "tx_errors"}
)
"""Keys of numbers that count something: only these get thousands separators. Ids do not."""

_GAP = "  "
_INDENT = "    "
_NARROWEST_FOLD = 24
_NARROWEST_LEAD = 16


@dataclass(frozen=True, slots=True)
class Columns:
    """What a table shows."""

    headings: Mapping[str, str]
    """Key of the rows → heading, from left to right."""
    optional: Sequence[str] = ()
    """Keys that a narrow terminal does without, the least important first. No numbers."""
    folds: str = ""
    """Key of the last column, if that is a text that may take several lines."""
    lead: bool = False
    """Whether the first cell, if it is long, may have a line to itself."""


def lines(
    rows: Iterable[Mapping[str, Any]], columns: Columns, width: int | None = None
) -> Iterator[str]:
    """The heading and a line or more for each row; `width` in characters, None: no limit."""
    rows = iter(rows)
    first = list(islice(rows, LOOK_AHEAD))
    keys = list(columns.headings)
    widths = {
        key: max(len(columns.headings[key]), *(len(cell(key, row.get(key))) for row in first), 0)
        for key in keys
    }
    for key in columns.optional:
        if width is None or _fits(keys, widths, columns.folds, width):
            break
        keys.remove(key)
    folded = None
    if columns.folds in keys and width is not None and _total(keys, widths) > width:
        folded = width - _total([key for key in keys if key != columns.folds], widths) - len(_GAP)
        if folded < _NARROWEST_FOLD:
            folded = None
    if columns.lead and width is not None and _total(keys, widths) > width:
        left = width - _total(keys[1:], widths) - len(_GAP)
        if left >= _NARROWEST_LEAD:
            widths[keys[0]] = left
    layout = [keys] if folded else _split(keys, widths, width)
    own_line = columns.lead and width is not None and len(layout) == 1
    right = {key for key in keys if _are_numbers([row.get(key) for row in first])}
    yield from _row({k: columns.headings[k] for k in keys}, layout, widths, right)
    for row in chain(first, rows):
        cells = {key: cell(key, row.get(key)) for key in keys}
        if own_line and len(cells[keys[0]]) > widths[keys[0]]:
            yield cells[keys[0]]
            cells[keys[0]] = ""
        if not folded:
            yield from _row(cells, layout, widths, right)
            continue
        parts = textwrap.wrap(cells[columns.folds], folded) or [""]
        for i, part in enumerate(parts):
            shown = cells if not i else dict.fromkeys(keys, "")
            yield from _row(shown | {columns.folds: part}, layout, widths, right)


def cell(key: str, value: object) -> str:
    """One value as people read it."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and key in COUNTS else str(value)


def _are_numbers(values: Sequence[object]) -> bool:
    """Whether all are, those apart that are blank."""
    told = [value for value in values if value not in ("", None)]
    return bool(told) and all(isinstance(value, int | float) for value in told)


def _total(keys: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[key] for key in keys) + len(_GAP) * (len(keys) - 1)


def _fits(keys: Sequence[str], widths: Mapping[str, int], folds: str, width: int) -> bool:
    least = {**widths, folds: min(widths.get(folds, 0), _NARROWEST_FOLD)}
    return _total(keys, least) <= width


def _split(keys: Sequence[str], widths: Mapping[str, int], width: int | None) -> list[list[str]]:
    """Which columns share a line."""
    result: list[list[str]] = [[]]
    for key in keys:
        indent = len(_INDENT) if len(result) > 1 else 0
        if result[-1] and width and indent + _total([*result[-1], key], widths) > width:
            result.append([])
        result[-1].append(key)
    return result


def _row(
    cells: Mapping[str, str],
    layout: Sequence[Sequence[str]],
    widths: Mapping[str, int],
    right: frozenset[str] | set[str],
) -> Iterator[str]:
    for i, keys in enumerate(layout):
        padded = (
            cells[key].rjust(widths[key]) if key in right else cells[key].ljust(widths[key])
            for key in keys
        )
        line = ((_INDENT if i else "") + _GAP.join(padded)).rstrip()
        if line or len(layout) == 1:
            yield line
