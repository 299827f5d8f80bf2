"""The agent: keeps the data path saying what the kernel says, and its lease alive.

`Mirror` joins the three that know nothing of each other: netlink, compile and the maps. `Agent` is
the loop around it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from types import FrameType

from .clock import HZ, Jiffies, read_jiffies
from .compile import Tables, compile_tables, needs_walk
from .dataplane import Dataplane
from .errors import XdpecmpError
from .maps import Maps
from .model import NextHop, Snapshot
from .netlink import Changes, Kernel, Monitor

log = logging.getLogger("xdpecmp.agent")

LEASE_SECONDS = 3
"""So long the data path goes on without its agent; then it passes everything to Linux."""

TICK_SECONDS = 1.0
"""How often the lease is renewed and what comes without an event (sysctls) is read again."""

QUIET_SECONDS = 0.001
"""After an event, wait until it has been quiet for this long: FRR replaces an IPv6 route by a
DELROUTE and a NEWROUTE 0.1 ms later."""

BURST_SECONDS = 0.008
"""But no longer than this."""

_NUD_STALE = 0x04
_NUD_PERMANENT_OR_NOARP = 0xC0

EVERYTHING = Changes(
    routes=True,
    links=True,
    neighbours=True,
    rules=True,
    settings=True,
    nexthops=True,
    lost=True,
)


class Mirror:
    """The kernel's routing, mirrored in the data path."""

    def __init__(
        self,
        kernel: Kernel,
        maps: Maps,
        clock_fd: int,
        ours: Callable[[int], bool],
        record_managed: Callable[[NextHop], None],
        build_deep: Callable[[], object],
        follow_label: bool = True,
    ) -> None:
        """`ours(prog_id)`: whether an XDP program is this instance's. `record_managed` is told of
        each neighbour that is made managed. `build_deep` adds what some hash policies need.
        `follow_label`: see Dataplane."""
        self.kernel = kernel
        self._maps = maps
        self._clock_fd = clock_fd
        self._ours = ours
        self._dataplane = Dataplane(maps, follow_label)
        self._record_managed = record_managed
        self._build_deep = build_deep
        self._is_deep: bool | None = None
        """Whether the program for policies that need a walk is there; None: not tried yet."""
        self._managed: set[NextHop] = set()
        self._complaints: set[str] = set()
        self._forwarded: dict[NextHop, int] = {}
        self.snapshot: Snapshot = kernel.snapshot()
        self.tables: Tables | None = None

    def attached(self) -> set[int]:
        """Indexes of the interfaces that run our program."""
        return {
            link.ifindex
            for link in self.snapshot.links.values()
            if link.xdp_prog_id and self._ours(link.xdp_prog_id)
        }

    def pull(self, changes: Changes) -> bool:
        """Read again what changed. Whether anything is different now.

        A change of a link or an address can alter routes without an event, so routes are read too:
        see "What the kernel does not tell" in ARCHITECTURE.md.
        """
        old = new = self.snapshot
        if changes.links or changes.lost:
            new = replace(new, links=self.kernel.links())
        if changes.settings or changes.links or changes.lost:
            new = replace(new, settings=self.kernel.settings(new.links.values()))
        if changes.rules or changes.lost:
            rules4, rules6 = self.kernel.custom_rules()
            new = replace(new, custom_rules4=rules4, custom_rules6=rules6)
        if changes.routes or changes.links or changes.lost:
            new = replace(new, routes=self.kernel.routes())
        if changes.nexthops or changes.links or changes.lost:
            new = replace(new, nexthop_groups=self.kernel.nexthops())
        if changes.neighbours or changes.links or changes.lost:
            new = replace(new, neighbours=self.kernel.neighbours())
        self.snapshot = new
        return new != old

    def push(self, attached: Collection[int] | None = None) -> None:
        """Bring the data path to what was read. `attached`: interfaces about to be ours, where
        they are not yet."""
        interfaces = attached or self.attached()
        self.tables = compile_tables(self.snapshot, interfaces, bool(self._is_deep))
        self._dataplane.sync(self.tables)
        if self._is_deep is None and needs_walk(self.snapshot.settings):
            self._is_deep = self._try_deep()  # meanwhile what needs it passes to Linux
            self.tables = compile_tables(self.snapshot, interfaces, self._is_deep)
            self._dataplane.sync(self.tables)

    def _try_deep(self) -> bool:
        try:
            self._build_deep()
        except XdpecmpError as error:
            log.warning("multipath passes to Linux: %s", error)
            return False
        return True

    def renew_lease(self) -> None:
        """Let the data path work for LEASE_SECONDS from now, and do what falls due with time."""
        now = Jiffies(read_jiffies(self._clock_fd), HZ)
        self._dataplane.set_lease(now.now + LEASE_SECONDS * HZ)
        self._dataplane.settle_buckets(now)

    # --- neighbours -----------------------------------------------------------------------------

    def keep_resolved(self) -> None:
        """Have the kernel keep our next hops resolved: packets that XDP forwards don't.

        Gateways become managed neighbours. A host on a directly connected network may leave for
        good, so it is only reported as used while packets for it are forwarded.
        """
        if self.tables is None:
            return
        for gateway in self.tables.gateways:
            link = self.snapshot.links.get(gateway.ifindex)
            neighbour = self.snapshot.neighbours.get((gateway.via, gateway.ifindex))
            if link is None or not link.up:
                continue
            if neighbour and (neighbour.managed or neighbour.state & _NUD_PERMANENT_OR_NOARP):
                continue
            if gateway not in self._managed:
                self._record_managed(gateway)
                self._managed.add(gateway)
            try:
                self.kernel.manage_neighbour(gateway.via, gateway.ifindex)
            except XdpecmpError as error:  # its packets pass to Linux; no reason to stop the rest
                self._complain(str(error))
        self._report_use()

    def _report_use(self) -> None:
        assert self.tables is not None
        for nexthop, slot in self._dataplane.nexthop_slots.items():
            if nexthop in self.tables.gateways or not nexthop.via:
                continue
            neighbour = self.snapshot.neighbours.get((nexthop.via, nexthop.ifindex))
            if neighbour is None or neighbour.state != _NUD_STALE:
                continue
            packets = sum(traffic.packets for traffic in self._maps.per_cpu("path_stats", slot))
            if packets != self._forwarded.get(nexthop, packets):
                try:
                    self.kernel.use_neighbour(nexthop.via, nexthop.ifindex)
                except XdpecmpError as error:
                    self._complain(str(error))
            self._forwarded[nexthop] = packets

    def _complain(self, what: str) -> None:
        """Once about each thing."""
        if what not in self._complaints:
            self._complaints.add(what)
            log.warning("%s", what)

    def descriptors(self) -> set[int]:
        """The open files that a forked agent needs."""
        return {self._clock_fd, *self._maps.fds.values()}


class Agent:
    """Follows the kernel until told to stop."""

    def __init__(
        self, mirror: Mirror, monitor: Monitor, namespace_gone: Callable[[], bool]
    ) -> None:
        self._mirror = mirror
        self._monitor = monitor
        self._namespace_gone = namespace_gone
        self._stopping = False
        self._behind = True
        """Whether something may have been missed; so it is at first."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> bool:
        """Returns True where the instance must go too: its namespace or its last interface is gone;
        False where it was told to stop, which leaves the data path on its lease."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.set_wakeup_fd(self._wake_write)
        poll = select.poll()
        poll.register(self._monitor, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        next_tick = 0.0
        while not self._stopping:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                if self._tick():
                    return True
            if poll.poll(max(0.0, next_tick - time.monotonic()) * 1000) and not self._stopping:
                self._follow(self._settled(poll))
        return False

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _tick(self) -> bool:
        """What has to be done without an event. Whether the instance must go."""
        if self._namespace_gone():
            log.info("the network namespace is gone")
            return True
        self._follow(EVERYTHING if self._behind else Changes(settings=True))
        if self._behind:
            return False  # and no lease for a mirror that may be wrong
        if not self._mirror.attached():
            log.info("no interface runs our program any more")
            return True
        self._mirror.renew_lease()
        return False

    def _settled(self, poll: select.poll) -> Changes:
        """All changes until it is quiet."""
        deadline = time.monotonic() + BURST_SECONDS
        changes = self._monitor.drain()
        while time.monotonic() < deadline and poll.poll(QUIET_SECONDS * 1000):
            if self._stopping:
                break
            changes |= self._monitor.drain()
        return changes

    def _follow(self, changes: Changes) -> None:
        """Bring the data path up to date. What fails is tried again, whole, at the next tick."""
        try:
            if self._mirror.pull(changes) or self._behind:
                self._mirror.push()
            self._mirror.keep_resolved()
            self._behind = False
        except (XdpecmpError, OSError) as error:
            log.warning("cannot follow the kernel: %s", error)
            self._behind = True
