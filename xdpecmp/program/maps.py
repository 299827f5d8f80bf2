"""Typed access to the data path's maps.

The layout of keys and values comes from bcc, which compiled the C structs: `Layout` holds its
descriptions, which are saved in the instance's directory so that commands that only read need
neither bcc nor a compiler. Array maps are mapped into memory: the store of an aligned word is one
store, so no packet sees it half done. What the entries mean is not known here.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import places
from ..model.values import NextHop, Prefix
from . import libbpf
from .abi import Reason

_SCALARS: dict[str, Any] = {
    "unsigned char": ctypes.c_uint8,
    "unsigned short": ctypes.c_uint16,
    "unsigned int": ctypes.c_uint32,
    "int": ctypes.c_int32,
    "unsigned long": ctypes.c_uint64,
    "unsigned long long": ctypes.c_uint64,
}

MAPPED = ("control", "config", "interfaces", "groups", "paths", "buckets", "nexthops")
"""The maps that are accessed through memory."""

DIRECT = ("direct16", "direct24", "direct32")
"""The tables in front of the IPv4 trie. They are large, so only their writer maps them."""

NAMES = (
    *MAPPED,
    *DIRECT,
    "vlans",
    "macs",
    "routes4",
    "routes6",
    "devices",
    "path_stats",
    "reason_stats",
)
"""Every map that generations share."""


class Layout:
    """The key and value types of each map, from bcc's descriptions."""

    def __init__(self, descriptions: dict[str, tuple[Any, Any]]) -> None:
        """`descriptions`: map name → (key, value), the parsed results of bcc's bpf_table_*_desc."""
        self.descriptions = descriptions
        self._types: dict[str, tuple[Any, Any]] = {
            name: (_ctype(key), _ctype(value)) for name, (key, value) in descriptions.items()
        }

    def key(self, name: str) -> Any:
        return self._types[name][0]

    def value(self, name: str) -> Any:
        return self._types[name][1]

    def save(self, path: Path) -> None:
        places.write_file(path, json.dumps(self.descriptions))

    @classmethod
    def load(cls, path: Path) -> Layout:
        """Raises FileNotFoundError if nothing was saved, Untrusted, ValueError."""
        return cls(json.loads(places.read_file(path)))


def _ctype(description: Any) -> Any:
    """bcc's description of a C type as a ctypes type: a scalar's name, or [name, fields, kind]."""
    if isinstance(description, str):
        return _SCALARS[description]
    name, fields = description[0], description[1]
    members = []
    for field in fields:
        kind = _ctype(field[1])
        for length in reversed(field[2] if len(field) > 2 else []):
            kind = kind * length
        members.append((field[0], kind))
    # the structs have no implicit padding, so packed and natural layout are the same
    return type(str(name), (ctypes.LittleEndianStructure,), {"_pack_": 1, "_fields_": members})


class MappedArray:
    """An array map in memory: `entries[i]` is a ctypes struct, `words[i]` its 8-byte words."""

    def __init__(self, fd: int, value: Any) -> None:
        info = libbpf.map_info(fd)
        self.count: int = info.max_entries
        self.stride = ctypes.sizeof(value)
        size = -(-self.count * self.stride // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(fd, size)
        self.entries: Any = (value * self.count).from_buffer(memory)
        self.words: Any = (ctypes.c_uint64 * (size // 8)).from_buffer(memory)
        self._words_each = self.stride // 8

    def store_word(self, index: int, word: int, value: int) -> None:
        """Stores one aligned 8-byte word of an entry: readers see the old one or the new one."""
        self.words[index * self._words_each + word] = value

    def store(self, index: int, value: Any, publish: int = 0) -> None:
        """Stores the words of an entry that differ from `value` (a ctypes struct of the map's
        type), word number `publish` last: the one that puts a new entry in use."""
        raw = bytes(value)
        order = [word for word in range(self._words_each) if word != publish] + [publish]
        for word in order:
            new = int.from_bytes(raw[word * 8 : word * 8 + 8], "little")
            position = index * self._words_each + word
            if self.words[position] != new:
                self.words[position] = new


class Maps:
    """All maps of one instance, opened from their pins."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        """Raises OSError if a pin is missing or may not be opened."""
        self.layout = layout
        self.fds: dict[str, int] = {}
        try:
            for name in NAMES:
                self.fds[name] = libbpf.get_pinned(directory / name)
            self.arrays = {name: MappedArray(self.fds[name], layout.value(name)) for name in MAPPED}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the descriptors; memory is unmapped with the last reference to the arrays."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> MappedArray:
        return self.arrays[name]

    def memory(self, name: str) -> mmap.mmap:
        """All of an array map, mapped into memory: packets see writes at once."""
        info = libbpf.map_info(self.fds[name])
        return mmap.mmap(self.fds[name], info.max_entries * info.value_size)

    def items(self, name: str) -> Iterator[tuple[Any, int]]:
        """Keys (ctypes) and values of a map whose values are 32-bit numbers."""
        key_type = self.layout.key(name)
        size = ctypes.sizeof(key_type)
        for keys, values, count in libbpf.map_batches(self.fds[name]):
            numbers = memoryview(values).cast("I")
            for i in range(count):
                yield key_type.from_buffer_copy(keys, i * size), numbers[i]

    def nexthops(self) -> Iterator[tuple[int, NextHop]]:
        """The next hops in use, with their numbers."""
        entries = self["nexthops"].entries
        for slot in range(self["control"].entries[0].nexthops_used):
            entry = entries[slot]
            if entry.ifindex and entry.reason != Reason.NO_ROUTE:
                yield slot, nexthop_of(entry)

    def group_of(self, prefix: Prefix) -> int | None:
        """The group of this prefix or, if it has no entry, of the longest one that covers it."""
        key = prefix.length.to_bytes(4, "little") + prefix.address
        value = libbpf.map_lookup(self.fds[f"routes{prefix.family}"], key, 4)
        return None if value is None else int.from_bytes(value, "little")

    def matched(self, address: bytes) -> Prefix | None:
        """The longest prefix that covers an address.

        A look-up in an LPM trie gives the value of the prefix, not the prefix. But asked for the
        key after one that it does not have, a trie gives its first key.
        """
        family, bits = (4, 32) if len(address) == 4 else (6, 128)
        fd, size = self.fds[f"routes{family}"], 4 + len(address)
        first = libbpf.map_next_key(fd, None, size)
        for length in range(bits, -1, -1) if first is not None else ():
            key = length.to_bytes(4, "little") + address
            if libbpf.map_next_key(fd, key, size) != first:
                kept = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
                return Prefix(kept.to_bytes(len(address), "big"), length)
        return None

    def holds(self, prefix: Prefix) -> bool:
        """Whether this very prefix has an entry: see `matched`."""
        fd, size = self.fds[f"routes{prefix.family}"], 4 + len(prefix.address)
        first = libbpf.map_next_key(fd, None, size)
        key = prefix.length.to_bytes(4, "little") + prefix.address
        return first is not None and libbpf.map_next_key(fd, key, size) != first

    def prefixes(self, family: int) -> list[tuple[bytes, int, int]]:
        """Address, length and group of all prefixes, in ascending order."""
        key = struct.Struct("<I4s" if family == 4 else "<I16s")
        found: list[tuple[bytes, int, int]] = []
        for keys, values, _ in libbpf.map_batches(self.fds[f"routes{family}"]):
            numbers = memoryview(values).cast("I")
            found += [
                (address, length, number)
                for (length, address), number in zip(key.iter_unpack(keys), numbers, strict=True)
            ]
        found.sort()
        return found

    def numbers(self, name: str) -> Counter[int]:
        """The values of such a map, and how often each occurs."""
        found: Counter[int] = Counter()
        for _, values, _ in libbpf.map_batches(self.fds[name]):
            found.update(memoryview(values).cast("I"))
        return found

    def totals(self, name: str, count: int) -> list[tuple[int, ...]]:
        """Sums over all CPUs of the first `count` entries of a per-CPU array, whose values are one
        or more 64-bit counters."""
        return sums(self.fds[name], count, ctypes.sizeof(self.layout.value(name)) // 8)

    def per_cpu(self, name: str, index: int) -> Any:
        """The values of one entry of a per-CPU array, one for each CPU."""
        value = self.layout.value(name)
        stride = -(-ctypes.sizeof(value) // 8) * 8
        cpus = libbpf.possible_cpus()
        raw = libbpf.map_lookup(self.fds[name], index.to_bytes(4, "little"), stride * cpus)
        assert raw is not None, f"{name} has no entry {index}"
        return [value.from_buffer_copy(raw, cpu * stride) for cpu in range(cpus)]


_VIA_SIZE = {0: 0, 4: 4, 6: 16}
"""By `family` of a struct nexthop, which is 0 where there is no gateway."""


def nexthop_of(entry: Any) -> NextHop:
    """Gateway and device of an entry of `nexthops`."""
    return NextHop(bytes(entry.via)[: _VIA_SIZE[entry.family]], entry.ifindex)


def sums(fd: int, count: int, each: int) -> list[tuple[int, ...]]:
    """Sums over all CPUs of the first `count` entries of a per-CPU array, which hold `each` 64-bit
    counters."""
    if not count:
        return []
    counters, cpus = memoryview(libbpf.map_first(fd, count)).cast("Q"), libbpf.possible_cpus()
    return [
        tuple(sum(counters[at + i : at + each * cpus : each]) for i in range(each))
        for at in range(0, len(counters), each * cpus)
    ]
