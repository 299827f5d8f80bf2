"""Who gets which entry of a map, and when an entry may change hands."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from ..program import libbpf

K = TypeVar("K")


class CapacityError(Exception):
    """A map is full; what needed the place is passed to Linux instead."""


class Slots(Generic[K]):
    """Gives out the numbers of a map's entries, each to one key.

    A retired key gets its old number back if it returns; other keys may have that number only after
    a grace period.
    """

    def __init__(self, first: int, limit: int, at_once: int = 1) -> None:
        """`at_once`: so many have to be free before any changes hands, each time of which takes a
        grace period."""
        self.live: dict[K, int] = {}
        self._first = self.used = first
        """Numbers from here on were never given out."""
        self._limit, self._at_once = limit, at_once
        self._retired: dict[K, int] = {}
        self._reusable: list[int] = []

    def acquire(self, key: K) -> tuple[int, bool]:
        """The key's number, and whether it just got one that another key had before."""
        if key in self.live:
            return self.live[key], False
        recycled = False
        if key in self._retired:
            slot = self._retired.pop(key)
        elif self.used < self._limit:
            slot = self.used
            self.used += 1
        else:
            slot, recycled = self._recycle(), True
        self.live[key] = slot
        return slot, recycled

    def retire(self, key: K) -> int:
        """Nothing points to the key's entry any more."""
        slot = self._retired[key] = self.live.pop(key)
        return slot

    def adopt(self, key: K, slot: int) -> None:
        """Take over a number that an earlier agent gave out."""
        self.live[key] = slot
        self.used = max(self.used, slot + 1)

    def remember(self, key: K, slot: int) -> None:
        """The same for a number that an earlier agent retired: the key gets it back if it
        returns. Only after those were adopted that are in use."""
        self.used = max(self.used, slot + 1)
        if key not in self.live:
            self._retired[key] = slot

    def _recycle(self) -> int:
        if not self._reusable:
            # not found out by looking: whoever is short of numbers asks for each of its keys
            if self._limit - self._first - len(self.live) < self._at_once:
                raise CapacityError
            # the retired ones, and those that an earlier agent gave out and retired
            free = set(range(self._first, self.used)) - set(self.live.values())
            libbpf.wait_for_readers()
            self._reusable = sorted(free, reverse=True)
            self._retired.clear()
        return self._reusable.pop()


class Blocks:
    """Gives out runs of entries of a map (`paths`, `buckets`).

    Only what is in use is kept account of: entries that an earlier agent gave out, and no route
    leads to any more, are free.
    """

    def __init__(self, first: int, limit: int) -> None:
        self._space = (first, limit)
        self._taken: set[tuple[int, int]] = set()
        """First entry and number of entries of all runs that packets may look at."""
        self._retired: list[tuple[int, int]] = []
        self._gaps: list[tuple[int, int]] | None = None
        """A heap of what is free: size below zero, so that the largest comes first, and start.
        None: it has to be found out."""

    def acquire(self, count: int) -> int:
        """The first of `count` entries."""
        gaps = self._gaps = self._find_gaps() if self._gaps is None else self._gaps
        if _largest(gaps) < count and self._retired:
            libbpf.wait_for_readers()
            self._taken.difference_update(self._retired)
            self._retired.clear()
            gaps = self._gaps = self._find_gaps()
        if _largest(gaps) < count:
            raise CapacityError
        size, first = heapq.heappop(gaps)
        if -size > count:
            heapq.heappush(gaps, (size + count, first + count))
        self._taken.add((first, count))
        return first

    def retire(self, first: int, count: int) -> None:
        """Nothing points to these entries any more."""
        self._retired.append((first, count))

    def adopt(self, first: int, count: int) -> None:
        """Keep off entries that an earlier agent gave out."""
        self._taken.add((first, count))
        self._gaps = None

    def _find_gaps(self) -> list[tuple[int, int]]:
        start, limit = self._space
        gaps = []
        for first, count in [*sorted(self._taken), (limit, 0)]:
            end = min(first, limit)
            if end > start:
                gaps.append((start - end, start))
            start = max(start, first + count)
        heapq.heapify(gaps)
        return gaps


def _largest(gaps: list[tuple[int, int]]) -> int:
    return -gaps[0][0] if gaps else 0
