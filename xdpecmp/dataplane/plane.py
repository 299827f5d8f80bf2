"""Brings the maps to what `compile` wants, while packets flow.

Every step leaves the maps right for the packet that comes next: what is new is written where
nobody looks yet and then pointed to by one store; what is no longer pointed to is reused only after
a grace period (`libbpf.wait_for_readers`). A next hop keeps its number, and so its counters, for as
long as it is known, through restarts of the agent too.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from ..compile import (
    Adjacency,
    Config,
    Interface,
    MacKey,
    TableChange,
    Tables,
    Target,
    VlanKey,
    local4_filter,
)
from ..hashing import sip_absorb, sip_state
from ..model.packed import Layered
from ..model.values import NextHop
from ..program import libbpf
from ..program.abi import CAPACITY, FRAGMENTS_OF, INDIRECT_INGRESS, NEXTHOP_FLAGS, Reason
from ..program.clock import Jiffies
from ..program.maps import Maps
from . import counters
from .groups import Groups
from .slots import CapacityError, Slots
from .tries import Tries

NEIGHBOUR_WORD = 1
"""The word of struct nexthop that makes it usable."""
IFINDEX_WORD = 1
"""The word of struct interface that makes it count."""
FLOW_LABEL_MASK = 0xFFFFF

_K = TypeVar("_K")


class Dataplane:
    """The maps of one instance and what is in them."""

    def __init__(self, maps: Maps) -> None:
        """Takes over what an earlier agent left in the maps."""
        self._maps = maps
        self._config: Config | None = None
        self._config_lock = threading.Lock()
        """Held to store pass4 and pass6 of the entry in force, or to put another in force."""
        self._behind = False
        self._interfaces: dict[int, Interface] = {}
        self._crowded_out: list[int] = []
        self._vlans: dict[VlanKey, int] = {}
        self._macs: dict[MacKey, int] = {}
        self._nexthops: dict[NextHop, Adjacency] = {}
        self._nexthop_slots: Slots[NextHop] = Slots(0, CAPACITY["NEXTHOPS_MAX"])
        self._device_slots: Slots[int] = Slots(0, CAPACITY["DEVICES_MAX"])
        self._groups = Groups(maps, self._nexthop_slots)
        self._tries: Tries[Target] = Tries(maps)
        self._adopt()

    # --- taking over ----------------------------------------------------------------------------

    def _adopt(self) -> None:
        maps = self._maps
        for owner in sorted(counters.owners(maps), key=lambda owner: not owner.in_use):
            if owner.in_use:
                self._nexthop_slots.adopt(owner.nexthop, owner.slot)
            else:  # its counters go on should it come back
                self._nexthop_slots.remember(owner.nexthop, owner.slot)
        self._nexthop_slots.used = max(
            self._nexthop_slots.used, maps["control"].entries[0].nexthops_used
        )
        self._adopt_passing()
        self._adopt_devices()
        self._adopt_interfaces()
        self._groups.adopt(self._tries.held.distinct())

    def _adopt_passing(self) -> None:
        """What passes as a whole goes on to do so until the first `sync` has stored the routes."""
        config = self._maps["config"].entries[self._maps["control"].entries[0].config_slot]
        self._adopted_passing = _passing(config)

    def _adopt_devices(self) -> None:
        for slot in range(CAPACITY["DEVICES_MAX"]):
            value = libbpf.map_lookup(self._maps.fds["devices"], slot.to_bytes(4, "little"), 4)
            if value is not None and any(value):
                self._device_slots.adopt(int.from_bytes(value, "little"), slot)

    def _adopt_interfaces(self) -> None:
        entries = self._maps["interfaces"].entries
        for slot in range(CAPACITY["INTERFACES_MAX"]):
            ifindex = entries[slot].ifindex & ~INDIRECT_INGRESS
            if ifindex:
                self._interfaces[ifindex] = Interface(b"", 0, 0, 0)  # differs from any wanted one
        for key, ifindex in self._maps.items("vlans"):
            fields = (key.outer_tpid, key.outer_vid, key.inner_tpid, key.inner_vid)
            swapped = (_swap16(fields[0]), fields[1], _swap16(fields[2]), fields[3])
            self._vlans[VlanKey(key.ifindex, *swapped)] = ifindex & ~INDIRECT_INGRESS
        for key, ifindex in self._maps.items("macs"):
            mac = key.mac.to_bytes(8, "little")[:6]
            self._macs[MacKey(key.ifindex, mac)] = ifindex & ~INDIRECT_INGRESS

    # --- bringing the maps to what is wanted -----------------------------------------------------

    def sync(self, tables: Tables) -> bool:
        """Make the maps say what `tables` says. False where there was not room for all, which there
        may be the next time, without what nobody wants any more. Raises OSError when the kernel
        refuses."""
        passing = _passing(self._config) if self._config else self._adopted_passing
        self._publish_config(_cautious(passing, tables.config))
        self._sync_devices()
        self._groups.hash_as_linux(self._hashes_as_linux(tables.config))
        targets = Layered.of(tables.routes)
        fits = self._sync_nexthops(tables.nexthops)
        fits &= self._groups.sync(tables.groups, targets, self._tries.held)
        self._tries.sync(targets, self._groups.number)
        self._sync_ingress(tables)
        self._publish_config(tables.config)
        self._retire(tables, targets)
        return fits

    def change(self, change: TableChange) -> bool:
        """Make the maps say this too, after a `sync`; False as there."""
        fits = self._sync_nexthops(change.nexthops)
        fits &= self._groups.add(change.groups)
        self._tries.change(change.routes, self._groups.number)
        return fits

    def mark_down(self, devices: Collection[int]) -> bool:
        """Pass to Linux, until the next `sync`, what would leave by these devices. Whether anything
        would."""
        marked = [
            nexthop
            for nexthop, adjacency in self._nexthops.items()
            if (nexthop.ifindex in devices or adjacency.device in devices)
            and adjacency.reason in (Reason.FORWARDED, Reason.EGRESS_NO_XDP)
        ]
        entries = self._maps["nexthops"].entries
        for nexthop in marked:
            del self._nexthops[nexthop]  # so that it is stored again
            entries[self._nexthop_slots.live[nexthop]].reason = int(Reason.EGRESS_DOWN)
        return bool(marked)

    def set_lease(self, jiffies: int) -> None:
        """Let the program work until bpf_jiffies64() reaches `jiffies`."""
        self._maps["control"].store_word(0, 0, jiffies)

    def fall_behind(self, since_jiffies: int) -> None:
        """Pass both families to Linux, by one store each: the maps say only what the kernel said at
        `since_jiffies`. Any thread may do it, and `catch_up`."""
        with self._config_lock:
            self._behind = True
            self._store_passing()
            self._maps["control"].entries[0].behind_jiffies = since_jiffies

    def catch_up(self) -> None:
        """The maps say what the kernel says: end `fall_behind`."""
        with self._config_lock:
            self._behind = False
            self._store_passing()
            self._maps["control"].entries[0].behind_jiffies = 0

    def _hashes_as_linux(self, config: Config) -> bool:
        """Whether Linux chooses the same for whatever passes to it, ICMP errors apart."""
        return not config.own_seed and (config.follow_label or config.policy6 != 0)

    def _store_passing(self) -> None:
        control = self._maps["control"].entries[0]
        if self._config is not None:  # else it is an earlier agent's, and goes by that
            entry = self._maps["config"].entries[control.config_slot]
            entry.pass4 = self._reason_to_pass(self._config.pass4)
            entry.pass6 = self._reason_to_pass(self._config.pass6)

    def _reason_to_pass(self, reason: int) -> int:
        return reason or int(Reason.BEHIND if self._behind else Reason.FORWARDED)

    def pass_at_once(self, pass4: int, pass6: int) -> None:
        """Have the families that have a reason here pass to Linux, by one store each, until the
        next `sync`."""
        with self._config_lock:
            if self._config is not None:
                old = self._config
                self._config = old._replace(pass4=pass4 or old.pass4, pass6=pass6 or old.pass6)
                self._store_passing()

    def settle_buckets(self, now: Jiffies) -> None:
        """Let buckets go where the kernel wants them which have become idle since."""
        self._groups.settle(now)

    @property
    def crowded_out(self) -> Sequence[int]:
        """Indexes of interfaces that found no place, so that what they receive passes to Linux."""
        return self._crowded_out

    def forwarded(self, nexthop: NextHop) -> int | None:
        """Packets that the next hop's entry has counted so far; None if it has none."""
        slot = self._nexthop_slots.live.get(nexthop)
        if slot is None:
            return None
        return sum(int(each.packets) for each in self._maps.per_cpu("path_stats", slot))

    def descriptors(self) -> set[int]:
        """The open files that a forked process needs to go on with it."""
        return set(self._maps.fds.values())

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
        with self._config_lock:
            configs.store(slot, self._config_struct(config))
            control.config_slot = slot
            self._config = config
            if not self._behind:
                control.behind_jiffies = 0  # an earlier agent's

    def _config_struct(self, config: Config) -> Any:
        seed = config.seed or 0
        state = sip_state(seed)
        struct = self._maps.layout.value("config")(
            policy4=config.policy4,
            policy6=config.policy6,
            pass4=self._reason_to_pass(config.pass4),
            pass6=self._reason_to_pass(config.pass6),
            pass_multipath4=config.pass_multipath4,
            pass_multipath6=config.pass_multipath6,
            pass_fragments=(
                config.pass_fragments4 * FRAGMENTS_OF["IPV4"]
                | config.pass_fragments6 * FRAGMENTS_OF["IPV6"]
            ),
            seed=seed,
            own_seed=config.own_seed,
            label_mask=_swap32(FLOW_LABEL_MASK if config.follow_label else 0),
            fields4=config.fields4,
            fields6=config.fields6,
        )
        for family, parting in ((4, config.parting4), (6, config.parting6)):
            if parting:
                setattr(struct, f"own_seed_cause{family}", int(parting[0].cause))
                setattr(struct, f"own_seed_ifindex{family}", parting[0].ifindex)
        struct.sip_start[:] = state
        struct.sip_after_zero[:] = sip_absorb(state, [0] * 4)
        struct.sip_after_tcp[:] = sip_absorb(state, [socket.IPPROTO_TCP << 16, 0, 0])
        struct.sip_after_udp[:] = sip_absorb(state, [socket.IPPROTO_UDP << 16, 0, 0])
        struct.local4_filter[:] = local4_filter(config.local4)
        return struct

    # next hops

    def _sync_nexthops(self, wanted: Mapping[NextHop, Adjacency]) -> bool:
        fits = True
        for nexthop, adjacency in wanted.items():
            if self._nexthops.get(nexthop) == adjacency:
                continue
            try:
                self._store_nexthop(nexthop, adjacency)
                self._nexthops[nexthop] = adjacency
            except CapacityError:
                fits = False
                self._leave_to_linux(nexthop, int(Reason.TABLE_FULL))
            except OSError:  # the devmap's: its device has just gone
                fits = False
                self._leave_to_linux(nexthop, int(Reason.EGRESS_DOWN))
        return fits

    def _leave_to_linux(self, nexthop: NextHop, reason: int) -> None:
        """One that could not be stored. Without an entry, its groups find it missing, and pass."""
        self._nexthops.pop(nexthop, None)
        if nexthop in self._nexthop_slots.live:
            self._maps["nexthops"].entries[self._nexthop_slots.live[nexthop]].reason = reason

    def _store_nexthop(self, nexthop: NextHop, adjacency: Adjacency) -> None:
        device = self._device_slot(adjacency.device)
        slot, recycled = self._nexthop_slots.acquire(nexthop)
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
            setattr(struct, f"{side}_tpid", _swap16(tag.tpid))
            setattr(struct, f"{side}_tci", _swap16(tag.vid))
        self._maps["nexthops"].store(slot, struct, publish=NEIGHBOUR_WORD)
        self._maps["control"].entries[0].nexthops_used = self._nexthop_slots.used

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
            try:
                libbpf.map_update(self._maps.fds["devices"], key, value)
            except OSError:
                self._device_slots.retire(ifindex)
                raise
        return slot

    # ingress

    def _sync_ingress(self, tables: Tables) -> None:
        array, value = self._maps["interfaces"], self._maps.layout.value("interfaces")
        wanted, self._crowded_out = _seated(tables.interfaces, array.count)
        for ifindex in self._interfaces.keys() - wanted.keys():
            array.store_word(ifindex % array.count, IFINDEX_WORD, 0)
            del self._interfaces[ifindex]
        for ifindex, interface in wanted.items():
            if self._interfaces.get(ifindex) != interface:
                struct = value(
                    flags=interface.flags,
                    rp_filter=interface.rp_filter,
                    ifindex=ifindex if interface.direct else ifindex | INDIRECT_INGRESS,
                    logical=interface.logical,
                )
                struct.mac[:] = interface.mac
                array.store(ifindex % array.count, struct, publish=IFINDEX_WORD)
                self._interfaces[ifindex] = interface
        self._vlans = self._sync_keys("vlans", self._vlans, tables.vlans, self._vlan_key)
        self._macs = self._sync_keys("macs", self._macs, tables.macs, self._mac_key)

    def _sync_keys(
        self,
        name: str,
        held: Mapping[_K, int],
        wanted: Mapping[_K, int],
        packed: Callable[[_K], bytes],
    ) -> dict[_K, int]:
        """What leads from tags or a MAC address to an interface; what is stored."""
        fd = self._maps.fds[name]
        for key in held.keys() - wanted.keys():
            libbpf.map_delete(fd, packed(key))
        stored = dict(wanted)
        for key, ifindex in wanted.items():
            if held.get(key) != ifindex:
                value = (ifindex | INDIRECT_INGRESS).to_bytes(4, "little")
                try:
                    libbpf.map_update(fd, packed(key), value)
                except OSError:  # there are too many: what comes in by this one passes
                    libbpf.map_delete(fd, packed(key))
                    del stored[key]
        return stored

    def _mac_key(self, key: MacKey) -> bytes:
        kind = self._maps.layout.key("macs")
        return bytes(kind(mac=int.from_bytes(key.mac, "little"), ifindex=key.ifindex))

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

    def _retire(self, tables: Tables, targets: Layered[Target]) -> None:
        self._groups.retire(tables.groups.keys(), targets.distinct())
        gone = self._nexthop_slots.live.keys() - tables.nexthops.keys()
        for nexthop in list(gone):
            slot = self._nexthop_slots.retire(nexthop)
            self._maps["nexthops"].entries[slot].reason = int(Reason.NO_ROUTE)
            self._nexthops.pop(nexthop, None)
        devices = {adjacency.device for adjacency in tables.nexthops.values()}
        for ifindex in self._device_slots.live.keys() - devices:
            self._device_slots.retire(ifindex)


def _seated(
    interfaces: Mapping[int, Interface], places: int
) -> tuple[dict[int, Interface], list[int]]:
    """The interfaces that find their place free, and the indexes of those that don't: the numbers
    of two that are 4,096 apart, of which the lower one has it."""
    seated: dict[int, Interface] = {}
    taken: set[int] = set()
    crowded_out = []
    for ifindex in sorted(interfaces):
        if ifindex % places in taken:
            crowded_out.append(ifindex)
        else:
            taken.add(ifindex % places)
            seated[ifindex] = interfaces[ifindex]
    return seated, crowded_out


def _passing(config: Any) -> dict[str, Any]:
    """What passes as a whole: of a Config, or of an entry of the map."""
    fields = ("pass4", "pass6", "pass_multipath4", "pass_multipath6")
    return {field: getattr(config, field) for field in fields}


def _cautious(passing: Mapping[str, Any], new: Config) -> Config:
    """The new configuration, still passing what the old one passed: until the routes are in."""
    fields: dict[str, Any] = {name: getattr(new, name) or old for name, old in passing.items()}
    return new._replace(**fields)


def _swap16(value: int) -> int:
    return int.from_bytes(value.to_bytes(2, "big"), "little")


def _swap32(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), "little")
