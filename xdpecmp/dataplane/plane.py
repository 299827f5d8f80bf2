"""Brings the maps to what `compile` wants, while packets flow.

Every step leaves the maps right for the packet that comes next: what is new is written where no
packet looks yet and then pointed to by one store; what is no longer pointed to is reused only after
a grace period (`libbpf.wait_for_readers`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..compile import Config, TableChange, Tables, Target
from ..model.packed import Layered
from ..model.values import NextHop
from ..program.clock import Jiffies
from ..program.maps import Maps
from .control import Control
from .groups import Groups
from .ingress import Ingress
from .nexthops import Nexthops
from .tries import Tries


class Dataplane:
    """The maps of one instance and what is in them."""

    def __init__(self, maps: Maps) -> None:
        """Takes over what an earlier agent left in the maps."""
        self._maps = maps
        self._control = Control(maps)
        self._ingress = Ingress(maps)
        self._nexthops = Nexthops(maps)
        self._groups = Groups(maps, self._nexthops.slots)
        self._tries: Tries[Target] = Tries(maps)
        self._groups.adopt(self._tries.held.distinct())

    # --- bringing the maps to what is wanted ------------------------------------------------------

    def sync(self, tables: Tables) -> bool:
        """Make the maps say what `tables` says. False if that exceeds a limit: it may not the next
        time, without what is no longer wanted. Raises OSError when the kernel refuses."""
        self._control.publish_cautiously(tables.config)
        self._nexthops.sync_devices()
        self._groups.hash_as_linux(_hashes_as_linux(tables.config))
        targets = Layered.of(tables.routes)
        fits = self._nexthops.sync(tables.nexthops)
        fits &= self._groups.sync(tables.groups, targets, self._tries.held)
        self._tries.sync(targets, self._groups.number)
        self._ingress.sync(tables)
        self._control.publish(tables.config)
        self._groups.retire(tables.groups.keys(), targets.distinct())
        self._nexthops.retire(tables.nexthops)
        return fits

    def change(self, change: TableChange) -> bool:
        """Make the maps say this too, after a `sync`; False as there."""
        fits = self._nexthops.sync(change.nexthops)
        fits &= self._groups.add(change.groups)
        self._tries.change(change.routes, self._groups.number)
        return fits

    def settle_buckets(self, now: Jiffies) -> None:
        """Let buckets go where the kernel wants them which have become idle since."""
        self._groups.settle(now)

    # --- by one store -----------------------------------------------------------------------------

    def mark_down(self, devices: Collection[int]) -> bool:
        """See Nexthops."""
        return self._nexthops.mark_down(devices)

    def pass_at_once(self, pass4: int, pass6: int) -> None:
        """See Control."""
        self._control.pass_at_once(pass4, pass6)

    def set_lease(self, jiffies: int) -> None:
        """See Control."""
        self._control.set_lease(jiffies)

    def fall_behind(self, since_jiffies: int) -> None:
        """See Control."""
        self._control.fall_behind(since_jiffies)

    def catch_up(self) -> None:
        """See Control."""
        self._control.catch_up()

    # --- what there is ----------------------------------------------------------------------------

    @property
    def crowded_out(self) -> Sequence[int]:
        """Indexes of interfaces whose place another one has: what they receive passes to Linux."""
        return self._ingress.crowded_out

    @property
    def nexthop_slots(self) -> Mapping[NextHop, int]:
        """The next hops in use and their entries in `nexthops` and `path_stats`."""
        return self._nexthops.slots.live

    def forwarded(self, nexthop: NextHop) -> int | None:
        """Packets that the next hop's entry has counted so far; None if it has none."""
        return self._nexthops.forwarded(nexthop)

    def descriptors(self) -> set[int]:
        """The open files that a forked process needs to go on with it."""
        return set(self._maps.fds.values())


def _hashes_as_linux(config: Config) -> bool:
    """Whether Linux chooses the same for whatever passes to it, ICMP errors apart."""
    return not config.own_seed and (config.follow_label or config.policy6 != 0)
