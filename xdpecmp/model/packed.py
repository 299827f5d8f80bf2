"""Prefixes by the million: sorted arrays, where dictionaries would take twenty times the memory.

`Packed` holds prefixes and a number for each, and never changes. `Layered` says what the numbers
stand for, and for single prefixes something else: so what is known of a million prefixes changes in
a few places at once, and two `Layered` over the same `Packed` differ if their meanings do.

A prefix is packed as its address and its length in one more byte. So packed prefixes of a family
are in order as bytes, and what one covers comes right behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .prefixes import covered, grouped
from .values import Prefix

V = TypeVar("V")
Keys = NDArray[np.bytes_]
"""Packed prefixes of one family: of fixed width, so the zeros that numpy strips don't count."""
Numbers = NDArray[np.uint32]

FAMILIES = (4, 6)
WIDTH = {4: 5, 6: 17}


def pack(prefix: Prefix) -> bytes:
    """The prefix as bytes that sort."""
    return prefix.address + bytes((prefix.length,))


def unpack(key: bytes) -> Prefix:
    """The prefix of those bytes."""
    return Prefix(key[:-1], key[-1])


def as_keys(family: int, packed: bytes | bytearray | NDArray[np.uint8]) -> Keys:
    """Packed prefixes, one behind the other."""
    width = f"S{WIDTH[family]}"
    if isinstance(packed, np.ndarray):
        return np.ascontiguousarray(packed).reshape(-1).view(width)
    return np.frombuffer(packed, width)


def as_bytes(keys: Keys) -> NDArray[np.uint8]:
    """Packed prefixes as rows of bytes."""
    return keys.view(np.uint8).reshape(len(keys), keys.itemsize)


def prefixes_in(keys: Keys) -> Iterator[Prefix]:
    """The prefixes, in the array's order."""
    raw, width = keys.tobytes(), keys.itemsize
    for start in range(0, len(raw), width):
        yield unpack(raw[start : start + width])


class Packed:
    """Prefixes of both families in ascending order, with a number each."""

    def __init__(self, keys: Mapping[int, Keys], numbers: Mapping[int, Numbers]) -> None:
        """By family; sorted, each prefix once."""
        self.keys = keys
        self.numbers = numbers

    @classmethod
    def of(cls, numbers: Mapping[Prefix, int]) -> Packed:
        keys, values = {}, {}
        for family in FAMILIES:
            rows = sorted((pack(p), n) for p, n in numbers.items() if p.family == family)
            keys[family] = as_keys(family, b"".join(key for key, _ in rows))
            values[family] = np.array([number for _, number in rows], np.uint32)
        return cls(keys, values)

    def __len__(self) -> int:
        return sum(len(keys) for keys in self.keys.values())

    def find(self, prefix: Prefix) -> int | None:
        """The prefix's number, None if it has none."""
        family = prefix.family
        position = position_of(self.keys[family], pack(prefix))
        return None if position is None else int(self.numbers[family][position])

    def under(self, cover: Prefix) -> Iterator[Prefix]:
        """The prefixes that this one covers, itself included if it is there."""
        keys = self.keys[cover.family]
        bits = len(cover.address) * 8
        host = (1 << (bits - cover.length)) - 1
        last = (int.from_bytes(cover.address, "big") | host).to_bytes(bits // 8, "big")
        start = int(keys.searchsorted(pack(cover)))
        end = int(keys.searchsorted(last + b"\xff", side="right"))
        return prefixes_in(keys[start:end])

    @cached_property
    def lengths(self) -> Mapping[int, Sequence[int]]:
        """The prefix lengths in use, longest first, by family."""
        return {
            family: np.flatnonzero(np.bincount(as_bytes(keys)[:, -1]))[::-1].tolist()
            if len(keys)
            else []
            for family, keys in self.keys.items()
        }

    def same_prefixes(self, other: Packed) -> bool:
        return all(
            self.keys[family] is other.keys[family]
            or np.array_equal(self.keys[family], other.keys[family])
            for family in FAMILIES
        )

    def same(self, other: Packed) -> bool:
        """Whether prefixes and numbers are alike."""
        return self is other or (
            self.same_prefixes(other)
            and all(np.array_equal(self.numbers[f], other.numbers[f]) for f in FAMILIES)
        )


def position_of(keys: Keys, key: bytes) -> int | None:
    """Where in a sorted array a packed prefix stands."""
    position = int(keys.searchsorted(key))
    if position < len(keys) and keys[position : position + 1].tobytes() == key:
        return position
    return None


class Layered(Mapping[Prefix, V], Generic[V]):
    """What each prefix means: `meanings` by its number in `base`, unless it is in `changes`.

    None is for a prefix that isn't there.
    """

    def __init__(
        self,
        base: Packed,
        meanings: Sequence[V | None],
        changes: dict[Prefix, V | None] | None = None,
    ) -> None:
        self.base = base
        self.meanings = meanings
        self.changes = {} if changes is None else changes

    @classmethod
    def of(cls, values: Mapping[Prefix, V]) -> Layered[V]:
        """Any mapping as one of these."""
        if isinstance(values, Layered):
            return values
        meanings: dict[V, int] = {}
        numbers = {p: meanings.setdefault(v, len(meanings)) for p, v in values.items()}
        return cls(Packed.of(numbers), list(meanings))

    def __getitem__(self, prefix: Prefix) -> V:
        found = self.lookup(prefix)
        if found is None:
            raise KeyError(prefix)
        return found

    def lookup(self, prefix: Prefix) -> V | None:
        """What `get` gives, in half the time."""
        if prefix in self.changes:
            return self.changes[prefix]
        number = self.base.find(prefix)
        return None if number is None else self.meanings[number]

    def __iter__(self) -> Iterator[Prefix]:
        return (prefix for prefix, _ in self.where(lambda _: True))

    def __len__(self) -> int:
        return sum(map(self.count, FAMILIES))

    def count(self, family: int) -> int:
        """How many prefixes of a family there are."""
        there = np.array([meaning is not None for meaning in self.meanings], np.bool_)
        count = int(np.count_nonzero(there[self.base.numbers[family]]))
        for prefix, value in self.changes.items():
            if prefix.family == family:
                number = self.base.find(prefix)
                before = number is not None and self.meanings[number] is not None
                count += (value is not None) - before
        return count

    def where(
        self, wanted: Callable[[V], bool], families: Collection[int] = FAMILIES
    ) -> Iterator[tuple[Prefix, V]]:
        """The prefixes of which that is true, and what they mean; each meaning is asked once."""
        flags = np.array([m is not None and wanted(m) for m in self.meanings], np.bool_)
        for family in families:
            numbers = self.base.numbers[family]
            chosen = np.flatnonzero(flags[numbers])
            values = numbers[chosen].tolist()
            prefixes = prefixes_in(self.base.keys[family][chosen])
            for prefix, number in zip(prefixes, values, strict=True):
                if prefix not in self.changes:
                    meaning = self.meanings[number]
                    assert meaning is not None
                    yield prefix, meaning
        for prefix, value in self.changes.items():
            if prefix.family in families and value is not None and wanted(value):
                yield prefix, value

    def distinct(self) -> Iterator[V]:
        """All that prefixes mean, and perhaps what the base alone does; some of it twice."""
        for values in (self.meanings, self.changes.values()):
            yield from (value for value in values if value is not None)

    def under(self, covers: Collection[Prefix]) -> set[Prefix]:
        """The prefixes that these cover, themselves included if they are there."""
        networks = grouped(covers)
        found = {
            prefix
            for cover in covers
            for prefix in self.base.under(cover)
            if prefix not in self.changes and self.lookup(prefix) is not None
        }
        found.update(
            prefix
            for prefix, value in self.changes.items()
            if value is not None and covered(prefix, networks)
        )
        return found

    def missing_in(self, other: Layered[V], family: int) -> Iterator[Prefix]:
        """The prefixes of a family that are here and not there."""
        keys = self.base.keys[family]
        alone = ~np.isin(keys, other.base.keys[family])
        for prefix in {*prefixes_in(keys[alone]), *self.changes, *other.changes}:
            if (
                prefix.family == family
                and self.lookup(prefix) is not None
                and other.lookup(prefix) is None
            ):
                yield prefix

    # --- longest match ----------------------------------------------------------------------------

    def longest(self, addresses: Collection[bytes], most: int = 128) -> list[V | None]:
        """What the longest prefix means that holds each of these addresses of one family; `most`:
        of no more bits than that."""
        if not addresses:
            return []
        family = 4 if len(next(iter(addresses))) == 4 else 6
        changed = {p.length for p in self.changes if p.family == family}
        lengths = sorted({*self.base.lengths[family], *changed}, reverse=True)
        rows = np.frombuffer(b"".join(addresses), np.uint8).reshape(len(addresses), -1)
        found: list[V | None] = [None] * len(addresses)
        open_: NDArray[np.intp] = np.arange(len(addresses))
        for length in (length for length in lengths if length <= most):
            keys = _masked(rows[open_], length)
            left = []
            for at, key, number in zip(
                open_.tolist(), prefixes_in(keys), self._numbers(family, keys), strict=True
            ):
                if key in self.changes:
                    found[at] = self.changes[key]
                elif number is not None:
                    found[at] = self.meanings[number]
                if found[at] is None:
                    left.append(at)
            open_ = np.array(left, np.intp)
            if not left:
                break
        return found

    def _numbers(self, family: int, keys: Keys) -> Iterable[int | None]:
        base = self.base.keys[family]
        if not len(base):
            return [None] * len(keys)
        positions = base.searchsorted(keys).clip(max=len(base) - 1)
        hits = (base[positions] == keys).tolist()
        numbers = self.base.numbers[family][positions].tolist()
        return [number if hit else None for hit, number in zip(hits, numbers, strict=True)]


def _masked(addresses: NDArray[np.uint8], length: int) -> Keys:
    """Rows of address bytes as packed prefixes of that length."""
    size = addresses.shape[1]
    bits = size * 8
    mask = ((1 << bits) - (1 << (bits - length))).to_bytes(size, "big")
    rows = np.empty((len(addresses), size + 1), np.uint8)
    rows[:, :size] = addresses & np.frombuffer(mask, np.uint8)
    rows[:, size] = length
    return as_keys(4 if size == 4 else 6, rows)
