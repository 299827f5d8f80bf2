"""What the data path counted since the first `attach`: sums that only grow.

The program counts packets and bytes by next hop (`path_stats`) and the rest by reason
(`reason_stats`). No counter is ever set back. A place in the maps that changes hands keeps
counting; what it counted for others before is subtracted (`base_packets` in struct nexthop). So a
sum over all places is right whenever it is read, and wherever an agent was killed.

What is shown of a next hop is what it took since its place became its own; one that leaves and
comes back goes on from there, unless its place was needed for another meanwhile: then it begins
at 0.

An upgrade to another layout of the maps begins with fresh ones. What the old ones had counted is
carried over: `carry_over`.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from ..errors import XdpecmpError
from ..model.values import NextHop
from ..program import libbpf
from ..program.abi import CAPACITY, STAT_COUNT, STAT_ENTRIES, Reason
from ..program.maps import Layout, MappedArray, Maps, nexthop_of, sums

log = logging.getLogger("xdpecmp.counters")

CARRIED = CAPACITY["PATH_STATS_MAX"] - 1
"""The entry of `path_stats` that is no next hop's: what earlier layouts forwarded."""

_MODULUS = 1 << 64
_ATTEMPTS = 8


class Traffic(NamedTuple):
    """Packets, and bytes of frames as they left."""

    packets: int
    bytes: int


class Owner(NamedTuple):
    """Whose a place in `nexthops` is, or was last."""

    slot: int
    nexthop: NextHop
    in_use: bool
    base: Traffic


class Counted(NamedTuple):
    """All counters at one time."""

    nexthops: Mapping[NextHop, Traffic]
    """Of those in use."""
    former: Mapping[NextHop, Traffic]
    """Of those that are not in use any more and whose place no other has."""
    forwarded: Traffic
    """By all next hops there ever were."""
    stats: list[int]
    """Packets by entry of `reason_stats`; that of FORWARDED is not counted there."""


def read(maps: Maps) -> Counted:
    """The counters of the maps that are in use."""
    return _read(maps.fds, maps["nexthops"], maps["control"])


def _read(fds: Mapping[str, int], nexthops: MappedArray, control: MappedArray) -> Counted:
    """A place may change hands while counters are read: then they are read again."""
    owners = _owners(nexthops, control)
    for _ in range(_ATTEMPTS):
        used = control.entries[0].nexthops_used
        counts = [Traffic(*pair) for pair in sums(fds["path_stats"], used, 2)]
        earlier, owners = owners, _owners(nexthops, control)
        if earlier == owners and control.entries[0].nexthops_used == used:
            break
    rows: tuple[dict[NextHop, Traffic], dict[NextHop, Traffic]] = {}, {}
    for owner in owners:
        if owner.slot < len(counts):
            count, base = counts[owner.slot], owner.base
            rows[owner.in_use][owner.nexthop] = Traffic(
                (count.packets - base.packets) % _MODULUS, (count.bytes - base.bytes) % _MODULUS
            )
    stats = [count for (count,) in sums(fds["reason_stats"], _entries(fds["reason_stats"]), 1)]
    if len(stats) == STAT_ENTRIES:
        stats = [sum(pair) for pair in zip(stats[:STAT_COUNT], stats[STAT_COUNT:], strict=True)]
    before = _carried(fds["path_stats"], nexthops.count)
    forwarded = Traffic(
        sum(count.packets for count in [before, *counts]),
        sum(count.bytes for count in [before, *counts]),
    )
    return Counted(rows[True], rows[False], forwarded, stats)


def owners(maps: Maps) -> list[Owner]:
    """Whose the places in `nexthops` are, or were last."""
    return _owners(maps["nexthops"], maps["control"])


def _owners(nexthops: MappedArray, control: MappedArray) -> list[Owner]:
    found = []
    for slot in range(control.entries[0].nexthops_used):
        entry = nexthops.entries[slot]
        if entry.ifindex:
            base = Traffic(getattr(entry, "base_packets", 0), getattr(entry, "base_bytes", 0))
            in_use = entry.reason != Reason.NO_ROUTE
            found.append(Owner(slot, nexthop_of(entry), in_use, base))
    return found


def _entries(fd: int) -> int:
    count: int = libbpf.map_info(fd).max_entries
    return count


def _carried(path_stats: int, nexthops: int) -> Traffic:
    """Of layouts before that of this map."""
    if _entries(path_stats) <= nexthops:  # there was no such entry
        return Traffic(0, 0)
    raw = libbpf.map_lookup(path_stats, nexthops.to_bytes(4, "little"), 16 * libbpf.possible_cpus())
    values = memoryview(raw or b"").cast("Q")
    return Traffic(sum(values[::2]), sum(values[1::2]))


# --- upgrades to another layout ------------------------------------------------------------------


def carry_over(directory: Path, layout: Path, maps: Maps) -> None:
    """Take over what the maps of another layout counted, which are pinned in that directory and
    described in that file. Nobody counts there any more. May be done again after it was
    interrupted: nothing is taken twice, and nothing goes back. What cannot be read is left, with a
    line in the log.
    """
    try:
        counted = _read_pinned(directory, Layout.load(layout))
    except (OSError, LookupError, ValueError, TypeError, AttributeError, XdpecmpError) as error:
        log.warning("counters begin again, those of the earlier version cannot be read: %s", error)
        return
    _raise(maps.fds["path_stats"], CARRIED, counted.forwarded)
    for index, count in enumerate(counted.stats[:STAT_COUNT]):
        if count:
            _raise(maps.fds["reason_stats"], STAT_COUNT + index, (count,))
    for owner in owners(maps):
        before = counted.nexthops.get(owner.nexthop) or counted.former.get(owner.nexthop)
        if before and owner.base == (0, 0):
            entry = maps["nexthops"].entries[owner.slot]
            entry.base_packets, entry.base_bytes = ((-count) % _MODULUS for count in before)


def _read_pinned(directory: Path, layout: Layout) -> Counted:
    names = ("path_stats", "reason_stats", "nexthops", "control")
    with ExitStack() as stack:
        fds = {}
        for name in names:
            fds[name] = libbpf.get_pinned(directory / name)
            stack.callback(os.close, fds[name])
        return _read(fds, *(MappedArray(fds[name], layout.value(name)) for name in names[2:]))


def _raise(fd: int, index: int, wanted: tuple[int, ...]) -> None:
    """Make an entry that no program counts in say at least this."""
    key, cpus = index.to_bytes(4, "little"), libbpf.possible_cpus()
    raw = libbpf.map_lookup(fd, key, 8 * len(wanted) * cpus)
    held = memoryview(raw or b"").cast("Q")
    values = (ctypes.c_uint64 * (len(wanted) * cpus))()
    values[: len(wanted)] = [
        max(sum(held[i :: len(wanted)]), count) for i, count in enumerate(wanted)
    ]
    libbpf.map_update(fd, key, bytes(values))
