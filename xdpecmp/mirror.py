"""The mirror: joins the three that know nothing of each other: netlink, compile and the maps.

It follows the kernel in two ways. `pull` and `push` read again what may have changed, compile all
and bring the maps to it: right whatever happened. `update` does what the kernel's route events say,
at once and for the prefixes concerned alone, where they say enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial

from .clock import HZ, Jiffies, read_jiffies
from .compile import Config, Tables, compile_tables, needs_walk, ownseed
from .compile.change import compile_updates
from .dataplane import Dataplane
from .errors import XdpecmpError
from .maps import Maps
from .model import Neighbour, NextHop, Prefix, RouteUpdate, Snapshot
from .netlink import Changes, Kernel
from .options import Options
from .program import Build
from .routetable import RouteTable

log = logging.getLogger("xdpecmp.agent")

LEASE_SECONDS = 3
"""So long the data path goes on without its agent; then it passes everything to Linux."""

_NUD_STALE = 0x04
_NUD_PERMANENT_OR_NOARP = 0xC0


class Mirror:
    """The kernel's routing, mirrored in the data path."""

    def __init__(
        self,
        kernel: Kernel,
        record_managed: Callable[[NextHop], None],
        build_deep: Callable[[], Build],
        options: Options,
    ) -> None:
        """Reads the kernel. `record_managed` is told of each neighbour that is made managed.
        `build_deep` begins to build what some hash policies need."""
        self._options = options
        self.kernel = kernel
        self._record_managed = record_managed
        self._build_deep = build_deep
        self._is_deep: bool | None = None
        """Whether the program for policies that need a walk is there; None: not yet."""
        self.build: Build | None = None
        """Under way."""
        self._managed: set[NextHop] = set()
        self._complaints: set[str] = set()
        self._told: list[str] = []
        """What was logged last of a seed of our own."""
        self._forwarded: dict[NextHop, int] = {}
        self._doubtful: set[Prefix] = set()
        """What waits for a dump, and passes to Linux until then."""
        self._hubs: set[Prefix] = set()
        """Those of them that do so with all that is within."""
        self._late: list[RouteUpdate] | None = None
        """What was followed while the dump goes on that is being read, if one is."""
        self._spoilt = False
        self.unsure = False
        """Whether the routes that were read last should be read once more."""
        self.snapshot: Snapshot = kernel.snapshot()
        self.tables: Tables | None = None
        self._compiled: tuple[Snapshot, Collection[int], bool] | None = None
        """What `tables` was compiled from; None where it has changed since."""

    def open(
        self,
        maps: Maps,
        clock_fd: int,
        ours: Callable[[int], bool],
    ) -> None:
        """Take the maps over, with what an earlier agent left in them. `ours(prog_id)`: whether an
        XDP program is this instance's."""
        self._ours = ours
        self._maps = maps
        self._clock_fd = clock_fd
        self._dataplane = Dataplane(maps)

    def attached(self) -> set[int]:
        """Indexes of the interfaces that run our program."""
        return {
            link.ifindex
            for link in self.snapshot.links.values()
            if link.xdp_prog_id and self._ours(link.xdp_prog_id)
        }

    # --- all of it --------------------------------------------------------------------------------

    def pull(self, changes: Changes, meanwhile: Callable[[bool], None] = lambda last: None) -> bool:
        """Read again what changed. Whether anything that counts is different now.

        `changes.updates` is not looked at: see `update`. `meanwhile` is called every now and then
        while all routes are read, which may take seconds, and told when it is the last time. It may
        pull what is no route, push and update.
        """
        differs = False
        routes = self.snapshot.routes
        if changes.routes or changes.lost:
            routes, differs = self._dump(meanwhile)
        old, new = self.snapshot, replace(self.snapshot, routes=routes)
        if changes.links or changes.lost or self._is_due(changes):
            new = replace(new, links=self.kernel.links())
        if changes.settings or changes.links or changes.lost:
            new = replace(new, settings=self.kernel.settings(new.links.values()))
        if changes.rules or changes.lost:
            rules4, rules6 = self.kernel.custom_rules()
            new = replace(new, custom_rules4=rules4, custom_rules6=rules6)
        if changes.nexthops or changes.lost:
            new = replace(new, nexthop_groups=self.kernel.nexthops())
        if changes.neighbours or changes.links or changes.lost:
            new = replace(new, neighbours=self.kernel.neighbours())
        self.snapshot = new
        return differs or _differ(old, new)

    def _is_due(self, changes: Changes) -> bool:
        """Whether links have to be read without an event of theirs. That is looked at whenever
        settings are, which come without one too."""
        return changes.settings and self.kernel.links_may_differ(self.attached())

    def _dump(self, meanwhile: Callable[[bool], None]) -> tuple[RouteTable, bool]:
        """All routes as they are now, with what was followed while they were read; and whether they
        may differ from what the data path says, though not from what was known."""
        self._late, self._spoilt = [], False
        try:
            table = self.kernel.routes(partial(meanwhile, False))
            meanwhile(True)
        finally:
            late, self._late = self._late, None
        known = RouteTable.of(self.snapshot.routes)
        if self._spoilt:
            self.unsure = True
            return known, bool(late)
        # where IPv6 routes come and go during a dump, it leaves out others without a word
        torn = len({update.gone for update in late if update.route.prefix.family == 6}) > 1
        differs = bool(late or self._doubtful)
        missing = set()  # of what was in doubt
        if torn:
            told = table.by_prefix.lookup
            missing = {each for each in self._doubtful if each.family == 6 and told(each) is None}
            table.keep(known, 6)
        table = table.sharing(known)
        self._doubtful, self._hubs = missing, self._hubs & missing
        self._doubtful.update(update.route.prefix for update in late if not table.apply(update))
        self.unsure = torn or bool(self._doubtful)
        return table, differs

    def spoil(self) -> None:
        """Events were lost: so what the dump that is being read says can't be put right."""
        self._spoilt = True

    def compile(self, attached: Collection[int] | None = None) -> None:
        """Compile what was read; `attached`: interfaces about to be ours, if they are not yet."""
        source = self.snapshot, attached or self.attached(), bool(self._is_deep)
        if self._compiled and self._compiled[0] is self.snapshot and self._compiled == source:
            return
        snapshot, ours, deep = source
        self.tables = compile_tables(snapshot, ours, self._options, deep)
        self.tables.doubt(self._doubtful, self._hubs)
        self._compiled = source

    def push(self, attached: Collection[int] | None = None, wait: bool = True) -> bool:
        """Bring the data path to what was read. False where there was not room for all: there may
        be the next time. `wait`: for what the hash policy needs to be built; otherwise that begins,
        and meanwhile multipath passes to Linux."""
        if wait:
            self.begin()
            self.complete()
        self.compile(attached)
        fits = self._sync()
        self.begin()
        return fits

    def begin(self) -> None:
        """Begin to build what the hash policy needs, unless it is there."""
        if self._is_deep is None and self.build is None and needs_walk(self.snapshot.settings):
            self.build = self._build_deep()

    def complete(self) -> None:
        """Wait for what is being built; the next `push` brings it into use."""
        build, self.build = self.build, None
        if build is None:
            return
        try:
            build.result()
            self._is_deep = True
        except XdpecmpError as error:
            log.warning("multipath passes to Linux: %s", error)
            self._is_deep = False

    def abandon(self) -> None:
        """End what is being built."""
        build, self.build = self.build, None
        if build is not None:
            build.abandon()

    def _sync(self) -> bool:
        assert self.tables is not None
        fits = self._dataplane.sync(self.tables)
        self._tell_own_seed(self.tables.config)
        for ifindex in self._dataplane.crowded_out:
            link = self.snapshot.links[ifindex]
            self._complain(
                f"{link.name} passes all to Linux: its index {ifindex} equals another's modulo 4096"
            )
        return fits

    def _tell_own_seed(self, config: Config) -> None:
        """Flows move when it comes into force, or is left."""
        if not config.own_seed:
            return
        passing = [text for text, _ in ownseed.passing(config, self.snapshot.links)]
        if ownseed.in_force(config):
            passing.append("multipath goes by a hash seed of xdpecmp's own")
        if passing != self._told:
            self._told = passing
            log.info("%s", "; ".join(passing))

    # --- single routes ----------------------------------------------------------------------------

    def update(self, updates: Iterable[RouteUpdate]) -> bool:
        """Bring the data path to what these updates say, in order. False where they, or some, don't
        say enough: then all routes have to be pulled, and meanwhile those prefixes pass to Linux.
        """
        assert self.tables is not None
        updates = list(updates)
        if self._late is not None:
            self._late += updates
        self._compiled = None  # whatever comes of it, the snapshot's routes change in place
        change = compile_updates(self.snapshot, self.tables, updates, self._doubtful, self._hubs)
        if change is None:
            return False
        self.tables.absorb(change)
        fits = self._dataplane.change(change)
        self._keep(change.gateways)
        return fits and not self._doubtful

    # --- what falls due with time -----------------------------------------------------------------

    def renew_lease(self) -> None:
        """Let the data path work for LEASE_SECONDS from now. Any thread may do it."""
        self._dataplane.set_lease(read_jiffies(self._clock_fd) + LEASE_SECONDS * HZ)

    def settle_buckets(self) -> None:
        """Let buckets go where the kernel wants them which have become idle since."""
        self._dataplane.settle_buckets(Jiffies(read_jiffies(self._clock_fd), HZ))

    # --- neighbours -----------------------------------------------------------------------------

    def keep_resolved(self) -> None:
        """Have the kernel keep our next hops resolved: packets that XDP forwards don't.

        Gateways become managed neighbours. A host on a directly connected network may leave for
        good, so it is only reported as used while packets for it are forwarded.
        """
        if self.tables is not None:
            self._keep(self.tables.gateways)
            self._report_use()

    def prepare_to_keep(self) -> None:
        """Do ahead what the first `keep_resolved` would take time for, if it has something to do
        for what was compiled."""
        assert self.tables is not None
        if any(self._needs_keeping(gateway) for gateway in self.tables.gateways):
            self.kernel.prepare_to_write()

    def _needs_keeping(self, gateway: NextHop) -> bool:
        """Whether nobody else keeps that next hop resolved, and its link is up."""
        link = self.snapshot.links.get(gateway.ifindex)
        neighbour = self.snapshot.neighbours.get((gateway.via, gateway.ifindex))
        if link is None or not link.up:
            return False
        return not neighbour or not (neighbour.managed or neighbour.state & _NUD_PERMANENT_OR_NOARP)

    def _keep(self, gateways: Iterable[NextHop]) -> None:
        for gateway in filter(self._needs_keeping, gateways):
            if gateway not in self._managed:
                self._record_managed(gateway)
                self._managed.add(gateway)
            try:
                self.kernel.manage_neighbour(gateway.via, gateway.ifindex)
            except XdpecmpError as error:  # its packets pass to Linux; no reason to stop the rest
                self._complain(str(error))

    def _report_use(self) -> None:
        assert self.tables is not None
        slots = self._dataplane.nexthop_slots
        for neighbour in self.snapshot.neighbours.values():
            if neighbour.state != _NUD_STALE:  # which few are: look no further
                continue
            nexthop = NextHop(neighbour.address, neighbour.ifindex)
            slot = slots.get(nexthop)
            if slot is None or nexthop in self.tables.gateways:
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


def _differ(old: Snapshot, new: Snapshot) -> bool:
    """Whether anything differs that counts: neighbours turn stale and come back all the time."""
    if old.routes is not new.routes:
        return True
    if replace(old, neighbours=new.neighbours) != new:
        return True
    if old.neighbours is new.neighbours:
        return False
    return _usable(old.neighbours) != _usable(new.neighbours)


def _usable(
    neighbours: Mapping[tuple[bytes, int], Neighbour],
) -> dict[tuple[bytes, int], tuple[bool, bytes]]:
    return {key: (each.valid, each.mac) for key, each in neighbours.items()}
