"""One network namespace's kernel, as the rest of the program sees it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from ..model import Link, Neighbour, NexthopGroup, Prefix, Route, Settings, Snapshot
from . import (
    ethtool,
    features,
    getroute,
    links,
    merging,
    neighbours,
    nexthops,
    routes,
    rules,
    sysctl,
    weights,
    wire,
    xdp,
    xfrm,
)
from .elsewhere import Lookout, peer_of
from .monitor import Monitor
from .namespace import current_namespace, inside
from .writer import Writer

if TYPE_CHECKING:
    from ..routetable import RouteTable


class Kernel:
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
            self._writer = Writer(self._namespace)
            undo.callback(self._writer.close)
            self._close = undo.pop_all().close

    def close(self) -> None:
        """Close all descriptors. May be called again."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Reading

    def links(self) -> dict[int, Link]:
        """All devices, by index."""
        transmits = features.read_transmits(self._generic, self._netdev)
        features_on = partial(ethtool.features_on, self._control)
        found = links.read_links(
            self._route,
            transmits,
            features_on,
            partial(features.finishes_checksums, self._control),
            partial(merging.merges, self._control),
        )
        there = self._lookout.look()
        for link in list(found.values()):
            end = found.get(link.peer_index)
            if end is not None:
                link = replace(link, peer=peer_of(found, end, features_on(end.name)))
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

    def neighbours(self) -> dict[tuple[bytes, int], Neighbour]:
        """All neighbours of both families, by (packed address, ifindex)."""
        return neighbours.read_neighbours(self._route)

    def routes(self, meanwhile: Callable[[], None] = lambda: None) -> RouteTable:
        """The routes of the tables main, local and default. There may be a million of them, so
        `meanwhile` is called every now and then; it may ask for anything else."""
        from .routedump import read_routes  # numpy takes 0.1 s to import: who never asks is spared

        return read_routes(self._bulk, meanwhile)

    def routes_to(self, prefix: Prefix) -> list[Route]:
        """The routes of one prefix, in the kernel's order."""
        return routes.read_routes_to(self._route, prefix)

    def nexthops(self) -> dict[int, NexthopGroup]:
        """All nexthop objects, single ones and groups, by id: see `nexthops.read_nexthops`."""
        return nexthops.read_nexthops(self._route)

    def settings(self, links: Iterable[Link]) -> Settings:
        """The sysctls, those of interfaces for these links."""
        with inside(self._namespace):
            settings = sysctl.read_settings(links)
        return replace(settings, ipsec=xfrm.read_has_a_say(self._xfrm))

    def custom_rules(self) -> tuple[bool, bool]:
        """Whether there are policy rules besides the default ones, for IPv4 and for IPv6."""
        return rules.read_custom_rules(self._route)

    def snapshot(self) -> Snapshot:
        """All of the above. Not at one instant: have a monitor running to see what changed."""
        found = self.links()
        custom4, custom6 = self.custom_rules()
        return Snapshot(
            links=found,
            neighbours=self.neighbours(),
            routes=self.routes(),
            nexthop_groups=self.nexthops(),  # after the routes, so that theirs are among them
            settings=self.settings(found.values()),
            custom_rules4=custom4,
            custom_rules6=custom6,
        )

    def route_get(self, query: getroute.Query) -> getroute.Answer:
        """Where the kernel sends a packet: see `getroute.route_get`."""
        return getroute.route_get(self._route, query)

    def monitor(self) -> Monitor:
        """Subscribe to changes of this namespace; the caller closes it."""
        with inside(self._namespace):
            return Monitor(self._netdev)

    # Changing

    def prepare_to_write(self) -> None:
        """Do ahead what the first change would take time for."""
        self._writer.open()

    def manage_neighbour(self, address: bytes, ifindex: int) -> bool:
        """Have the kernel keep a neighbour resolved by itself: see `neighbours.manage`."""
        return neighbours.manage(self._route, self._writer, address, ifindex)

    def use_neighbour(self, address: bytes, ifindex: int) -> bool:
        """Have the kernel probe a stale neighbour: see `neighbours.use`."""
        return neighbours.use(self._route, self._writer, address, ifindex)

    def release_neighbour(self, address: bytes, ifindex: int) -> bool:
        """Undo `manage_neighbour`, keeping the entry: see `neighbours.release`."""
        return neighbours.release(self._route, self._writer, address, ifindex)

    def set_weights(self, route: Route, new: Sequence[int]) -> None:
        """Change a multipath route's weights and nothing else: see `weights.set_weights`."""
        weights.set_weights(self._route, route, new)

    def set_seed(self, seed: int) -> None:
        """Make the multipath hash seed known: see `sysctl.write_seed`."""
        with inside(self._namespace):
            sysctl.write_seed(seed)

    def attach_xdp(
        self, ifindex: int, prog_fd: int, mode: str, expected_fd: int | None = None
    ) -> int:
        """Attach an XDP program and return its id: see `xdp.attach`."""
        return xdp.attach(self._route, self._namespace, ifindex, prog_fd, mode, expected_fd)

    def detach_xdp(self, ifindex: int, mode: str, expected_fd: int) -> None:
        """Detach that very XDP program: see `xdp.detach`."""
        xdp.detach(self._route, self._namespace, ifindex, mode, expected_fd)
