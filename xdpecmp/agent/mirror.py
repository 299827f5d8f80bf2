"""The mirror: joins the three that know nothing of each other: netlink, compile and the maps.

It follows the kernel in two ways. `pull` and `push` read again what may have changed, compile all
and bring the maps to it: right whatever happened. `update` does what the kernel's route events say,
at once and for the prefixes concerned alone, if they say enough; `follow` does the same for
events of neighbours and nexthop objects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial

from ..compile import Config, TableChange, Tables, bearing, ownseed
from ..compile.config import stop_at_firewall
from ..compile.follow import compile_neighbours, differ
from ..dataplane.plane import Dataplane
from ..model.hashkey import KeyState
from ..model.options import Options
from ..model.routetable import RouteTable
from ..model.values import NeighbourUpdate, NextHop, RouteUpdate, Snapshot
from ..netlink import ANYWHERE, Changes, Kernel
from ..program.clock import Clock
from .deep import DeepProgram
from .dump import Dump, put_right
from .lease import StoredLease
from .live import LiveRouting
from .objects import Objects
from .resolve import Resolver

log = logging.getLogger("xdpecmp.agent")


class Mirror:
    """The kernel's routing, mirrored in the data path."""

    def __init__(
        self,
        kernel: Kernel,
        live: LiveRouting,
        dataplane: Dataplane,
        clock: Clock,
        deep: DeepProgram,
        programs: Collection[int],
        record_managed: Callable[[NextHop], None],
    ) -> None:
        """`live`: what `kernel` said; the data path says something else until the first `push`.
        `programs`: ids of this instance's XDP programs. `record_managed` is told of each neighbour
        before it is made managed."""
        self.kernel = kernel
        self.deep = deep
        self._live = live
        self.lease = StoredLease(dataplane, clock)
        self._dataplane = dataplane
        self._clock = clock
        self._programs = programs
        self._resolver = Resolver(record_managed)
        self._complaints: set[str] = set()
        self._told: list[str] = []
        """What was logged last of a seed of our own."""
        self._objects = Objects(kernel, live, self._complain)
        self._dump: Dump | None = None
        """The dump of all routes that is being read, if one is."""
        self._fits = True
        """Whether the data path took all when it was last asked twice."""
        self.unsure = False
        """Whether the routes that were read last should be read once more."""
        self.unsure_of_all = False
        """Whether there are changes of routes that the data path knows nothing of, nor passes."""
        self._used: tuple[str, ...] = ()
        """Names of the interfaces that packets come in or leave by, for the tables `_used_by`."""
        self._used_by: Tables | None = None

    @property
    def options(self) -> Options:
        """What `attach` was asked for."""
        return self._live.options

    @property
    def key_state(self) -> KeyState:
        """What is known of Linux's hash key beside its sysctl."""
        return self._live.key_state

    def know_key(self, state: KeyState) -> None:
        """The next `pull` of settings goes by it."""
        self._live.key_state = state

    @property
    def snapshot(self) -> Snapshot:
        """What the kernel says, as far as it was heard."""
        return self._live.snapshot

    @property
    def tables(self) -> Tables:
        """What the maps must hold for it, as far as it was compiled."""
        return self._live.tables

    def attached(self) -> set[int]:
        """Indexes of the interfaces that run our program."""
        return {
            link.ifindex
            for link in self.snapshot.links.values()
            if link.xdp_prog_id in self._programs
        }

    def uses(self, devices: Collection[int]) -> bool:
        """Whether a route leads to one of these devices, or has a dead path there; ANYWHERE is any
        device."""
        if not devices or ANYWHERE in devices:
            return bool(devices)
        groups = self.snapshot.nexthop_groups.values()
        return self._live.routes.leads_to(devices) or any(
            path.nexthop.ifindex in devices for group in groups for path in group.members
        )

    def peek(self) -> bool:
        """Whether a setting has changed that decides which way flows go: see Kernel.peek."""
        return self.kernel.peek()

    def glance(self) -> bool:
        """Whether settings may have changed of which there is no event: see Kernel.glance."""
        if self._used_by is not self.tables:
            used = dict.fromkeys(sorted(self.attached()))
            used.update(dict.fromkeys(nexthop.ifindex for nexthop in self.tables.nexthops))
            links = self.snapshot.links
            names = tuple(links[ifindex].name for ifindex in used if ifindex in links)
            self._used_by = self.tables
            if names != self._used:
                self._used = names
        return self.kernel.glance(self._used)

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
            routes, differs = self._read_routes(meanwhile)
        old, new = self.snapshot, replace(self.snapshot, routes=routes)
        if changes.links or changes.lost or self._is_due(changes):
            new = replace(new, links=self.kernel.links())
        if changes.settings or changes.links or changes.lost or changes.elapsed:
            lately = not (changes.settings or changes.links or changes.lost)
            new = replace(new, settings=self.kernel.settings(new.links.values(), lately))
        if self._may_have_filters(changes):
            new = replace(new, filters=self.kernel.filters(new.links.values()))
        if new.filters is not old.filters or new.settings is not old.settings:
            new = replace(new, settings=new.filters.settings(new.settings))
        new = self._live.with_key(new)
        if new.filters != old.filters:
            self._stop_at_firewall(new)
        if changes.rules or changes.lost:
            rules4, rules6 = self.kernel.custom_rules()
            new = replace(new, custom_rules4=rules4, custom_rules6=rules6)
        if changes.nexthops or changes.lost:
            new = replace(new, nexthop_groups=self.kernel.nexthops())
        if changes.neighbours or changes.links or changes.lost:
            new = replace(new, neighbours=self.kernel.neighbours(old.neighbours))
        self._live.snapshot = new
        return differs or differ(old, new)

    def _may_have_filters(self, changes: Changes) -> bool:
        """Whether what Linux filters by may be different now."""
        if changes.filters or changes.links or changes.lost:
            return True
        return changes.settings and self.kernel.filters_changed()

    def _stop_at_firewall(self, new: Snapshot) -> None:
        """Have the families pass at once that are filtered now. Compiling all may take a second
        if there are a million routes."""
        if self.options.bypass_firewall:
            return
        egress = {nexthop.ifindex for nexthop in self.tables.nexthops}
        findings = bearing(new.filters, new.links, self.attached(), egress)
        config = stop_at_firewall(self.tables.config, findings)
        self._dataplane.pass_at_once(config.pass4, config.pass6)

    def _is_due(self, changes: Changes) -> bool:
        """Whether links have to be read without an event of theirs."""
        return changes.elapsed and self.kernel.links_may_differ(self.attached())

    def _read_routes(self, meanwhile: Callable[[bool], None]) -> tuple[RouteTable, bool]:
        """All routes as they are now; and whether they may differ from what the data path says,
        though not from what was known."""
        dump = self._dump = Dump()
        try:
            told = self.kernel.routes(partial(meanwhile, False))
            meanwhile(True)
        finally:
            self._dump = None
        live = self._live
        self.unsure_of_all = dump.is_spoilt
        if dump.is_spoilt:
            self.unsure = True
            return live.routes, bool(dump.updates)
        differs = bool(dump.updates or live.doubtful)
        read = put_right(told, dump, live.routes, live.doubts)
        live.take_over(read)
        self._objects.routes_are_read()
        self.unsure = read.is_torn or bool(read.doubtful)
        return read.table, differs

    def spoil(self) -> None:
        """Events were lost: so what the dump that is being read says can't be put right."""
        if self._dump:
            self._dump.is_spoilt = True

    def compile(self, attached: Collection[int] | None = None) -> None:
        """Compile what was read; `attached`: interfaces about to be ours, if they are not yet."""
        ours = attached or self.attached()
        if self._live.is_compiled(ours, self.deep.is_ready):
            return
        self._live.find_used_objects()
        self._objects.read_buckets()
        self._live.compile(ours, self.deep.is_ready)

    def push(self, attached: Collection[int] | None = None, wait: bool = True) -> bool:
        """Bring the data path to what was read. False if not all fit: it may the next
        time. `wait`: for what the hash policy needs to be built; otherwise that begins,
        and meanwhile multipath passes to Linux."""
        if wait:
            self.deep.begin(self.snapshot.settings)
            self.deep.complete()
        self.compile(attached)
        fits = self._sync()
        self.deep.begin(self.snapshot.settings)
        return fits

    def _sync(self) -> bool:
        fits = self._dataplane.sync(self.tables)
        self._tell_own_seed(self.tables.config)
        self._fits |= fits
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

    def mark_down(self, devices: Collection[int]) -> bool:
        """Pass to Linux, until the next `push`, what would leave by these devices. Whether anything
        would."""
        return self._dataplane.mark_down(devices)

    # --- single routes ----------------------------------------------------------------------------

    def update(self, updates: Iterable[RouteUpdate]) -> bool:
        """Bring the data path to what these updates say, in order. False if they, or some, don't
        say enough: then all routes have to be pulled, and meanwhile those prefixes pass to Linux.
        """
        updates = list(updates)
        if self._dump:
            self._dump.updates += updates
        self._live.used_objects.update(update.route.nhid for update in updates)
        self._objects.read_buckets()
        change = self._live.update(updates)
        if change is None:
            self.unsure_of_all = True
            return False
        fits = self._dataplane.change(change)
        self._resolver.keep(self.kernel, self.snapshot, change.gateways)
        return fits and not self._live.doubtful

    # --- neighbours and nexthop objects -----------------------------------------------------------

    def follow(self, changes: Changes) -> bool:
        """Bring the data path to what updates of neighbours and nexthop objects say, unless they
        are older than what was read since (see Changes). False if routes may have gone with
        them, so that all have to be pulled; their packets pass to Linux until then."""
        sure = True
        if changes.nexthop_updates and not changes.nexthops:
            change, sure = self._objects.follow(changes.nexthop_updates, self._dump)
            self._change(change)
        if changes.neighbour_updates and not (changes.neighbours or changes.links):
            self._follow_neighbours(changes.neighbour_updates)
        return sure

    def _follow_neighbours(self, updates: Iterable[NeighbourUpdate]) -> None:
        live = self._live
        gateways = set()
        for neighbour, gone in updates:
            nexthop = NextHop(neighbour.address, neighbour.ifindex)
            if nexthop in live.tables.gateways:
                gateways.add(nexthop)
                if gone:
                    self._resolver.gone(nexthop)
        before = live.follow_neighbours(updates)
        if before:
            self._change(compile_neighbours(live.snapshot, live.tables, before, live.doubts))
        self._resolver.keep(self.kernel, self.snapshot, gateways)

    def _change(self, change: TableChange | None) -> None:
        """Carry it out; None: compile everything, since following would not come to the same."""
        if change is None:
            self._compile_all()
            return
        if not (change.routes or change.nexthops or change.groups):
            return
        self._live.apply(change)
        if not self._dataplane.change(change) and self._fits:
            self._compile_all()  # which lets go of what is no longer needed
        self._resolver.keep(self.kernel, self.snapshot, change.gateways)

    def _compile_all(self) -> None:
        """Nothing is read again for it. What does not fit gets a second try, without what is
        no longer wanted."""
        self._fits = self.push(wait=False) or self.push(wait=False)

    # --- what falls due with time -----------------------------------------------------------------

    def settle_buckets(self) -> None:
        """Let buckets go where the kernel wants them which have become idle since."""
        self._dataplane.settle_buckets(self._clock.now())

    def keep_resolved(self) -> None:
        """Have the kernel keep our next hops resolved: see `resolve`."""
        self._resolver.forget(self.tables.nexthops)
        self._resolver.keep(self.kernel, self.snapshot, self.tables.gateways)
        self._resolver.report_use(self.kernel, self.snapshot.neighbours.values(), self._forwarded)

    def _forwarded(self, nexthop: NextHop) -> int | None:
        """Packets forwarded to a host; None for what is no host of a network, or not in use."""
        return None if nexthop in self.tables.gateways else self._dataplane.forwarded(nexthop)

    def _complain(self, what: str) -> None:
        """Once about each thing."""
        if what not in self._complaints:
            self._complaints.add(what)
            log.warning("%s", what)

    def descriptors(self) -> set[int]:
        """The open files that a forked agent needs."""
        return {
            self._clock.descriptor,
            *self._dataplane.descriptors(),
            *self.kernel.descriptors(),
        }
