"""The mirror: joins the three that know nothing of each other: netlink, compile and the maps.

It follows the kernel in two ways. `pull` and `push` read again what may have changed, compile all
and bring the maps to it: right whatever happened. `update` does what the kernel's route events say,
at once and for the prefixes concerned alone, where they say enough; `follow` does the same for
events of neighbours and nexthop objects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial

from ..compile import Change, Config, Tables, bearing, ownseed
from ..compile.change import compile_updates
from ..compile.config import stop_at_firewall
from ..compile.follow import Doubts, compile_neighbours, compile_objects, counts, differ
from ..dataplane.plane import Dataplane
from ..errors import XdpecmpError
from ..model.nexthoptable import BucketUpdate, NexthopTable, NexthopUpdate
from ..model.options import Options
from ..model.routetable import RouteTable
from ..model.values import Neighbour, NeighbourUpdate, NextHop, RouteUpdate, Snapshot
from ..netlink import ANYWHERE, Changes, Kernel
from ..program.clock import HZ, Clock
from .deep import DeepProgram
from .live import LiveRouting
from .resolve import Resolver

log = logging.getLogger("xdpecmp.agent")

LEASE_SECONDS = 3
"""So long the data path goes on without its agent; then it passes everything to Linux."""


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
        self._dataplane = dataplane
        self._clock = clock
        self._programs = programs
        self._resolver = Resolver(record_managed)
        self._complaints: set[str] = set()
        self._told: list[str] = []
        """What was logged last of a seed of our own."""
        self._orphaning: set[int] = set()
        """Nexthop objects in use that went since all routes were read last."""
        self._late_orphaning: set[int] = set()
        """And since that was begun."""
        self._late: list[RouteUpdate] | None = None
        """What was followed while the dump goes on that is being read, if one is."""
        self._spoilt = False
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
            routes, differs = self._dump(meanwhile)
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
        where there are a million routes."""
        if self.options.bypass_firewall:
            return
        egress = {nexthop.ifindex for nexthop in self.tables.nexthops}
        findings = bearing(new.filters, new.links, self.attached(), egress)
        config = stop_at_firewall(self.tables.config, findings)
        self._dataplane.pass_at_once(config.pass4, config.pass6)

    def _is_due(self, changes: Changes) -> bool:
        """Whether links have to be read without an event of theirs."""
        return changes.elapsed and self.kernel.links_may_differ(self.attached())

    def _dump(self, meanwhile: Callable[[bool], None]) -> tuple[RouteTable, bool]:
        """All routes as they are now, with what was followed while they were read; and whether they
        may differ from what the data path says, though not from what was known."""
        self._late, self._spoilt = [], False
        self._late_orphaning = set()
        try:
            table = self.kernel.routes(partial(meanwhile, False))
            meanwhile(True)
        finally:
            late, self._late = self._late, None
        live, known = self._live, self._live.routes
        self.unsure_of_all = self._spoilt
        if self._spoilt:
            self.unsure = True
            return known, bool(late)
        # where IPv6 routes come and go during a dump, it leaves out others without a word
        torn = len({update.gone for update in late if update.route.prefix.family == 6}) > 1
        differs = bool(late or live.doubtful)
        missing = set()  # of what was in doubt
        if torn:
            told = table.by_prefix.lookup
            missing = {each for each in live.doubtful if each.family == 6 and told(each) is None}
            table.keep(known, 6)
        table = table.sharing(known)
        live.doubtful, live.hubs = missing, live.hubs & missing
        live.doubtful.update(update.route.prefix for update in late if not table.apply(update))
        gone = self._late_orphaning
        if gone:
            live.doubtful.update(r.prefix for r in table.where(lambda r: r.nhid in gone))
        self._orphaning = set()  # what still is, passes all the same
        self.unsure = torn or bool(live.doubtful)
        return table, differs

    def spoil(self) -> None:
        """Events were lost: so what the dump that is being read says can't be put right."""
        self._spoilt = True

    def compile(self, attached: Collection[int] | None = None) -> None:
        """Compile what was read; `attached`: interfaces about to be ours, if they are not yet."""
        ours = attached or self.attached()
        if self._live.is_compiled(ours, self.deep.is_ready):
            return
        self._live.find_used_objects()
        self._read_buckets()
        self._live.compile(ours, self.deep.is_ready)

    def push(self, attached: Collection[int] | None = None, wait: bool = True) -> bool:
        """Bring the data path to what was read. False where there was not room for all: there may
        be the next time. `wait`: for what the hash policy needs to be built; otherwise that begins,
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
        """Bring the data path to what these updates say, in order. False where they, or some, don't
        say enough: then all routes have to be pulled, and meanwhile those prefixes pass to Linux.
        """
        updates, live = list(updates), self._live
        if self._late is not None:
            self._late += updates
        live.touch()  # whatever comes of it, the snapshot's routes change in place
        live.used_objects.update(update.route.nhid for update in updates)
        self._read_buckets()
        change = compile_updates(self.snapshot, self.tables, updates, live.doubtful, live.hubs)
        if change is None:
            self.unsure_of_all = True
            return False
        self.tables.absorb(change)
        fits = self._dataplane.change(change)
        self._resolver.keep(self.kernel, self.snapshot, change.gateways)
        return fits and not live.doubtful

    # --- what falls due with time -----------------------------------------------------------------

    def renew_lease(self) -> None:
        """Let the data path work for LEASE_SECONDS from now."""
        self.set_lease(self.lease_deadline())

    def lease_deadline(self) -> int:
        """When a lease of LEASE_SECONDS ends that begins now. Any thread may ask."""
        return self._clock.jiffies() + LEASE_SECONDS * HZ

    def set_lease(self, deadline: int) -> None:
        """Let the data path work until then. Any thread may do it."""
        self._dataplane.set_lease(deadline)

    def fall_behind(self, seconds: float) -> None:
        """Pass everything to Linux: the data path knows what happened up to so long ago. Any thread
        may do it, and `catch_up`."""
        self._dataplane.fall_behind(max(1, self._clock.jiffies() - int(seconds * HZ)))

    def catch_up(self) -> None:
        """The data path says what the kernel says."""
        self._dataplane.catch_up()

    def settle_buckets(self) -> None:
        """Let buckets go where the kernel wants them which have become idle since."""
        self._dataplane.settle_buckets(self._clock.now())

    # --- neighbours and nexthop objects -----------------------------------------------------------

    def follow(self, changes: Changes) -> bool:
        """Bring the data path to what updates of neighbours and nexthop objects say, unless they
        are older than what was read since (see Changes). False where routes may have gone with
        them, so that all have to be pulled; their packets pass to Linux until then."""
        sure = True
        if changes.nexthop_updates and not changes.nexthops:
            sure = self._follow_objects(changes.nexthop_updates)
        if changes.neighbour_updates and not (changes.neighbours or changes.links):
            self._follow_neighbours(changes.neighbour_updates)
        return sure

    def _follow_objects(self, updates: Iterable[NexthopUpdate | BucketUpdate]) -> bool:
        """What no route refers to costs nothing more than its entry in the table."""
        objects = self.snapshot.nexthop_groups
        assert isinstance(objects, NexthopTable)
        before = objects.apply(updates, self._live.used_objects)
        self._read_buckets()
        gone = self._orphaning | (objects.removed & self._live.used_objects)
        self._late_orphaning |= gone
        back = {nhid for nhid in before if nhid in gone and nhid in objects}
        self._orphaning = gone - back
        if back and self._doubt_routes_over(back):
            return False
        before = {nhid: was for nhid, was in before.items() if objects.get(nhid) != was}
        if not before:
            return True
        self._live.touch()
        found = compile_objects(self.snapshot, self.tables, before, self._doubts())
        if found is None:
            self._compile_all()
            return all(nhid in objects for nhid in before)
        self._change(found.change)
        return not found.routes_gone

    def _doubt_routes_over(self, nhids: Collection[int]) -> bool:
        """An object that went took its IPv4 routes along without a word: that it is back brings
        none of them back. Whether there were any; they pass to Linux until they are read."""
        table = self._live.routes
        found = {route.prefix for route in table.where(lambda route: route.nhid in nhids)}
        if not found:
            return False
        self._live.doubtful |= found
        self._live.touch()
        self._compile_all()
        return True

    def _follow_neighbours(self, updates: Iterable[NeighbourUpdate]) -> None:
        known = self.snapshot.neighbours
        assert isinstance(known, dict)
        before: dict[tuple[bytes, int], Neighbour | None] = {}
        gateways = set()
        for neighbour, gone in updates:
            key = neighbour.address, neighbour.ifindex
            was, now = known.get(key), None if gone else neighbour
            if counts(was, now):
                before.setdefault(key, was)
            if NextHop(*key) in self.tables.gateways:
                gateways.add(NextHop(*key))
                if now is None:
                    self._resolver.gone(NextHop(*key))
            if now is None:
                known.pop(key, None)
            else:
                known[key] = now
        if before:
            self._live.touch()
            change = compile_neighbours(self.snapshot, self.tables, before, self._doubts())
            if change is None:
                self._compile_all()
            else:
                self._change(change)
        self._resolver.keep(self.kernel, self.snapshot, gateways)

    def _doubts(self) -> Doubts:
        return Doubts(self._live.doubtful, self._live.hubs)

    def _compile_all(self) -> None:
        """Where following would not come to the same. Nothing is read again for it. What does not
        fit gets a second try, without what nobody wants any more."""
        self._fits = self.push(wait=False) or self.push(wait=False)

    def _change(self, change: Change) -> None:
        if not (change.routes or change.nexthops or change.groups):
            return
        self.tables.absorb(change)
        if not self._dataplane.change(change) and self._fits:
            self._compile_all()  # which lets go of what nobody needs
        self._resolver.keep(self.kernel, self.snapshot, change.gateways)

    def _read_buckets(self) -> None:
        """Of resilient groups in use, where they may have moved without a word. What cannot be
        read is tried again with the next change; it passes if it no longer fits its group."""
        objects = self.snapshot.nexthop_groups
        if not isinstance(objects, NexthopTable):
            return
        for nhid in objects.unread & self._live.used_objects:
            try:
                objects.set_buckets(nhid, self.kernel.buckets(nhid))
            except (XdpecmpError, OSError) as error:
                self._complain(f"buckets of nexthop group {nhid}: {error}")

    def keep_resolved(self) -> None:
        """Have the kernel keep our next hops resolved: see `keeping`."""
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
