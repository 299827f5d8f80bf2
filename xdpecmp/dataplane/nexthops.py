"""The next hops and the devices that they are reached by: the maps `nexthops` and `devices`.

A next hop keeps its number, and so its counters, for as long as it is known, through restarts of
the agent too.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping

from ..compile import Adjacency
from ..model.values import NextHop
from ..program import libbpf
from ..program.abi import CAPACITY, NEXTHOP_FLAGS, Reason
from ..program.maps import Maps
from . import counters
from .slots import CapacityError, Slots

NEIGHBOUR_WORD = 1
"""The word of struct nexthop that makes it usable."""


class Nexthops:
    """The next hops in the maps."""

    def __init__(self, maps: Maps) -> None:
        """Takes over what an earlier agent left in the maps."""
        self._maps = maps
        self._stored: dict[NextHop, Adjacency] = {}
        self.slots: Slots[NextHop] = Slots(0, CAPACITY["NEXTHOPS_MAX"])
        """Their entries in `nexthops` and `path_stats`."""
        self._devices: Slots[int] = Slots(0, CAPACITY["DEVICES_MAX"])
        self._adopt()
        self._adopt_devices()

    def _adopt(self) -> None:
        maps = self._maps
        for owner in sorted(counters.owners(maps), key=lambda owner: not owner.in_use):
            if owner.in_use:
                self.slots.adopt(owner.nexthop, owner.slot)
            else:  # its counters go on should it come back
                self.slots.remember(owner.nexthop, owner.slot)
        self.slots.used = max(self.slots.used, maps["control"].entries[0].nexthops_used)

    def _adopt_devices(self) -> None:
        for slot in range(CAPACITY["DEVICES_MAX"]):
            value = libbpf.map_lookup(self._maps.fds["devices"], slot.to_bytes(4, "little"), 4)
            if value is not None and any(value):
                self._devices.adopt(int.from_bytes(value, "little"), slot)

    # --- bringing them to what is wanted ----------------------------------------------------------

    def sync(self, wanted: Mapping[NextHop, Adjacency]) -> bool:
        """Store these. False if the capacity does not suffice for all, or a device has just gone:
        what could not be stored passes to Linux."""
        fits = True
        for nexthop, adjacency in wanted.items():
            if self._stored.get(nexthop) == adjacency:
                continue
            try:
                self._store_nexthop(nexthop, adjacency)
                self._stored[nexthop] = adjacency
            except CapacityError:
                fits = False
                self._leave_to_linux(nexthop, int(Reason.TABLE_FULL))
            except OSError:  # the devmap's: its device has just gone
                fits = False
                self._leave_to_linux(nexthop, int(Reason.EGRESS_DOWN))
        return fits

    def _leave_to_linux(self, nexthop: NextHop, reason: int) -> None:
        """One that could not be stored. Without an entry, its groups find it missing, and pass."""
        self._stored.pop(nexthop, None)
        if nexthop in self.slots.live:
            self._maps["nexthops"].entries[self.slots.live[nexthop]].reason = reason

    def _store_nexthop(self, nexthop: NextHop, adjacency: Adjacency) -> None:
        device = self._device_slot(adjacency.device)
        slot, recycled = self.slots.acquire(nexthop)
        base = self._base(slot, recycled)
        struct = self._maps.layout.value("nexthops")(
            ifindex=nexthop.ifindex,
            device=device,
            flags=0 if adjacency.takes_anything else NEXTHOP_FLAGS["NO_OFFLOADS"],
            reason=adjacency.reason,
            family={0: 0, 4: 4, 16: 6}[len(nexthop.via)],
            mtu=adjacency.mtu,
            base_packets=base.packets,
            base_bytes=base.bytes,
        )
        struct.neighbour_mac[:] = adjacency.mac
        struct.device_mac[:] = adjacency.device_mac
        struct.via[: len(nexthop.via)] = nexthop.via
        for side, tag in zip(("outer", "inner"), adjacency.tags, strict=False):
            setattr(struct, f"{side}_tpid", socket.htons(tag.tpid))
            setattr(struct, f"{side}_tci", socket.htons(tag.vid))
        self._maps["nexthops"].store(slot, struct, publish=NEIGHBOUR_WORD)
        self._maps["control"].entries[0].nexthops_used = self.slots.used

    def _base(self, slot: int, recycled: bool) -> counters.Traffic:
        """What the slot counted before it became its owner's: see `counters`. Nobody counts in one
        that changes hands."""
        if not recycled:
            entry = self._maps["nexthops"].entries[slot]
            return counters.Traffic(entry.base_packets, entry.base_bytes)
        counts = self._maps.per_cpu("path_stats", slot)
        return counters.Traffic(
            sum(count.packets for count in counts), sum(count.bytes for count in counts)
        )

    def sync_devices(self) -> None:
        """A device that left and came back is no longer in the devmap: the kernel took it out."""
        fd = self._maps.fds["devices"]
        for ifindex, slot in list(self._devices.live.items()):
            found = libbpf.map_lookup(fd, slot.to_bytes(4, "little"), 4)
            if found is None or not any(found):
                self._devices.retire(ifindex)
                self._stored = {
                    nexthop: adjacency
                    for nexthop, adjacency in self._stored.items()
                    if adjacency.device != ifindex
                }

    def _device_slot(self, ifindex: int) -> int:
        if not ifindex:
            return 0
        known = ifindex in self._devices.live
        slot, _ = self._devices.acquire(ifindex)
        if not known:
            key, value = slot.to_bytes(4, "little"), ifindex.to_bytes(4, "little")
            try:
                libbpf.map_update(self._maps.fds["devices"], key, value)
            except OSError:
                self._devices.retire(ifindex)
                raise
        return slot

    def retire(self, wanted: Mapping[NextHop, Adjacency]) -> None:
        """Let go of all others, which nothing points to any more."""
        for nexthop in list(self.slots.live.keys() - wanted.keys()):
            slot = self.slots.retire(nexthop)
            self._maps["nexthops"].entries[slot].reason = int(Reason.NO_ROUTE)
            self._stored.pop(nexthop, None)
        devices = {adjacency.device for adjacency in wanted.values()}
        for ifindex in self._devices.live.keys() - devices:
            self._devices.retire(ifindex)

    def mark_down(self, devices: Collection[int]) -> bool:
        """Pass to Linux, until the next `sync`, what would leave by these devices. Whether anything
        would."""
        marked = [
            nexthop
            for nexthop, adjacency in self._stored.items()
            if (nexthop.ifindex in devices or adjacency.device in devices)
            and adjacency.reason in (Reason.FORWARDED, Reason.EGRESS_NO_XDP)
        ]
        entries = self._maps["nexthops"].entries
        for nexthop in marked:
            del self._stored[nexthop]  # so that it is stored again
            entries[self.slots.live[nexthop]].reason = int(Reason.EGRESS_DOWN)
        return bool(marked)

    def forwarded(self, nexthop: NextHop) -> int | None:
        """Packets that the next hop's entry has counted so far; None if it has none."""
        slot = self.slots.live.get(nexthop)
        if slot is None:
            return None
        return sum(int(each.packets) for each in self._maps.per_cpu("path_stats", slot))
