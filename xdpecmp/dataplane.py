"""Brings the maps to what `compile` wants, while packets flow.

Every step leaves the maps right for the packet that comes next: what is new is written where
nobody looks yet and then pointed to by one store; what is no longer pointed to is reused only after
a grace period (`libbpf.wait_for_readers`). A next hop keeps its number, and so its counters, for as
long as it is known, through restarts of the agent too.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from . import libbpf
from .abi import CAPACITY, Reason
from .clock import Jiffies
from .compile import (
    Adjacency,
    Config,
    Interface,
    Tables,
    Target,
    VlanKey,
    local4_filter,
)
from .compile.prefixes import masked
from .direct import Change, Direct4
from .groups import Groups
from .hashing import sip_absorb, sip_state
from .maps import DIRECT, Maps
from .model import NextHop, Prefix
from .slots import CapacityError, Slots

NEIGHBOUR_WORD = 1
"""The word of struct nexthop that makes it usable."""
IFINDEX_WORD = 1
"""The word of struct interface that makes it count."""
FLOW_LABEL_MASK = 0xFFFFF
_BATCH = 4096


class Dataplane:
    """The maps of one instance and what is in them."""

    def __init__(self, maps: Maps, follow_label: bool = True) -> None:
        """Takes over what an earlier agent left in the maps. `follow_label`: hash the flow label
        under IPv6 policy 0, as Linux does."""
        self._maps = maps
        self._label_mask = FLOW_LABEL_MASK if follow_label else 0
        self._config: Config | None = None
        self._interfaces: dict[int, Interface] = {}
        self._vlans: dict[VlanKey, int] = {}
        self._nexthops: dict[NextHop, Adjacency] = {}
        self._nexthop_slots: Slots[NextHop] = Slots(0, CAPACITY["NEXTHOPS_MAX"])
        self._device_slots: Slots[int] = Slots(0, CAPACITY["DEVICES_MAX"])
        self._groups = Groups(maps, self._nexthop_slots)
        self._routes: dict[Prefix, int] = {}
        self._direct = Direct4(*(maps.memory(name) for name in DIRECT))
        self._adopt()
        self._rebuild_direct()
        self._count_epoch6()

    # --- taking over ----------------------------------------------------------------------------

    def _adopt(self) -> None:
        maps = self._maps
        for slot, nexthop in maps.nexthops():
            self._nexthop_slots.adopt(nexthop, slot)
        self._nexthop_slots.used = max(
            self._nexthop_slots.used, maps["control"].entries[0].nexthops_used
        )
        self._adopt_devices()
        self._adopt_interfaces()
        for name in ("routes4", "routes6"):
            for key, group in maps.items(name):
                self._routes[_prefix(key)] = group
        self._groups.adopt(self._routes.values())

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

    # --- bringing the maps to what is wanted -----------------------------------------------------

    def sync(self, tables: Tables) -> None:
        """Make the maps say what `tables` says. Raises OSError when the kernel refuses."""
        self._publish_config(_cautious(self._config, tables.config))
        self._sync_devices()
        self._sync_nexthops(tables.nexthops)
        self._groups.sync(tables, self._routes)
        self._sync_routes(tables.routes)
        self._sync_ingress(tables)
        self._publish_config(tables.config)
        self._retire(tables)

    def set_lease(self, jiffies: int) -> None:
        """Let the program work until bpf_jiffies64() reaches `jiffies`."""
        self._maps["control"].store_word(0, 0, jiffies)

    def settle_buckets(self, now: Jiffies) -> None:
        """Let buckets go where the kernel wants them which have become idle since."""
        self._groups.settle(now)

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
            own_seed=config.own_seed,
            label_mask=_swap32(self._label_mask),
            fields4=config.fields4,
            fields6=config.fields6,
        )
        struct.sip_start[:] = state
        struct.sip_after_zero[:] = sip_absorb(state, [0] * 4)
        struct.sip_after_tcp[:] = sip_absorb(state, [socket.IPPROTO_TCP << 16, 0, 0])
        struct.sip_after_udp[:] = sip_absorb(state, [socket.IPPROTO_UDP << 16, 0, 0])
        struct.local4_filter[:] = local4_filter(config.local4)
        return struct

    # next hops

    def _sync_nexthops(self, wanted: Mapping[NextHop, Adjacency]) -> None:
        for nexthop, adjacency in wanted.items():
            if self._nexthops.get(nexthop) == adjacency:
                continue
            try:
                self._store_nexthop(nexthop, adjacency)
                self._nexthops[nexthop] = adjacency
            except CapacityError:
                self._nexthops.pop(nexthop, None)
                if nexthop in self._nexthop_slots.live:  # else its groups find it missing, and pass
                    slot = self._nexthop_slots.live[nexthop]
                    self._maps["nexthops"].entries[slot].reason = int(Reason.TABLE_FULL)

    def _store_nexthop(self, nexthop: NextHop, adjacency: Adjacency) -> None:
        device = self._device_slot(adjacency.device)
        slot, recycled = self._nexthop_slots.acquire(nexthop)
        if recycled:
            self._maps.clear_per_cpu("path_stats", slot)
        struct = self._maps.layout.value("nexthops")(
            ifindex=nexthop.ifindex,
            device=device,
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

    def _sync_devices(self) -> None:
        """A device that left and came back is no longer in the devmap: the kernel took it out."""
        fd = self._maps.fds["devices"]
        for ifindex, slot in list(self._device_slots.live.items()):
            found = libbpf.map_lookup(fd, slot.to_bytes(4, "little"), 4)
            if found is None or not any(found):
                self._device_slots.retire(ifindex)
                self._nexthops = {
                    nexthop: adjacency
                    for nexthop, adjacency in self._nexthops.items()
                    if adjacency.device != ifindex
                }

    def _device_slot(self, ifindex: int) -> int:
        if not ifindex:
            return 0
        known = ifindex in self._device_slots.live
        slot, _ = self._device_slots.acquire(ifindex)
        if not known:
            key, value = slot.to_bytes(4, "little"), ifindex.to_bytes(4, "little")
            libbpf.map_update(self._maps.fds["devices"], key, value)
        return slot

    # routes

    def _sync_routes(self, wanted: Mapping[Prefix, Target]) -> None:
        routes, numbers = self._routes, _Numbers(self._groups)
        changed: dict[int, list[tuple[Prefix, int]]] = {4: [], 6: []}
        direct: list[Change] = []
        gone6 = False
        for prefix, target in wanted.items():
            number = numbers[target]
            old = routes.get(prefix)
            if old != number:
                if len(prefix.address) == 4:
                    direct.append(Change(prefix, old, number))
                changed[4 if len(prefix.address) == 4 else 6].append((prefix, number))
                routes[prefix] = number
        for family, rows in changed.items():
            self._store_routes(self._maps.fds[f"routes{family}"], rows)
        if len(routes) != len(wanted):
            for prefix in [prefix for prefix in routes if prefix not in wanted]:
                libbpf.map_delete(self._maps.fds[f"routes{prefix.family}"], _trie_key(prefix))
                old = routes.pop(prefix)
                if prefix.family == 4:
                    direct.append(Change(prefix, old, None))
                else:
                    gone6 = True
        if changed[6] or gone6:
            self._count_epoch6()
        if len(direct) > 10000:
            self._rebuild_direct()
        else:
            self._direct.apply(direct, self._covering)

    def _count_epoch6(self) -> None:
        """What packets have found in the IPv6 trie no longer counts."""
        control = self._maps["control"].entries[0]
        control.epoch6 = control.epoch6 % 0xFFFFFFFF + 1

    def _covering(self, prefix: Prefix) -> tuple[int, int] | None:
        for length in range(prefix.length - 1, -1, -1):
            found = self._routes.get(Prefix(masked(prefix.address, length), length))
            if found is not None:
                return length, found
        return None

    def _rebuild_direct(self) -> None:
        import numpy as np

        routes = {p: n for p, n in self._routes.items() if len(p.address) == 4}
        self._direct.rebuild(
            np.array([int.from_bytes(p.address, "big") for p in routes], np.uint32),
            np.array([p.length for p in routes], np.uint8),
            np.array(list(routes.values()), np.uint32),
        )

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
        self._groups.retire(tables)
        gone = self._nexthop_slots.live.keys() - tables.nexthops.keys()
        for nexthop in list(gone):
            slot = self._nexthop_slots.retire(nexthop)
            self._maps["nexthops"].entries[slot].reason = int(Reason.NO_ROUTE)
            self._nexthops.pop(nexthop, None)
        devices = {adjacency.device for adjacency in tables.nexthops.values()}
        for ifindex in self._device_slots.live.keys() - devices:
            self._device_slots.retire(ifindex)


class _Numbers(dict[Any, int]):
    """Target → entry of `groups`, asked once for each distinct target of a sync."""

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        self._groups = groups

    def __missing__(self, target: Any) -> int:
        number = self[target] = self._groups.number(target)
        return number


def _cautious(old: Config | None, new: Config) -> Config:
    """The new configuration, still passing what the old one passed: until the routes are in."""
    if old is None:
        return new
    return new._replace(pass4=new.pass4 or old.pass4, pass6=new.pass6 or old.pass6)


def _swap16(value: int) -> int:
    return int.from_bytes(value.to_bytes(2, "big"), "little")


def _swap32(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), "little")


def _trie_key(prefix: Prefix) -> bytes:
    return prefix.length.to_bytes(4, "little") + prefix.address


def _prefix(key: Any) -> Prefix:
    raw = bytes(key)
    return Prefix(raw[4:], int.from_bytes(raw[:4], "little"))
