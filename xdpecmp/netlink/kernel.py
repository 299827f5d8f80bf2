"""One network namespace's kernel, as the rest of the program sees it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..closing import Closing
from ..errors import XdpecmpError
from ..model.nexthoptable import NexthopTable
from ..model.values import Filters, Link, Neighbour, Prefix, Route, Settings, Snapshot
from ..program import attached
from . import (
    addresses,
    devicestats,
    ethtool,
    features,
    getroute,
    groupweights,
    links,
    neighbours,
    nexthops,
    routes,
    routeweights,
    rules,
    sysctl,
    wire,
    xdp,
    xfrm,
)
from .elsewhere import Lookout, peer_of
from .firewall import Reader
from .learned import Learned
from .monitor import Monitor
from .namespace import current_namespace, inside

if TYPE_CHECKING:
    from ..model.routetable import RouteTable


SETTINGS_SECONDS = 5.0
"""After so long all sysctls are read again, changed or not."""


class Kernel(Closing):
    """Reads and changes the network namespace that the calling thread is in when it is made.

    It keeps to that namespace wherever the thread goes later. Not for use by two threads at once.
    All methods may raise KernelRefused and NotPermitted; those that read also MalformedMessage and
    DumpInterrupted.
    """

    def __init__(self) -> None:
        with ExitStack() as undo:
            self._namespace = current_namespace()
            undo.callback(os.close, self._namespace)
            self._route = undo.enter_context(wire.Socket())
            self._bulk = undo.enter_context(wire.Socket())
            self._generic = undo.enter_context(wire.Socket(wire.NETLINK_GENERIC))
            self._netdev = features.find_family(self._generic)
            self._lookout = Lookout(self._namespace)
            self._control = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._xfrm: wire.Socket | None = None
            with suppress(OSError):  # a kernel built without IPsec
                self._xfrm = undo.enter_context(wire.Socket(xfrm.NETLINK_XFRM))
            self._watch = sysctl.Watch()
            undo.callback(self._watch.close)
            self._learned = Learned(self._route)
            self._firewall = Reader(self._namespace, self._route)
            undo.callback(self._firewall.close)
            self._settings: Settings | None = None
            self._settings_until = 0.0
            self._filters_differ = False
            self._transmits: dict[int, bool] | None = None
            self._known_links: set[int] = set()
            """What there was when it was last read."""
            self._close = undo.pop_all().close

    def descriptors(self) -> set[int]:
        """The open files that a forked process needs to go on with it."""
        sockets = (self._route, self._bulk, self._generic, self._control, self._xfrm)
        return {
            self._namespace,
            *(each.fileno() for each in sockets if each is not None),
            *self._watch.descriptors(),
            *self._firewall.descriptors(),
        }

    # Reading

    def links(self) -> dict[int, Link]:
        """All devices, by index."""
        try:
            self._transmits = features.read_transmits(self._generic, self._netdev)
        except (XdpecmpError, OSError):
            if self._transmits is None:
                raise
            # else what was known: a device that is not among them is taken for not able
        features_of = partial(ethtool.features, self._control)
        found = links.read_links(
            self._route,
            self._transmits,
            features_of,
            self._known_links,
        )
        self._known_links = set(found)
        for ifindex, held in addresses.read_addresses4(self._route).items():
            if ifindex in found:
                found[ifindex] = replace(found[ifindex], addresses4=held)
        there = self._lookout.look()
        for link in list(found.values()):
            end = found.get(link.peer_index)
            if end is not None:
                link = replace(link, peer=peer_of(found, end, features_of(end.name)))
            found[link.ifindex] = there.add_to(link)
        return found

    def links_may_differ(self, ours: Iterable[int]) -> bool:
        """Whether other namespaces have changed in what they have to do with these devices of ours:
        no event tells that."""
        return self._lookout.has_changed(frozenset(ours))

    @property
    def tells_features(self) -> bool:
        """Whether the kernel tells which devices take redirected frames (Linux 6.3)."""
        return self._netdev is not None

    def native_xdp(self) -> dict[int, bool]:
        """By index, whether a device's driver runs XDP programs: see `features.read_native`."""
        return features.read_native(self._generic, self._netdev)

    def device_counters(self, links: Iterable[Link]) -> dict[int, devicestats.DeviceCounters]:
        """By index, what these devices have counted: see `devicestats`."""
        unsent = devicestats.read_unsent(self._route)
        found = {}
        for link in links:
            dropped, errors = unsent.get(link.ifindex, (0, 0))
            statistics = devicestats.read_driver(self._control, link.name)
            is_veth = link.kind == "veth"
            found[link.ifindex] = devicestats.DeviceCounters(
                link.name,
                dropped,
                errors,
                devicestats.xdp_drops(statistics, is_veth),
                devicestats.xdp_sent(statistics, is_veth),
            )
        return found

    def neighbours(
        self, known: Mapping[tuple[bytes, int], Neighbour] | None = None
    ) -> dict[tuple[bytes, int], Neighbour]:
        """All neighbours of both families, by (packed address, ifindex). `known`: what there was;
        see `neighbours.read_neighbours`."""
        return neighbours.read_neighbours(self._route, known or {})

    def routes(self, meanwhile: Callable[[], None] = lambda: None) -> RouteTable:
        """The routes of the tables main, local and default. There may be a million of them, so
        `meanwhile` is called every now and then; it may ask for anything else."""
        from .routedump import read_routes  # numpy takes 0.1 s to import: who never asks is spared

        return read_routes(self._bulk, meanwhile)

    def routes_to(self, prefix: Prefix) -> list[Route]:
        """The routes of one prefix, in the kernel's order."""
        return routes.read_routes_to(self._route, prefix)

    def nexthops(self) -> NexthopTable:
        """All nexthop objects, single ones and groups, by id: see `nexthops.read_nexthops`."""
        return nexthops.read_nexthops(self._route)

    def buckets(self, group: int) -> Mapping[int, int]:
        """By index the id of the member in each bucket of a resilient group."""
        return nexthops.read_buckets(self._route, group)

    def settings(self, links: Iterable[Link], lately: bool = False) -> Settings:
        """The sysctls, those of interfaces for these links, and what ICMP errors have said.
        `lately`: what was read less than SETTINGS_SECONDS ago will do, as far as `peek`, `glance`
        or an event would tell of a change."""
        with inside(self._namespace):
            now = time.monotonic()
            if not (lately and self._settings and now < self._settings_until):
                self._settings = replace(
                    sysctl.read_settings(links), ipsec=xfrm.read_has_a_say(self._xfrm)
                )
                self._settings_until = now + SETTINGS_SECONDS
            settings = self._learned.add_to(self._settings)
        return replace(settings, flow_dissector=self._dissects_flows())

    def _dissects_flows(self) -> bool:
        """Whether a BPF flow dissector is attached here, or to the initial namespace."""
        with suppress(
            OSError
        ):  # before Linux 4.20, or without privileges: then nothing is attached
            if attached.dissects_flows(self._namespace):
                return True
            with open("/proc/1/ns/net", "rb") as first:
                return attached.dissects_flows(first.fileno())
        return False

    def peek(self) -> bool:
        """Whether a sysctl has changed that decides which way flows go, so that `settings` should
        be read. Asked ten times a second, so it must cost next to nothing; `glance` comes first."""
        return self._watch.decisive_changed()

    def glance(self, interfaces: tuple[str, ...]) -> bool:
        """The same of all else of which there is no event. It need not see everything, since all
        is read every few seconds. `interfaces`: names of those that packets come in or leave by,
        the most important ones first.

        What has no event and a value that is cheap to compare belongs here.
        """
        if len(interfaces) > sysctl.MOST_INTERFACES:
            self._settings = None  # what is not watched is read every second
        if self._watch.interfaces != interfaces:
            with inside(self._namespace):
                self._watch.open(interfaces)
            return True  # nobody has looked since they were read
        return self._watch.changed() or self.filters_changed()

    def custom_rules(self) -> tuple[bool, bool]:
        """Whether there are policy rules besides the default ones, for IPv4 and for IPv6."""
        return rules.read_custom_rules(self._route)

    def filters(self, links: Iterable[Link]) -> Filters:
        """What may drop, change or track forwarded packets, on these links: see `firewall`."""
        self._filters_differ = False
        return self._firewall.read(list(links))

    def filters_changed(self) -> bool:
        """Whether `filters` may say something else now of what the monitor does not hear; cheap.
        Once it is so it stays so until they are read."""
        self._filters_differ = self._filters_differ or self._firewall.changed()
        return self._filters_differ

    def snapshot(self) -> Snapshot:
        """All of the above. Not at one instant: have a monitor running to see what changed."""
        found = self.links()
        custom4, custom6 = self.custom_rules()
        filters = self.filters(found.values())
        return Snapshot(
            links=found,
            neighbours=self.neighbours(),
            routes=self.routes(),
            nexthop_groups=self.nexthops(),  # after the routes, so that theirs are among them
            settings=filters.settings(self.settings(found.values())),
            custom_rules4=custom4,
            custom_rules6=custom6,
            filters=filters,
        )

    def route_get(self, query: getroute.Query) -> getroute.Answer:
        """Where the kernel sends a packet: see `getroute.route_get`."""
        return getroute.route_get(self._route, query)

    def monitor(self) -> Monitor:
        """Subscribe to changes of this namespace; the caller closes it."""
        with inside(self._namespace):
            return Monitor(self._netdev)

    # Changing

    def manage_neighbour(self, address: bytes, ifindex: int) -> bool:
        """Have the kernel keep a neighbour resolved: see `neighbours.manage`."""
        return neighbours.manage(self._route, address, ifindex)

    def use_neighbour(self, address: bytes, ifindex: int) -> bool:
        """Have the kernel probe a stale neighbour: see `neighbours.use`."""
        return neighbours.use(self._route, address, ifindex)

    def release_neighbour(self, address: bytes, ifindex: int) -> bool:
        """Undo `manage_neighbour`, keeping the entry: see `neighbours.release`."""
        return neighbours.release(self._route, address, ifindex)

    def set_weights(self, route: Route, new: Sequence[int]) -> None:
        """Change a multipath route's weights and nothing else: see `routeweights.set_weights`."""
        routeweights.set_weights(self._route, route, new)

    def group_members(self, nhid: int) -> groupweights.GroupMembers:
        """What a nexthop group says of itself: see `groupweights.read_group`."""
        return groupweights.read_group(self._route, nhid)

    def group_users(self, nhid: int, most: int) -> groupweights.Users:
        """The routes that use it: see `groupweights.read_users`."""
        return groupweights.read_users(self._bulk, nhid, most)

    def set_group_weights(self, nhid: int, members: Sequence[int], new: Sequence[int]) -> None:
        """Change a nexthop group's weights and nothing else: see `groupweights`."""
        groupweights.set_group_weights(self._route, nhid, members, new)

    def set_seed(self, seed: int) -> None:
        """Make the multipath hash seed known: see `sysctl.write_seed`."""
        with inside(self._namespace):
            sysctl.write_seed(seed)

    def attach_xdp(
        self, ifindex: int, prog_fd: int, mode: str, expected_fd: int | None = None
    ) -> int:
        """Attach an XDP program and return its id: see `xdp.attach`."""
        return xdp.attach(self._route, ifindex, prog_fd, mode, expected_fd)

    def detach_xdp(self, ifindex: int, mode: str, expected_fd: int) -> None:
        """Detach that very XDP program: see `xdp.detach`."""
        xdp.detach(self._route, ifindex, mode, expected_fd)
