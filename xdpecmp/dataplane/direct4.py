"""The tables in front of the IPv4 trie: an address's first 16, 24 or all bits index what the trie
would say, so that a packet costs one to three loads where a trie of a million routes costs dozens.

DIR-24-8 (Gupta, Lin and McKeown, "Routing Lookups in Hardware at Memory Access Speeds", 1998), with
a first level that stays in the processor's cache. The program reads `direct16`; if that has 0
`direct24`; if that has BLOCK and a number, that block of `direct32`; and if it finds 0 at
last it asks the trie (bpf/abi.h). So 0 is always right, and every change is made in this order: the
trie, `direct32`, `direct24`, `direct16`.

A *row* is what shares the first 16 bits, a *cell* what shares the first 24. A row that holds
prefixes longer than 16 is *detailed*: 0 in `direct16`. A cell that holds prefixes longer than 24 is
*deep*: it has a block or, if there were no more of these, 0 in `direct24`. What `direct24` has
for other rows is old and not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..model.packed import Keys, as_bytes
from ..model.values import Prefix
from ..program import libbpf
from ..program.abi import DIRECT_BLOCK as BLOCK
from ..program.abi import Reason
from ..program.maps import DIRECT, Maps
from .lookup import Changed, Covering
from .slots import CapacityError, Slots

ROWS, CELLS, HOSTS = 1 << 16, 1 << 8, 1 << 8
_ROWS_AT_ONCE = 1 << 10
_DEEP = 0x80
_NO_ROUTE = int(Reason.NO_ROUTE)
"""Entry of `groups` for what no prefix covers."""

Numbers = npt.NDArray[np.uint16]
"""Entries of `groups`, of which there are no more than that (CAPACITY["GROUPS_MAX"])."""
Marks = npt.NDArray[np.uint8]
"""Lengths of prefixes plus one, so that 0 is none."""


class _Says(NamedTuple):
    """What goes now for addresses of a changed prefix that no longer one has."""

    span: int
    """The prefix's own length."""
    length: int
    """Of the prefix that it goes by: its own or, if it has gone, a shorter one's; -1: none."""
    number: int


class Direct4:
    """Keeps `direct16`, `direct24` and `direct32` saying what the trie says: a LookupStructure."""

    family = 4
    most_changes = 4096

    def __init__(self, direct16: Any, direct24: Any, direct32: Any) -> None:
        """Writable buffers: the three maps, mapped into memory. What they have is taken over."""
        self._direct16: Numbers = np.frombuffer(direct16, np.uint16, ROWS)
        self._direct24: Numbers = np.frombuffer(direct24, np.uint16, ROWS * CELLS)
        self._direct32: Numbers = np.frombuffer(direct32, np.uint16).reshape(-1, HOSTS)
        blocks = len(self._direct32)
        self._blocks: Slots[int] = Slots(0, blocks, at_once=max(1, blocks // 128))
        """Of deep cells."""
        self._adopt()
        self._clear()

    @classmethod
    def over(cls, maps: Maps) -> Self:
        """Those of an instance."""
        return cls(*(maps.memory(name) for name in DIRECT))

    def _adopt(self) -> None:
        """Blocks that an earlier agent gave out are in use until their cells lead elsewhere."""
        if not self._direct32[0].any():  # the one that is given out first
            return
        libbpf.wait_for_readers()  # of what it let go of last: that counts as free now
        detailed = np.flatnonzero(self._direct16 == 0)
        for start in range(0, len(detailed), _ROWS_AT_ONCE):
            rows = detailed[start : start + _ROWS_AT_ONCE]
            entries = self._direct24.reshape(ROWS, CELLS)[rows]
            places, columns = np.nonzero(entries & BLOCK)
            cells, blocks = rows[places] << 8 | columns, entries[places, columns] ^ BLOCK
            for cell, block in zip(cells.tolist(), blocks.tolist(), strict=True):
                self._blocks.adopt(cell, block)

    def _clear(self) -> None:
        # Of prefixes up to 16 bits: what they say for each row, and the longest one's length plus
        # one.
        self._group16: Numbers = np.full(ROWS, _NO_ROUTE, np.uint16)
        self._length16: Marks = np.zeros(ROWS, np.uint8)
        self._details: npt.NDArray[np.int32] = np.zeros(ROWS, np.int32)
        # Likewise up to 24 bits for each cell of detailed rows, with _DEEP for deep ones, and up to
        # 32 bits for each address of deep cells' blocks. Unwritten zeros take no memory.
        self._length24: Marks = np.zeros(ROWS * CELLS, np.uint8)
        self._length32: Marks = np.zeros(self._direct32.shape, np.uint8)
        self._deep: Counter[int] = Counter()
        """Deep cells, and how many prefixes longer than 24 each holds."""

    # --- all at once ------------------------------------------------------------------------------

    def rebuild(self, keys: Keys, numbers: npt.NDArray[np.uint32]) -> None:
        """See LookupStructure."""
        packed = as_bytes(keys)
        addresses = np.ascontiguousarray(packed[:, :4]).view(">u4").reshape(-1).astype(np.uint32)
        lengths = packed[:, 4]
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
        deep = lengths > 24
        self._rebuild_blocks(addresses[deep], lengths[deep], numbers[deep], group24)
        self._direct24.reshape(ROWS, CELLS)[rows] = group24.reshape(ROWS, CELLS)[rows]
        self._direct16[:] = np.where(self._details, 0, self._group16)

    def _rebuild_blocks(
        self,
        addresses: npt.NDArray[np.uint32],
        lengths: Marks,
        numbers: npt.NDArray[np.uint32],
        group24: Numbers,
    ) -> None:
        """The same for prefixes of more than 24 bits. `group24`: what shorter ones say for each
        cell; deep ones lead to their blocks then."""
        cells, place, counts = np.unique(addresses >> 8, return_inverse=True, return_counts=True)
        self._deep.update(dict(zip(cells.tolist(), counts.tolist(), strict=True)))
        for cell in self._blocks.live.keys() - self._deep.keys():
            self._direct24[cell] = group24[cell]
            self._blocks.retire(cell)
        entries = np.array([self._entry(cell) for cell in cells.tolist()], np.uint16)
        held = entries > 0
        # only these take memory: there may be a million cells
        group: Numbers = np.repeat(group24[cells[held], None], HOSTS, axis=1)
        mark: Marks = np.repeat(self._length24[cells[held], None], HOSTS, axis=1)
        place = place.reshape(-1)
        hosts = (np.cumsum(held) - 1)[place] * HOSTS + (addresses & 0xFF)
        inside = held[place]
        for length in range(25, 33):
            chosen = inside & (lengths == length)
            index = hosts[chosen] >> (32 - length)
            group.reshape(-1, 1 << (32 - length))[index] = numbers[chosen, None]
            mark.reshape(-1, 1 << (32 - length))[index] = length + 1
        blocks = entries[held] ^ BLOCK
        self._direct32[blocks], self._length32[blocks] = group, mark
        self._length24[cells] |= _DEEP
        group24[cells] = entries

    def _entry(self, cell: int) -> int:
        """What `direct24` has for a deep cell; 0: no block is left."""
        try:
            return BLOCK | self._blocks.acquire(cell)[0]
        except CapacityError:
            return 0

    # --- a few changes ----------------------------------------------------------------------------

    def change(self, changes: Iterable[Changed], covering: Covering) -> None:
        """See LookupStructure."""
        for prefix, old, new in changes:
            address = int.from_bytes(prefix.address, "big")
            grown = (new is not None) - (old is not None)
            length = prefix.length
            if new is None:
                length, new = covering(prefix) or (-1, _NO_ROUTE)
            says = _Says(prefix.length, length, new)
            if prefix.length > 24:
                self._change_deep(address, grown, says, covering)
            elif prefix.length > 16:
                self._change_detail(address, grown, says)
            else:
                self._change_rows(address, says)

    def _change_rows(self, address: int, says: _Says) -> None:
        """A prefix of up to 16 bits."""
        rows = np.arange(1 << (16 - says.span)) + (address >> 16)
        rows = rows[self._length16[rows] <= says.span + 1]  # those that no longer prefix has
        self._length16[rows], self._group16[rows] = says.length + 1, says.number
        detailed = self._details[rows] > 0
        marks, cells = self._length24.reshape(ROWS, CELLS), self._direct24.reshape(ROWS, CELLS)
        for start in range(0, ROWS if detailed.any() else 0, _ROWS_AT_ONCE):
            self._paint_cells(marks, cells, rows[detailed][start : start + _ROWS_AT_ONCE], says)
        self._direct16[rows[~detailed]] = says.number

    def _change_detail(self, address: int, grown: int, says: _Says) -> None:
        """Of 17 to 24 bits; `grown`: by how many prefixes the table did."""
        row, first = address >> 16, address >> 8
        self._open(row)
        if says.span < 24 or self._length24[first] & _DEEP:
            some = slice(first, first + (1 << (24 - says.span)))
            self._paint_cells(self._length24, self._direct24, some, says)
        else:  # the most common of all: nothing longer is in that cell
            self._length24[first], self._direct24[first] = says.length + 1, says.number
        self._count(row, grown)

    def _change_deep(self, address: int, grown: int, says: _Says, covering: Covering) -> None:
        """Of more than 24 bits."""
        row, cell, host = address >> 16, address >> 8, address & 0xFF
        self._open(row)
        if not self._deep[cell]:
            self._open_block(cell, covering)
        self._deep[cell] += grown
        block = self._blocks.live.get(cell)
        if block is not None:
            some = slice(host, host + (1 << (32 - says.span)))
            self._paint(self._length32[block], self._direct32[block], some, says)
        if self._deep[cell]:
            self._length24[cell] |= _DEEP
            self._direct24[cell] = 0 if block is None else BLOCK | block
        else:
            del self._deep[cell]
            self._length24[cell] &= ~np.uint8(_DEEP)
            self._direct24[cell] = self._shorter(cell, covering)[1]
            if block is not None:
                self._blocks.retire(cell)
        self._count(row, grown)

    def _open_block(self, cell: int, covering: Covering) -> None:
        """Have a block ready that says what the cell did, if there is one left."""
        entry = self._entry(cell)
        if entry:
            length, number = self._shorter(cell, covering)
            self._length32[entry ^ BLOCK], self._direct32[entry ^ BLOCK] = length + 1, number

    def _shorter(self, cell: int, covering: Covering) -> tuple[int, int]:
        """What prefixes up to 24 bits say for a cell: length and entry of `groups`."""
        return covering(Prefix((cell << 8).to_bytes(4, "big"), 25)) or (-1, _NO_ROUTE)

    def _paint_cells(self, marks: Marks, cells: Numbers, some: Any, says: _Says) -> None:
        """Cells, and what they say in deep ones' blocks. `marks` and `cells`: _length24 and
        _direct24, flat or by rows; `some`: an index into both."""
        entries = cells[some]
        blocks = entries[(marks[some] & _DEEP > 0) & (entries & BLOCK > 0)] ^ BLOCK
        self._paint(self._length32, self._direct32, blocks, says)
        self._paint(marks, cells, some, says)

    @staticmethod
    def _paint(marks: Marks, numbers: Numbers, some: Any, says: _Says) -> None:
        """Of these entries those that are not deep, and that no prefix longer than the one that
        changed has."""
        old = marks[some]
        deep = old & _DEEP
        free = (old ^ deep) <= says.span + 1
        marks[some] = np.where(free, deep | np.uint8(says.length + 1), old)
        numbers[some] = np.where(free & (deep == 0), np.uint16(says.number), numbers[some])

    def _open(self, row: int) -> None:
        """Have a row's cells ready, if no packet looks at them yet."""
        if not self._details[row]:
            cells = slice(row * CELLS, (row + 1) * CELLS)
            self._length24[cells] = self._length16[row]
            self._direct24[cells] = self._group16[row]

    def _count(self, row: int, grown: int) -> None:
        """The row has so many more prefixes longer than 16: send readers the right way."""
        self._details[row] += grown
        self._direct16[row] = 0 if self._details[row] else self._group16[row]
