"""The map `groups` and what its entries point to: paths, buckets, single next hops."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ..compile import Group, PathEntry, Resilient, Target
from ..model.packed import Layered
from ..model.values import NextHop
from ..program import libbpf
from ..program.abi import CAPACITY, GroupKind, Reason
from ..program.clock import HZ, Jiffies
from ..program.maps import Maps
from .buckets import Buckets, Key
from .slots import Blocks, CapacityError, Slots

REPORTS = 4
"""In a resilient group's idle time so many packets of a bucket pass to Linux, to eight of them."""

_NONE: Mapping[Target, Key] = MappingProxyType({})


class Groups:
    """Who has which entry of `groups`. A group keeps its entry whatever changes in it, so that no
    route has to change with it: what is new is written where no packet looks, and then pointed to
    by one store."""

    def __init__(self, maps: Maps, nexthop_slots: Slots[NextHop]) -> None:
        self._maps = maps
        self._nexthop_slots = nexthop_slots
        self._now: Jiffies | None = None
        self._slots: Slots[Key | NextHop] = Slots(len(Reason), CAPACITY["GROUPS_MAX"])
        self._contents: dict[Key, Group] = {}
        self._paths = Blocks(0, CAPACITY["PATHS_MAX"])
        self._path_runs: dict[Key, tuple[int, int]] = {}
        self._buckets = Buckets(maps, nexthop_slots)
        self._inherited: set[int] = set()
        """Entries that an earlier agent gave to resilient groups."""
        for reason in Reason:
            self._store(int(reason), GroupKind.PASS, int(reason), 0)

    def adopt(self, numbers: Iterable[int]) -> None:
        """An earlier agent's groups, those that routes lead to, keep their entries until the first
        sync has replaced them."""
        numbers = sorted({number for number in numbers if number >= len(Reason)})
        if not numbers:
            return
        libbpf.wait_for_readers()  # of what it let go of last: that counts as free now
        entries = self._maps["groups"].entries
        names = {slot: nexthop for nexthop, slot in self._nexthop_slots.live.items()}
        for number in numbers:
            key, entry = _adopted(number), entries[number]
            self._slots.adopt(key, number)
            if entry.kind == GroupKind.THRESHOLD:
                self._path_runs[key] = (entry.first, entry.count)
                self._paths.adopt(entry.first, entry.count)
            elif entry.kind == GroupKind.RESILIENT:
                self._inherited.add(number)
                self._buckets.adopt(key, entry.first, entry.count, names)

    # --- groups of several next hops --------------------------------------------------------------

    def sync(
        self, groups: Mapping[Key, Group], targets: Layered[Target], held: Layered[int]
    ) -> bool:
        """Make the groups say that; `targets`: what routes are to lead to, `held`: which entries
        they lead to so far. Returns whether all fit.

        What does not fit passes to Linux, and is tried again the next time.
        """
        return self.add(groups, self._legacies(targets, held))

    def add(self, groups: Mapping[Key, Group], legacies: Mapping[Target, Key] = _NONE) -> bool:
        """Make these groups say that, and leave the others alone."""
        fits = True
        for key, group in groups.items():
            if self._contents.get(key) == group:
                continue
            try:
                self._place(key, group, legacies.get(key))
                self._contents[key] = group
            except (CapacityError, KeyError):
                fits = False
                self._contents.pop(key, None)
                if key in self._slots.live:
                    slot = self._slots.live[key]
                    self._store(slot, GroupKind.PASS, int(Reason.TABLE_FULL), 0)
                    self._drop_contents(key)  # so it may fit the next time
        return fits

    def _legacies(self, targets: Layered[Target], held: Layered[int]) -> dict[Target, Key]:
        """By what routes are to lead to now: the resilient group of an earlier agent that they led
        to so far."""
        if not self._inherited:
            return {}
        return {
            target: _adopted(number)
            for prefix, number in held.where(self._inherited.__contains__)
            if (target := targets.lookup(prefix)) is not None
        }

    def _place(self, key: Key, group: Group, legacy: Key | None) -> None:
        """Raises CapacityError or, if a next hop has no entry, KeyError."""
        slot, _ = self._slots.acquire(key)
        if isinstance(group, Resilient):
            self._place_buckets(slot, key, group, legacy)
        elif not group:  # until its routes are read again
            self._store(slot, GroupKind.PASS, int(Reason.ROUTE_UNSUPPORTED), 0)
            self._drop_contents(key)
        elif len(group) == 1:  # takes no hash, so neither a seed; its weight is for `routes`
            number = self._nexthop_slots.live[group[0].nexthop]
            self._store(slot, GroupKind.SINGLE, number, group[0].weight)
            self._drop_contents(key)
        else:
            self._place_paths(slot, key, group)

    def _place_paths(self, slot: int, key: Key, group: tuple[PathEntry, ...]) -> None:
        numbers = [self._nexthop_slots.live[entry.nexthop] for entry in group]
        first = self._paths.acquire(len(group))
        path = self._maps.layout.value("paths")
        for i, (entry, number) in enumerate(zip(group, numbers, strict=True)):
            struct = path(bound=entry.bound, nexthop=number, weight=entry.weight - 1)
            self._maps["paths"].store(first + i, struct)
        self._store(slot, GroupKind.THRESHOLD, first, len(group))
        self._drop_contents(key)
        self._path_runs[key] = (first, len(group))

    def _place_buckets(self, slot: int, key: Key, group: Resilient, legacy: Key | None) -> None:
        """Bring a resilient group's buckets to the kernel's, as far as they are free to go; with
        those of an earlier agent, go on from there."""
        count = len(group.buckets)
        if not self._buckets.holds(key, count) and not (
            legacy and self._buckets.inherit(key, legacy, count)
        ):
            self._buckets.place(key, group)
        self._buckets.settle(key, group, self._now)
        shift = self._report_shift(group)
        self._store(slot, GroupKind.RESILIENT, self._buckets.first(key), count, shift)
        self._drop_paths(key)

    def _report_shift(self, group: Resilient) -> int:
        """How often Linux is to hear that a bucket is in use: several times in its idle time."""
        if not self._buckets.as_linux:
            return 0
        return max(0, int(group.idle_s * HZ / REPORTS).bit_length() - 1)

    def hash_as_linux(self, alike: bool) -> None:
        """Whether Linux chooses the same bucket for a packet; to be told before a `sync`."""
        if alike != self._buckets.as_linux:
            self._buckets.as_linux = alike
            for key, group in list(self._contents.items()):
                if isinstance(group, Resilient):
                    del self._contents[key]  # so that it is placed again

    def settle(self, now: Jiffies) -> None:
        """Let buckets go where the kernel wants them which have become idle since."""
        self._now = now
        for key, group in self._contents.items():
            if isinstance(group, Resilient):
                self._buckets.settle(key, group, now)

    # --- all of them ------------------------------------------------------------------------------

    def number(self, target: Target) -> int:
        """The entry for what a route leads to."""
        if isinstance(target, NextHop):
            return self._single(target)
        if isinstance(target, tuple):
            known = self._slots.live.get(target) if target in self._contents else None
            return known or int(Reason.TABLE_FULL)
        return int(target)

    def _single(self, nexthop: NextHop) -> int:
        known = self._slots.live.get(nexthop)
        if known is not None:
            return known
        number = self._nexthop_slots.live.get(nexthop)
        if number is None:
            return int(Reason.TABLE_FULL)
        try:
            slot, _ = self._slots.acquire(nexthop)
        except CapacityError:
            return int(Reason.TABLE_FULL)
        self._store(slot, GroupKind.SINGLE, number, 1)
        return slot

    def retire(self, groups: Collection[Key], targets: Iterable[Target]) -> None:
        """Let go of what no route leads to any more."""
        wanted = {target for target in targets if isinstance(target, NextHop)}.union(groups)
        for key in [key for key in self._slots.live if key not in wanted]:
            self._slots.retire(key)
            if not isinstance(key, NextHop):
                self._contents.pop(key, None)
                self._drop_contents(key)
        self._inherited.clear()

    def _drop_contents(self, key: Key) -> None:
        self._drop_paths(key)
        self._buckets.drop(key)

    def _drop_paths(self, key: Key) -> None:
        if key in self._path_runs:
            self._paths.retire(*self._path_runs.pop(key))

    def _store(self, slot: int, kind: Any, first: int, count: int, shift: int = 0) -> None:
        group = self._maps.layout.value("groups")
        struct = group(first=first, count=count, kind=kind, report_shift=shift)
        self._maps["groups"].store(slot, struct)


def _adopted(number: int) -> Key:
    """What a group is known by which an earlier agent left in that entry."""
    return ("adopted", number)
