"""The maps `routes4` and `routes6`: what they hold, and bringing them to what is wanted, with the
look-up structures in front of them.

What they hold is kept as numbers for the very prefixes and meanings that `compile` works with. So
if a meaning changes (a group gets another entry, a next hop dies for good) it is compared once
for all prefixes that share it, and if none did nothing is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..model.packed import (
    FAMILIES,
    Keys,
    Layered,
    Numbers,
    Packed,
    as_bytes,
    as_keys,
    pack,
    position_of,
    prefixes_in,
)
from ..model.prefixes import masked
from ..model.values import Prefix
from ..program import libbpf
from ..program.maps import Maps
from .direct4 import Direct4
from .lookup import Changed, LookupStructure

IN_FRONT: tuple[Callable[[Maps], LookupStructure], ...] = (Direct4.over,)
"""What makes each look-up structure."""

T = TypeVar("T")
_ABSENT = 0xFFFFFFFF
_BATCH = 4096


class Tries(Generic[T]):
    """The routes in the data path: prefix → entry of `groups`."""

    def __init__(self, maps: Maps) -> None:
        """Takes over what an earlier agent left in the maps."""
        self._control = maps["control"].entries[0]
        self._fds = {family: maps.fds[f"routes{family}"] for family in FAMILIES}
        self._in_front = [make(maps) for make in IN_FRONT]
        self.held: Layered[int] = self._read()
        self._rebuild()
        self._count_epoch6()
        self._sure = True
        """Whether `held` is what the maps hold."""

    def sync(self, wanted: Layered[T], number: Callable[[T], int]) -> None:
        """Make the maps say what is wanted; `number`: the entry for what a prefix means."""
        old, new = self._begin(), _numbered(wanted, number)
        self.held = new
        for family in FAMILIES:
            if old.base is new.base:
                rows = _differences(family, old, new)
            else:
                rows = _all_differences(_flat(family, old), _flat(family, new))
            self._write(family, *rows)
            self._follow(family, rows, old)
        self._sure = True

    def change(self, routes: Mapping[Prefix, T | None], number: Callable[[T], int]) -> None:
        """Make the maps say something else of these prefixes; None: no longer anything."""
        held = self._begin()
        changes = {p: None if v is None else number(v) for p, v in routes.items()}
        before = {p: held.lookup(p) for p in changes}
        moved = {p: n for p, n in changes.items() if before[p] != n}
        held.changes.update(moved)
        for family in FAMILIES:
            self._write(family, *_rows(family, moved))
        for structure in self._in_front:
            mine = (
                Changed(p, before[p], n) for p, n in moved.items() if p.family == structure.family
            )
            structure.change(mine, self._covering)
        self._sure = True

    def _begin(self) -> Layered[int]:
        """What the maps hold; unsure from now until all is written."""
        if not self._sure:
            self.held = self._read()
            self._rebuild()
        self._sure = False
        return self.held

    def _write(self, family: int, keys: Keys, numbers: Numbers, gone: Keys) -> None:
        """Every change of a trie goes through here: first what comes or changes, then what goes.
        `held` says already what comes of it; if the kernel refuses, it is read again."""
        if not len(keys) and not len(gone):
            return
        fd = self._fds[family]
        try:
            for start in range(0, len(keys), _BATCH):
                batch = slice(start, start + _BATCH)
                raw, values = _trie_keys(keys[batch]), numbers[batch].astype("<u4").tobytes()
                libbpf.map_update_batch(fd, raw, values, len(numbers[batch]))
            raw, size = _trie_keys(gone), gone.itemsize + 3
            for start in range(0, len(raw), size):
                libbpf.map_delete(fd, raw[start : start + size])
        finally:
            if family == 6:
                self._count_epoch6()

    def _count_epoch6(self) -> None:
        """What packets have found in the IPv6 trie no longer counts."""
        self._control.epoch6 = self._control.epoch6 % 0xFFFFFFFF + 1

    def _follow(self, family: int, rows: _Rows, old: Layered[int]) -> None:
        """What is in front of a trie, after these changes of it."""
        changed, _, gone = rows
        for structure in self._in_front:
            if structure.family != family:
                continue
            if len(changed) + len(gone) > structure.most_changes:
                structure.rebuild(*_flat(family, self.held))
                continue
            prefixes = [*prefixes_in(changed), *prefixes_in(gone)]
            structure.change(
                (Changed(p, old.lookup(p), self.held.lookup(p)) for p in prefixes), self._covering
            )

    def _covering(self, prefix: Prefix) -> tuple[int, int] | None:
        for length in range(prefix.length - 1, -1, -1):
            found = self.held.lookup(Prefix(masked(prefix.address, length), length))
            if found is not None:
                return length, found
        return None

    def _rebuild(self) -> None:
        for structure in self._in_front:
            structure.rebuild(*_flat(structure.family, self.held))

    def _read(self) -> Layered[int]:
        """What the maps hold, read from them."""
        keys, numbers = {}, {}
        known: dict[int, int] = {}
        for family, fd in self._fds.items():
            raw, values = zip(*((k, v) for k, v, _ in libbpf.map_batches(fd)), strict=True)
            rows = _packed(family, b"".join(raw))
            order = np.argsort(rows, kind="stable")
            found, inverse = np.unique(np.frombuffer(b"".join(values), "<u4"), return_inverse=True)
            places = [known.setdefault(number, len(known)) for number in found.tolist()]
            keys[family] = rows[order]
            numbers[family] = np.array(places, np.uint32)[inverse.reshape(-1)[order]]
        return Layered(Packed(keys, numbers), list(known))


def _numbered(wanted: Layered[T], number: Callable[[T], int]) -> Layered[int]:
    numbers: dict[T, int] = {}

    def of(value: T | None) -> int | None:
        if value is None:
            return None
        if value not in numbers:
            numbers[value] = number(value)
        return numbers[value]

    changes = {prefix: of(value) for prefix, value in wanted.changes.items()}
    return Layered(wanted.base, list(map(of, wanted.meanings)), changes)


# --- differences ---------------------------------------------------------------------------------

_Rows = tuple[Keys, Numbers, Keys]
"""Prefixes to store with their numbers, and prefixes to delete."""


def _differences(family: int, old: Layered[int], new: Layered[int]) -> _Rows:
    """Between two over the same base."""
    numbers, keys = new.base.numbers[family], new.base.keys[family]
    used = min(len(old.meanings), len(new.meanings))
    before, after = _as_array(old.meanings[:used]), _as_array(new.meanings[:used])
    differs = (before != after)[numbers] if len(numbers) else np.zeros(0, np.bool_)
    changes: dict[Prefix, int | None] = {}
    if old.changes or new.changes:
        for prefix in old.changes.keys() | new.changes.keys():
            if prefix.family != family:
                continue
            position = position_of(keys, pack(prefix)) if differs.any() else None
            if position is not None:
                differs[position] = False
            number = new.lookup(prefix)
            if old.lookup(prefix) != number:
                changes[prefix] = number
    chosen = np.flatnonzero(differs)
    values = after[numbers[chosen]]
    there = values != _ABSENT
    few = _rows(family, changes)
    return (
        np.concatenate([keys[chosen[there]], few[0]]),
        np.concatenate([values[there], few[1]]),
        np.concatenate([keys[chosen[~there]], few[2]]),
    )


def _all_differences(old: tuple[Keys, Numbers], new: tuple[Keys, Numbers]) -> _Rows:
    """Between any two."""
    (old_keys, old_numbers), (new_keys, new_numbers) = old, new
    if np.array_equal(old_keys, new_keys):
        changed = old_numbers != new_numbers
        return new_keys[changed], new_numbers[changed], new_keys[:0]
    places, known = _find(old_keys, new_keys)
    changed = ~known
    changed[known] = old_numbers[places[known]] != new_numbers[known]
    _, stay = _find(new_keys, old_keys)
    return new_keys[changed], new_numbers[changed], old_keys[~stay]


def _find(keys: Keys, wanted: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where in the sorted keys each of the wanted ones is, and whether it is."""
    if not len(keys):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.bool_)
    places = keys.searchsorted(wanted).clip(max=len(keys) - 1)
    return places, keys[places] == wanted


def _flat(family: int, layered: Layered[int]) -> tuple[Keys, Numbers]:
    """Prefixes and numbers without layers."""
    keys = layered.base.keys[family]
    numbers = _as_array(layered.meanings)[layered.base.numbers[family]] if len(keys) else _NONE
    changes = {p: n for p, n in layered.changes.items() if p.family == family}
    if changes:
        packed = as_keys(family, b"".join(map(pack, changes)))
        values = [_ABSENT if number is None else number for number in changes.values()]
        keys = np.concatenate([packed, keys])  # first, so that of two alike these count
        numbers = np.concatenate([np.array(values, np.uint32), numbers])
        order = np.argsort(keys, kind="stable")
        keys, numbers = keys[order], numbers[order]
        first = np.append(True, keys[1:] != keys[:-1])
        keys, numbers = keys[first], numbers[first]
    there = numbers != _ABSENT
    return (keys, numbers) if there.all() else (keys[there], numbers[there])


_NONE = np.zeros(0, np.uint32)


def _as_array(numbers: Iterable[int | None]) -> Numbers:
    return np.array([_ABSENT if number is None else number for number in numbers], np.uint32)


def _rows(family: int, changes: Mapping[Prefix, int | None]) -> _Rows:
    mine = {pack(p): number for p, number in changes.items() if p.family == family}
    kept = {key: number for key, number in mine.items() if number is not None}
    gone = b"".join(key for key, number in mine.items() if number is None)
    keys = as_keys(family, b"".join(kept))
    return keys, np.array(list(kept.values()), np.uint32), as_keys(family, gone)


# --- as the maps have it -------------------------------------------------------------------------


def _trie_keys(keys: Keys) -> bytes:
    """As struct route4_key and route6_key: the length in 32 bits, then the address."""
    rows = as_bytes(keys)
    raw = np.zeros((len(rows), keys.itemsize + 3), np.uint8)
    raw[:, 0] = rows[:, -1]
    raw[:, 4:] = rows[:, :-1]
    return raw.tobytes()


def _packed(family: int, raw: bytes) -> Keys:
    """The other way round."""
    size = 8 if family == 4 else 20
    rows = np.frombuffer(raw, np.uint8).reshape(-1, size)
    return as_keys(family, np.concatenate([rows[:, 4:], rows[:, :1]], axis=1))
