"""Tries all seeds of Linux's multipath hash, 32 bits, on one thing that Linux chose.

By a program that several processes have the kernel run (bpf/key_search.c). It takes about two
minutes of one core. Packets, and all who want the CPU, come between: see there. What it gives are
candidates, to be compared with other choices. From Linux 6.11 on; before, the key has 128 bits,
which nobody can search.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from errno import EINVAL
from typing import Any

from ..closing import Closing
from . import libbpf
from .build import Compilation, Variant, explained
from .image import Image
from .maps import Layout, MappedArray

SEEDS = 1 << 32
_MAP = "searches"
_TRIES = 1024
"""Seeds that one run tries: TRIES in key_search.c."""
_PLACES = 64
"""For candidates of one run: FOUND_MAX there."""
STEP = 1 << 18
"""Seeds that one call tries: 8 ms."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for: seeds with which the hash of a message lies in an interval."""

    words: tuple[int, int]
    """The fifth and the sixth 64-bit word of the message, which has 48 bytes; all else is zero."""
    low: int
    high: int


class Searcher(Closing):
    """The loaded program, for so many processes. Raises BuildFailed."""

    def __init__(self, processes: int) -> None:
        compilation = Compilation(Variant.KEY_SEARCH)
        try:
            with ExitStack() as undo:
                self._program, searches, layout = compilation.load_by(
                    lambda made: _load(made, processes)
                )
                undo.callback(os.close, self._program)
                undo.callback(os.close, searches)
                self._searches = MappedArray(searches, layout.value(_MAP))
                self._close = undo.pop_all().close
        finally:
            compilation.abandon()

    def step(self, process: int, question: Question, start: int) -> list[int]:
        """The candidates among the STEP seeds from `start` on. One call at a time for each
        `process`."""
        search = self._searches.entries[process]
        search.fifth, search.sixth = question.words
        search.low, search.width = question.low, question.high - question.low
        search.next = start
        found: list[int] = []
        number = ctypes.create_string_buffer(process.to_bytes(4, sys.byteorder), 4)
        for _ in range(STEP // _TRIES):
            search.count = 0
            if libbpf.run_syscall(self._program, number) != 0:
                raise OSError(EINVAL, "the search has no entry for this process")
            if search.count >= _PLACES:  # what comes after the last one overwrites the first
                raise OverflowError(f"{search.count} candidates: the question says too little")
            if search.count:
                found += search.found[: search.count]
        return found

    def reached(self, process: int) -> int:
        """Up to which seed that process is, whichever of them asks."""
        return int(self._searches.entries[process].next)


def _load(made: Image, processes: int) -> tuple[int, int, Layout]:
    """Descriptors of the program and its map, and how that is laid out."""
    (name,) = made.functions
    (spec,) = made.maps
    spec = replace(spec, max_entries=processes)
    with ExitStack() as undo, explained():
        searches = libbpf.create_map(
            spec.type, spec.name, spec.key_size, spec.value_size, spec.max_entries, spec.flags
        )
        undo.callback(os.close, searches)
        program = libbpf.load_syscall(name, made.code(name, [searches]))
        undo.pop_all()
    described: Mapping[str, tuple[Any, Any]] = {spec.name: (spec.key, spec.value)}
    return program, searches, Layout(dict(described))
