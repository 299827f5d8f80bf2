"""The tables in front of the IPv4 trie: an address's first 16 or 24 bits index what the trie would
say, so that most packets cost one or two loads where a trie of a million routes costs dozens.

After DIR-24-8 (Gupta, Lin and McKeown, "Routing Lookups in Hardware at Memory Access Speeds",
1998), with a first level that stays in the processor's cache. The program reads `direct16`, where
that has 0 `direct24`, and where that has 0 too the trie (bpf/abi.h). So 0 is always right, and
every change is made in this order: the trie, `direct24`, `direct16`.

A *row* is what shares the first 16 bits, a *cell* what shares the first 24. A row that holds
prefixes longer than 16 is *detailed*: 0 in `direct16`. A cell that holds prefixes longer than 24 is
*deep*: 0 in `direct24`. What `direct24` has for other rows is old and not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .abi import Reason
from .model import Prefix

ROWS, CELLS = 1 << 16, 1 << 8
_ROWS_AT_ONCE = 1 << 10
_DEEP = 0x80
_NO_ROUTE = int(Reason.NO_ROUTE)
"""Entry of `groups` for what no prefix covers."""

Numbers = npt.NDArray[np.uint16]
"""Entries of `groups`, of which there are no more than that (CAPACITY["GROUPS_MAX"])."""
Covering = Callable[[Prefix], tuple[int, int] | None]
"""The longest prefix shorter than this one that covers it: its length and entry of `groups`."""


class Changed(NamedTuple):
    """What became of one IPv4 prefix: entries of `groups`, None = not in the table."""

    prefix: Prefix
    old: int | None
    new: int | None


class Direct4:
    """Keeps `direct16` and `direct24` saying what the trie says."""

    def __init__(self, direct16: Any, direct24: Any) -> None:
        """Writable buffers: the two maps, mapped into memory."""
        self._direct16: Numbers = np.frombuffer(direct16, np.uint16, ROWS)
        self._direct24: Numbers = np.frombuffer(direct24, np.uint16, ROWS * CELLS)
        self._clear()

    def _clear(self) -> None:
        # Of prefixes up to 16 bits: what they say for each row, and the longest one's length plus
        # one.
        self._group16: Numbers = np.full(ROWS, _NO_ROUTE, np.uint16)
        self._length16: npt.NDArray[np.uint8] = np.zeros(ROWS, np.uint8)
        self._details: npt.NDArray[np.int32] = np.zeros(ROWS, np.int32)
        # Likewise up to 24 bits for each cell of detailed rows, with _DEEP for deep ones. Zeros
        # that nobody writes take no memory.
        self._length24: npt.NDArray[np.uint8] = np.zeros(ROWS * CELLS, np.uint8)
        self._deep: Counter[int] = Counter()
        """Deep cells, and how many prefixes longer than 24 each holds."""

    # --- all at once ------------------------------------------------------------------------------

    def rebuild(
        self,
        addresses: npt.NDArray[np.uint32],
        lengths: npt.NDArray[np.uint8],
        numbers: npt.NDArray[np.uint32],
    ) -> None:
        """Say what a whole table says: its prefixes (addresses in host order) and their entries of
        `groups`."""
        self._clear()
        details = addresses[lengths > 16] >> 16
        self._details += np.bincount(details, minlength=ROWS).astype(np.int32)
        group24: Numbers = np.zeros(ROWS * CELLS, np.uint16)
        rows = np.flatnonzero(self._details)
        for length in range(25):
            if length == 17:
                group24.reshape(ROWS, CELLS)[rows] = self._group16[rows, None]
                self._length24.reshape(ROWS, CELLS)[rows] = self._length16[rows, None]
            chosen = lengths == length
            if not chosen.any():
                continue
            group, mark = (
                (self._group16, self._length16) if length <= 16 else (group24, self._length24)
            )
            index = addresses[chosen] >> (32 - length) if length else np.zeros(1, np.uint32)
            group.reshape(1 << length, -1)[index] = numbers[chosen, None]
            mark.reshape(1 << length, -1)[index] = length + 1
        deep, counts = np.unique(addresses[lengths > 24] >> 8, return_counts=True)
        self._deep.update(dict(zip(deep.tolist(), counts.tolist(), strict=True)))
        self._length24[deep] |= _DEEP
        group24[deep] = 0
        self._direct24.reshape(ROWS, CELLS)[rows] = group24.reshape(ROWS, CELLS)[rows]
        self._direct16[:] = np.where(self._details, 0, self._group16)

    # --- a few changes ----------------------------------------------------------------------------

    def apply(self, changes: Iterable[Changed], covering: Covering) -> None:
        """Follow changes that the trie has seen already. `covering` goes by the table as it is now,
        with all of them made."""
        for prefix, old, new in changes:
            address = int.from_bytes(prefix.address, "big")
            grown = (new is not None) - (old is not None)
            if prefix.length > 24:
                self._change_deep(address, grown, covering)
                continue
            length = prefix.length
            if new is None:
                length, new = covering(prefix) or (-1, _NO_ROUTE)
            if prefix.length > 16:
                self._change_detail(address, prefix.length, grown, length, new)
            else:
                self._change_rows(address, prefix.length, length, new)

    def _change_rows(self, address: int, span: int, length: int, number: int) -> None:
        """A prefix of `span` <= 16 bits is now `number`, by a prefix of that length: its own or,
        where it has gone, a shorter one."""
        rows = np.arange(1 << (16 - span)) + (address >> 16)
        rows = rows[self._length16[rows] <= span + 1]  # those that no longer prefix has
        self._length16[rows], self._group16[rows] = length + 1, number
        detailed = self._details[rows] > 0
        for start in range(0, ROWS if detailed.any() else 0, _ROWS_AT_ONCE):
            some = rows[detailed][start : start + _ROWS_AT_ONCE]
            marks, cells = self._length24.reshape(ROWS, CELLS), self._direct24.reshape(ROWS, CELLS)
            marks[some], cells[some] = _painted(marks[some], cells[some], span, length, number)
        self._direct16[rows[~detailed]] = number

    def _change_detail(self, address: int, span: int, grown: int, length: int, number: int) -> None:
        """Likewise for 17 to 24 bits; `grown`: by how many prefixes the table did."""
        row, first = address >> 16, address >> 8
        self._open(row)
        self._paint(first, first + (1 << (24 - span)), span, length, number)
        self._count(row, grown)

    def _change_deep(self, address: int, grown: int, covering: Covering) -> None:
        """A prefix of more than 24 bits came or went, or leads elsewhere, which the trie knows."""
        row, cell = address >> 16, address >> 8
        self._open(row)
        self._deep[cell] += grown
        if self._deep[cell]:
            self._length24[cell] |= _DEEP
            self._direct24[cell] = 0
        else:
            del self._deep[cell]
            self._length24[cell] &= ~np.uint8(_DEEP)
            found = covering(Prefix((cell << 8).to_bytes(4, "big"), 25))
            self._direct24[cell] = found[1] if found else _NO_ROUTE
        self._count(row, grown)

    def _paint(self, first: int, last: int, span: int, length: int, number: int) -> None:
        """Of a detailed row's cells, those that no prefix longer than `span` has."""
        where = slice(first, last)
        self._length24[where], self._direct24[where] = _painted(
            self._length24[where], self._direct24[where], span, length, number
        )

    def _open(self, row: int) -> None:
        """Have a row's cells ready, if nobody looks at them yet."""
        if not self._details[row]:
            cells = slice(row * CELLS, (row + 1) * CELLS)
            self._length24[cells] = self._length16[row]
            self._direct24[cells] = self._group16[row]

    def _count(self, row: int, grown: int) -> None:
        """The row has so many more prefixes longer than 16: send readers the right way."""
        self._details[row] += grown
        self._direct16[row] = 0 if self._details[row] else self._group16[row]


def _painted(
    marks: npt.NDArray[np.uint8], cells: Numbers, span: int, length: int, number: int
) -> tuple[npt.NDArray[np.uint8], Numbers]:
    """Cells and their marks with `number` where no prefix longer than `span` has them."""
    deep = marks & _DEEP
    free = (marks ^ deep) <= span + 1
    return (
        np.where(free, deep | np.uint8(length + 1), marks),
        np.where(free & (deep == 0), np.uint16(number), cells),
    )
