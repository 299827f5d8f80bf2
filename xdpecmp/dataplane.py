"""Brings the maps to what `compile` wants, while packets flow.

Every step leaves the maps right for the packet that comes next: what is new is written where
nobody looks yet and then pointed to by one store; what is no longer pointed to is reused only after
a grace period (`libbpf.wait_for_readers`). A next hop keeps its number, and so its counters, for as
long as it is known, through restarts of the agent too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from . import libbpf
from .abi import CAPACITY, GroupKind, Reason
from .compile import Adjacency, Config, Group, Interface, Tables, Target, VlanKey, local4_filter
from .hashing import sip_absorb, sip_state
from .maps import Maps
from .model import NextHop, Prefix

K = TypeVar("K")

NEIGHBOUR_WORD = 1
"""The word of struct nexthop that makes it usable."""
IFINDEX_WORD = 1
"""The word of struct interface that makes it count."""
_BATCH = 4096


class CapacityError(Exception):
    """A map is full; what needed the place is passed to Linux instead."""


class Slots(Generic[K]):
    """Gives out the numbers of a map's entries, each to one key.

    A retired key gets its old number back if it returns; other keys may have that number only after
    a grace period.
    """

    def __init__(self, first: int, limit: int) -> None:
        self.live: dict[K, int] = {}
        self.used = first
        """Numbers from here on were never given out."""
        self._limit = limit
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

    def _recycle(self) -> int:
        if not self._reusable:
            if not self._retired:
                raise CapacityError
            libbpf.wait_for_readers()
            self._reusable = list(self._retired.values())
            self._retired.clear()
        return self._reusable.pop()


class Blocks:
    """Gives out runs of entries of the map `paths`, in sizes of powers of two."""

    def __init__(self, first: int, limit: int) -> None:
        self._next = first
        self._limit = limit
        self._free: dict[int, list[int]] = {}
        self._retired: list[tuple[int, int]] = []

    def acquire(self, count: int) -> int:
        """The first of `count` entries."""
        size = _power_of_two(count)
        if self._next + size > self._limit and not self._free.get(size):
            self._reclaim()
        if self._free.get(size):
            return self._free[size].pop()
        if self._next + size > self._limit:
            raise CapacityError
        first = self._next
        self._next += size
        return first

    def retire(self, first: int, count: int) -> None:
        """Nothing points to these entries any more."""
        self._retired.append((first, _power_of_two(count)))

    def _reclaim(self) -> None:
        libbpf.wait_for_readers()
        for first, size in self._retired:
            self._free.setdefault(size, []).append(first)
        self._retired.clear()


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


class Dataplane:
    """The maps of one instance and what is in them."""

    def __init__(self, maps: Maps) -> None:
        """Takes over what an earlier agent left in the maps."""
        self._maps = maps
        self._config: Config | None = None
        self._interfaces: dict[int, Interface] = {}
        self._vlans: dict[VlanKey, int] = {}
        self._nexthops: dict[NextHop, Adjacency] = {}
        self._nexthop_slots: Slots[NextHop] = Slots(0, CAPACITY["NEXTHOPS_MAX"])
        self._device_slots: Slots[int] = Slots(0, CAPACITY["DEVICES_MAX"])
        self._groups: dict[tuple[object, ...], Group] = {}
        self._group_blocks: dict[tuple[object, ...], tuple[int, int]] = {}
        self._group_slots: Slots[tuple[object, ...] | NextHop] = Slots(
            len(Reason), CAPACITY["GROUPS_MAX"]
        )
        self._blocks = Blocks(0, CAPACITY["PATHS_MAX"])
        self._routes: dict[Prefix, int] = {}
        self._adopt()

    # --- taking over ----------------------------------------------------------------------------

    def _adopt(self) -> None:
        maps = self._maps
        for reason in Reason:
            self._store_group(int(reason), GroupKind.PASS, int(reason), 0)
        for slot, nexthop in read_nexthops(maps):
            self._nexthop_slots.adopt(nexthop, slot)
        self._nexthop_slots.used = max(
            self._nexthop_slots.used, maps["control"].entries[0].nexthops_used
        )
        self._adopt_devices()
        self._adopt_interfaces()
        for name in ("routes4", "routes6"):
            for key, group in maps.items(name):
                self._routes[_prefix(key)] = group
        self._adopt_groups()

    def _adopt_devices(self) -> None:
        for slot in range(CAPACITY["DEVICES_MAX"]):
            value = libbpf.map_lookup(self._maps.fds["devices"], slot.to_bytes(4, "little"), 4)
            if value is not None and any(value):
                self._device_slots.adopt(int.from_bytes(value, "little"), slot)

    def _adopt_interfaces(self) -> None:
        entries = self._maps["interfaces"].entries
        for slot in range(CAPACITY["INTERFACES_MAX"]):
            ifindex = entries[slot].ifindex
            if ifindex:
                self._interfaces[ifindex] = Interface(b"", 0, 0)  # differs from any wanted one
        for key, ifindex in self._maps.items("vlans"):
            fields = (key.outer_tpid, key.outer_vid, key.inner_tpid, key.inner_vid)
            swapped = (_swap16(fields[0]), fields[1], _swap16(fields[2]), fields[3])
            self._vlans[VlanKey(key.ifindex, *swapped)] = ifindex

    def _adopt_groups(self) -> None:
        """An earlier agent's groups keep their places until the first sync has replaced them."""
        entries = self._maps["groups"].entries
        for slot in sorted(set(self._routes.values())):
            if slot < len(Reason):
                continue
            key = ("adopted", slot)
            self._group_slots.adopt(key, slot)
            self._groups[key] = ()
            group = entries[slot]
            if group.kind == GroupKind.THRESHOLD:
                self._group_blocks[key] = (group.first, group.count)
                end = group.first + _power_of_two(group.count)
                self._blocks = Blocks(max(end, self._blocks._next), CAPACITY["PATHS_MAX"])

    # --- bringing the maps to what is wanted -----------------------------------------------------

    def sync(self, tables: Tables) -> None:
        """Make the maps say what `tables` says. Raises libbpf.BpfError when the kernel refuses."""
        self._publish_config(_cautious(self._config, tables.config))
        self._sync_nexthops(tables.nexthops)
        numbers = self._sync_groups(tables.groups)
        self._sync_routes(tables.routes, numbers)
        self._sync_ingress(tables)
        self._publish_config(tables.config)
        self._retire(tables)

    def set_lease(self, jiffies: int) -> None:
        """Let the program work until bpf_jiffies64() reaches `jiffies`."""
        self._maps["control"].store_word(0, 0, jiffies)

    @property
    def nexthop_slots(self) -> Mapping[NextHop, int]:
        """The next hops in use and their entries in `nexthops` and `path_stats`."""
        return self._nexthop_slots.live

    def _publish_config(self, config: Config) -> None:
        if config == self._config:
            return
        control, configs = self._maps["control"].entries[0], self._maps["config"]
        slot = 1 - control.config_slot
        if self._config is not None:
            libbpf.wait_for_readers()  # of the slot that was in force before
        configs.store(slot, self._config_struct(config))
        control.config_slot = slot
        self._config = config

    def _config_struct(self, config: Config) -> Any:
        seed = config.seed or 0
        state = sip_state(seed)
        struct = self._maps.layout.value("config")(
            policy4=config.policy4,
            policy6=config.policy6,
            pass4=config.pass4,
            pass6=config.pass6,
            pass_multipath4=config.pass_multipath4,
            pass_multipath6=config.pass_multipath6,
            seed=seed,
        )
        struct.sip_start[:] = state
        struct.sip_after_zero[:] = sip_absorb(state, [0] * 4)
        struct.local4_filter[:] = local4_filter(config.local4)
        return struct

    # next hops

    def _sync_nexthops(self, wanted: Mapping[NextHop, Adjacency]) -> None:
        for nexthop, adjacency in wanted.items():
            if self._nexthops.get(nexthop) != adjacency:
                self._store_nexthop(nexthop, adjacency)
                self._nexthops[nexthop] = adjacency

    def _store_nexthop(self, nexthop: NextHop, adjacency: Adjacency) -> None:
        try:
            slot, recycled = self._nexthop_slots.acquire(nexthop)
        except CapacityError:
            return  # its groups will find it missing, and pass
        if recycled:
            self._maps.clear_per_cpu("path_stats", slot)
        struct = self._maps.layout.value("nexthops")(
            ifindex=nexthop.ifindex,
            device=self._device_slot(adjacency.device),
            reason=adjacency.reason,
            family={0: 0, 4: 4, 16: 6}[len(nexthop.via)],
            mtu=adjacency.mtu,
        )
        struct.neighbour_mac[:] = adjacency.mac
        struct.device_mac[:] = adjacency.device_mac
        struct.via[: len(nexthop.via)] = nexthop.via
        for side, tag in zip(("outer", "inner"), adjacency.tags, strict=False):
            setattr(struct, f"{side}_tpid", _swap16(tag.tpid))
            setattr(struct, f"{side}_tci", _swap16(tag.vid))
        self._maps["nexthops"].store(slot, struct, publish=NEIGHBOUR_WORD)
        self._maps["control"].entries[0].nexthops_used = self._nexthop_slots.used

    def _device_slot(self, ifindex: int) -> int:
        if not ifindex:
            return 0
        known = ifindex in self._device_slots.live
        slot, _ = self._device_slots.acquire(ifindex)
        if not known:
            key, value = slot.to_bytes(4, "little"), ifindex.to_bytes(4, "little")
            libbpf.map_update(self._maps.fds["devices"], key, value)
        return slot

    # groups

    def _sync_groups(self, wanted: Mapping[tuple[object, ...], Group]) -> _Numbers:
        for key, group in wanted.items():
            if self._groups.get(key) == group:
                continue
            if self._place_group(key, group):
                self._groups[key] = group
            elif key in self._group_slots.live:
                slot = self._group_slots.live[key]
                self._store_group(slot, GroupKind.PASS, int(Reason.TABLE_FULL), 0)
        return _Numbers(self)

    def _place_group(self, key: tuple[object, ...], group: Group) -> bool:
        """Write the paths where nobody looks, then point the group to them."""
        try:
            slot, _ = self._group_slots.acquire(key)
            first = self._blocks.acquire(len(group))
            numbers = [self._nexthop_slots.live[entry.nexthop] for entry in group]
        except (CapacityError, KeyError):
            return False
        path = self._maps.layout.value("paths")
        for i, (entry, number) in enumerate(zip(group, numbers, strict=True)):
            struct = path(bound=entry.bound, nexthop=number, weight=min(entry.weight, 65536) - 1)
            self._maps["paths"].store(first + i, struct)
        self._store_group(slot, GroupKind.THRESHOLD, first, len(group))
        if key in self._group_blocks:
            self._blocks.retire(*self._group_blocks[key])
        self._group_blocks[key] = (first, len(group))
        return True

    def _store_group(self, slot: int, kind: int, first: int, count: int) -> None:
        struct = self._maps.layout.value("groups")(first=first, count=count, kind=kind)
        self._maps["groups"].store(slot, struct)

    def group_number(self, target: Target) -> int:
        """The entry of `groups` for what a route leads to."""
        if isinstance(target, NextHop):
            return self._single(target)
        if isinstance(target, tuple):
            known = self._groups.get(target) and self._group_slots.live.get(target)
            return known or int(Reason.TABLE_FULL)
        return int(target)

    def _single(self, nexthop: NextHop) -> int:
        known = self._group_slots.live.get(nexthop)
        if known is not None:
            return known
        number = self._nexthop_slots.live.get(nexthop)
        if number is None:
            return int(Reason.TABLE_FULL)
        try:
            slot, _ = self._group_slots.acquire(nexthop)
        except CapacityError:
            return int(Reason.TABLE_FULL)
        self._store_group(slot, GroupKind.SINGLE, number, 1)
        return slot

    # routes

    def _sync_routes(self, wanted: Mapping[Prefix, Target], numbers: _Numbers) -> None:
        routes = self._routes
        changed: dict[int, list[tuple[Prefix, int]]] = {4: [], 6: []}
        for prefix, target in wanted.items():
            number = numbers[target]
            if routes.get(prefix) != number:
                changed[4 if len(prefix.address) == 4 else 6].append((prefix, number))
                routes[prefix] = number
        for family, rows in changed.items():
            self._store_routes(self._maps.fds[f"routes{family}"], rows)
        if len(routes) != len(wanted):
            for prefix in [prefix for prefix in routes if prefix not in wanted]:
                libbpf.map_delete(self._maps.fds[f"routes{prefix.family}"], _trie_key(prefix))
                del routes[prefix]

    @staticmethod
    def _store_routes(fd: int, rows: list[tuple[Prefix, int]]) -> None:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            keys = b"".join(_trie_key(prefix) for prefix, _ in batch)
            values = b"".join(number.to_bytes(4, "little") for _, number in batch)
            libbpf.map_update_batch(fd, keys, values, len(batch))

    # ingress

    def _sync_ingress(self, tables: Tables) -> None:
        array, value = self._maps["interfaces"], self._maps.layout.value("interfaces")
        for ifindex in self._interfaces.keys() - tables.interfaces.keys():
            array.store_word(ifindex % array.count, IFINDEX_WORD, 0)
            del self._interfaces[ifindex]
        for ifindex, interface in tables.interfaces.items():
            if self._interfaces.get(ifindex) != interface:
                struct = value(
                    flags=interface.flags, rp_filter=interface.rp_filter, ifindex=ifindex
                )
                struct.mac[:] = interface.mac
                array.store(ifindex % array.count, struct, publish=IFINDEX_WORD)
                self._interfaces[ifindex] = interface
        self._sync_vlans(tables.vlans)

    def _sync_vlans(self, wanted: Mapping[VlanKey, int]) -> None:
        fd = self._maps.fds["vlans"]
        for key in self._vlans.keys() - wanted.keys():
            libbpf.map_delete(fd, self._vlan_key(key))
        for key, ifindex in wanted.items():
            if self._vlans.get(key) != ifindex:
                libbpf.map_update(fd, self._vlan_key(key), ifindex.to_bytes(4, "little"))
        self._vlans = dict(wanted)

    def _vlan_key(self, key: VlanKey) -> bytes:
        return bytes(
            self._maps.layout.key("vlans")(
                ifindex=key.ifindex,
                outer_tpid=_swap16(key.outer_tpid),
                outer_vid=key.outer_vid,
                inner_tpid=_swap16(key.inner_tpid),
                inner_vid=key.inner_vid,
            )
        )

    # what nobody wants any more

    def _retire(self, tables: Tables) -> None:
        singles = {target for target in tables.routes.values() if isinstance(target, NextHop)}
        for key in [k for k in self._group_slots.live if not _wanted(k, tables, singles)]:
            self._group_slots.retire(key)
            self._groups.pop(key, None)
            block = self._group_blocks.pop(key, None)
            if block is not None:
                self._blocks.retire(*block)
        gone = self._nexthop_slots.live.keys() - tables.nexthops.keys()
        for nexthop in list(gone):
            slot = self._nexthop_slots.retire(nexthop)
            self._maps["nexthops"].entries[slot].reason = int(Reason.NO_ROUTE)
            self._nexthops.pop(nexthop, None)
        devices = {adjacency.device for adjacency in tables.nexthops.values()}
        for ifindex in self._device_slots.live.keys() - devices:
            self._device_slots.retire(ifindex)


def _wanted(key: object, tables: Tables, singles: set[NextHop]) -> bool:
    return key in singles if isinstance(key, NextHop) else key in tables.groups


class _Numbers(dict[Any, int]):
    """Target → entry of `groups`, asked once for each distinct target of a sync."""

    def __init__(self, dataplane: Dataplane) -> None:
        super().__init__()
        self._dataplane = dataplane

    def __missing__(self, target: Any) -> int:
        number = self[target] = self._dataplane.group_number(target)
        return number


def _cautious(old: Config | None, new: Config) -> Config:
    """The new configuration, still passing what the old one passed: until the routes are in."""
    if old is None:
        return new
    return new._replace(pass4=new.pass4 or old.pass4, pass6=new.pass6 or old.pass6)


def read_nexthops(maps: Maps) -> Iterable[tuple[int, NextHop]]:
    """The next hops in use, with their numbers."""
    entries = maps["nexthops"].entries
    for slot in range(maps["control"].entries[0].nexthops_used):
        entry = entries[slot]
        if entry.ifindex and entry.reason != Reason.NO_ROUTE:
            via = bytes(entry.via)[: {0: 0, 4: 4, 6: 16}[entry.family]]
            yield slot, NextHop(via, entry.ifindex)


def _swap16(value: int) -> int:
    return int.from_bytes(value.to_bytes(2, "big"), "little")


def _trie_key(prefix: Prefix) -> bytes:
    return prefix.length.to_bytes(4, "little") + prefix.address


def _prefix(key: Any) -> Prefix:
    raw = bytes(key)
    return Prefix(raw[4:], int.from_bytes(raw[:4], "little"))
