"""The buckets of resilient groups."""

from __future__ import annotations

from collections.abc import Mapping

from ..compile import Resilient
from ..model.values import NextHop
from ..program.abi import CAPACITY
from ..program.clock import Jiffies
from ..program.maps import Maps
from .slots import Blocks, Slots

Key = tuple[object, ...]
"""What a group is known by."""


class Buckets:
    """The buckets of resilient groups.

    If Linux hashes as we do, they are Linux's: a packet now and then tells it which are in use
    (bpf/nexthops.c), so it moves no others, and ours move along at once. Then no flow moves when
    packets pass to Linux.

    Otherwise they are ours, since packets that XDP forwards are no activity to the kernel, which
    therefore moves buckets that are busy. A bucket goes where the kernel has it once it has been
    idle for the group's idle time, or at once if its next hop has left the group; or in use,
    where buckets have differed from the kernel's for the group's unbalanced time. The kernel counts
    that time for its own buckets, which are soon where they belong: nh_res_bucket_should_migrate()
    in net/ipv4/nexthop.c.
    """

    def __init__(self, maps: Maps, nexthop_slots: Slots[NextHop]) -> None:
        self.as_linux = False
        """Whether they are Linux's."""
        self._maps = maps
        self._nexthop_slots = nexthop_slots
        self._blocks = Blocks(0, CAPACITY["BUCKETS_MAX"])
        self._placed: dict[Key, int] = {}
        self._held: dict[Key, list[NextHop | None]] = {}
        self._differ_since: dict[Key, int] = {}
        """Jiffies, low 32 bits."""

    def adopt(self, key: Key, first: int, count: int, names: Mapping[int, NextHop]) -> None:
        """Take over a group's buckets from an earlier agent; `names`: next hops by number."""
        entries = self._maps["buckets"].entries
        self._blocks.adopt(first, count)
        self._placed[key] = first
        self._held[key] = [names.get(entries[first + i].nexthop) for i in range(count)]

    def inherit(self, to: Key, key: Key, count: int) -> bool:
        """Let a group go on with the buckets of another, as they are and with the times of their
        last use; False if that one has none, or another number of them."""
        if len(self._held.get(key, ())) != count:
            return False
        self._placed[to], self._held[to] = self._placed.pop(key), self._held.pop(key)
        return True

    def holds(self, key: Key, count: int) -> bool:
        """Whether the group has buckets, and so many."""
        return len(self._held.get(key, ())) == count

    def first(self, key: Key) -> int:
        """The group's first entry of the map."""
        return self._placed[key]

    def place(self, key: Key, group: Resilient) -> None:
        """Fill buckets where no packet looks, as the kernel has them. Those that the group had
        before are let go. Raises CapacityError, KeyError if a next hop has no entry."""
        numbers = [self._nexthop_slots.live[nexthop] for nexthop in group.buckets]
        first = self._blocks.acquire(len(numbers))
        bucket = self._maps.layout.value("buckets")
        for i, number in enumerate(numbers):
            self._maps["buckets"].store(first + i, bucket(nexthop=number))
        self.drop(key)
        self._placed[key], self._held[key] = first, list(group.buckets)

    def settle(self, key: Key, group: Resilient, now: Jiffies | None) -> None:
        """Move what may move. While the time is unknown nothing that was ever used is idle.
        Raises KeyError, having moved nothing, if a next hop has no entry."""
        first, held = self._placed[key], self._held[key]
        numbers = {nexthop: self._nexthop_slots.live[nexthop] for nexthop in group.members}
        entries = self._maps["buckets"].entries
        overdue = self._is_overdue(key, group, now)
        for i, wanted in enumerate(group.buckets):
            if held[i] == wanted:
                continue
            entry = entries[first + i]
            if self.as_linux:  # to Linux it is not in use before a packet passes: the next one does
                bucket = self._maps.layout.value("buckets")
                self._maps["buckets"].store(first + i, bucket(nexthop=numbers[wanted]))
                held[i] = wanted
                continue
            idle = overdue or _idle(entry.used_jiffies, group.idle_s, now)
            if idle or held[i] not in numbers:
                entry.nexthop = numbers[wanted]  # leaves used_jiffies alone
                held[i] = wanted
        if held == list(group.buckets):
            self._differ_since.pop(key, None)
        elif now is not None:
            self._differ_since.setdefault(key, now.now & 0xFFFFFFFF)

    def _is_overdue(self, key: Key, group: Resilient, now: Jiffies | None) -> bool:
        since = self._differ_since.get(key)
        if since is None or now is None or not group.unbalanced_s:
            return False
        return now.since(since) >= group.unbalanced_s

    def drop(self, key: Key) -> None:
        """The group is gone, or no longer resilient."""
        self._differ_since.pop(key, None)
        if key in self._placed:
            self._blocks.retire(self._placed.pop(key), len(self._held.pop(key)))


def _idle(used_jiffies: int, idle_s: float, now: Jiffies | None) -> bool:
    return not used_jiffies or (now is not None and now.since(used_jiffies) >= idle_s)
