"""Change notifications: which kinds of things are to be read again, and what others have become.

The kernel's events do not tell the whole story (multipath routes and groups of nexthop objects lose
paths without a word when a link goes), so no state is derived from those of links, addresses and
rules. They say only *that* something changed; a fresh dump says what. For the same reason a link or
address event means that routes may have changed too, and a link event that nexthop objects have.

Events of routes, neighbours, nexthop objects and buckets of resilient groups carry the whole thing.
They are told in full, as updates: what to make of them is not for netlink to say. So what nobody
uses (a scan of addresses, objects held for later) may come and go by the hundred a second.

An event that makes no sense has its own kind of things read again.

Subscribe first, dump then: what changes in between is read twice rather than never.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from errno import EAGAIN, ENOBUFS

from ..closing import Closing
from ..errors import MalformedMessage
from ..model.nexthoptable import BucketUpdate, NexthopUpdate
from ..model.values import NeighbourUpdate, RouteUpdate
from . import features, links, wire, xfrm
from .firewall import nftables, tc
from .firewall.message import NETLINK_NETFILTER, skip_elements
from .neighbours import parse_neighbour
from .nexthops import parse_bucket, parse_or_doubt
from .routes import RouteMemo
from .rtnetlink import (
    ADDRESS_SIZE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELNETCONF,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNETCONF,
    RTM_NEWNEXTHOP,
    RTM_NEWNEXTHOPBUCKET,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    Group,
)

_GROUPS = sum(1 << (group - 1) for group in Group)
_SO_RCVBUFFORCE = 33
_BUFFER = 32 << 20
_DATAGRAM = 1 << 16
_MOST = 20_000
"""Datagrams read in one go: about 50 ms worth. Under a storm that outpaces us the rest has to wait
in the buffer, so that the caller gets to act."""

_LINK_HEADER = struct.Struct("=BxxxiI")
"""The beginning of ifinfomsg: family, index, IFF_*."""
_ADDRESS_HEADER = struct.Struct("=BxxxI")
"""ifaddrmsg: family, index."""

_AF_INDEX = wire.HEADER_SIZE  # every rtnetlink header starts with the address family


ANYWHERE = 0
"""In place of a device's index."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What may have changed since the last look; `lost`: events were dropped, so anything."""

    routes: bool = False
    links: bool = False
    neighbours: bool = False
    rules: bool = False
    settings: bool = False
    lost: bool = False
    nexthops: bool = False
    filters: bool = False
    """Of netfilter or traffic control."""
    elapsed: bool = False
    """Nothing was heard, but time has passed: what has no event is looked at."""
    updates: tuple[RouteUpdate, ...] = ()
    """Routes that have changed, in order; those that `routes` stands for may be others."""
    neighbour_updates: tuple[NeighbourUpdate, ...] = ()
    """The same of neighbours; older than what a dump made after them says."""
    nexthop_updates: tuple[NexthopUpdate | BucketUpdate, ...] = ()
    """The same of nexthop objects and buckets."""

    @property
    def told(self) -> bool:
        """Whether there are updates."""
        return bool(self.updates or self.neighbour_updates or self.nexthop_updates)

    def untold(self) -> Changes:
        """What is to be read again."""
        return replace(self, updates=(), neighbour_updates=(), nexthop_updates=())

    silent: frozenset[int] = frozenset()
    """Devices whose routes may have changed without an event; ANYWHERE: all."""
    down: frozenset[int] = frozenset()
    """Devices that have gone, or can't send; they may be back by now."""

    def __bool__(self) -> bool:
        return self != Changes()

    def __or__(self, other: Changes) -> Changes:
        return Changes(
            routes=self.routes or other.routes,
            links=self.links or other.links,
            neighbours=self.neighbours or other.neighbours,
            rules=self.rules or other.rules,
            settings=self.settings or other.settings,
            lost=self.lost or other.lost,
            nexthops=self.nexthops or other.nexthops,
            filters=self.filters or other.filters,
            elapsed=self.elapsed or other.elapsed,
            updates=self.updates + other.updates,
            neighbour_updates=self.neighbour_updates + other.neighbour_updates,
            nexthop_updates=self.nexthop_updates + other.nexthop_updates,
            silent=self.silent | other.silent,
            down=self.down | other.down,
        )


_NOTHING = Changes()
_LINKS = Changes(links=True)
_LINKS_AND_MORE = Changes(links=True, routes=True, nexthops=True, silent=frozenset({ANYWHERE}))
_ADDRESSES = Changes(links=True, routes=True, settings=True, silent=frozenset({ANYWHERE}))
"""disable_ipv6 takes addresses away, too."""
_ROUTES = Changes(routes=True, silent=frozenset({ANYWHERE}))
_NEXTHOPS = Changes(nexthops=True, routes=True, silent=frozenset({ANYWHERE}))
_NEIGHBOURS = Changes(neighbours=True)
_RULES = Changes(rules=True)
_SETTINGS = Changes(settings=True)
_FILTERS = Changes(filters=True)
_LOST = Changes(lost=True)


class Updates:
    """Collects what events tell in full."""

    def __init__(self) -> None:
        self.routes: list[RouteUpdate] = []
        self.neighbours: list[NeighbourUpdate] = []
        self.nexthops: list[NexthopUpdate | BucketUpdate] = []

    def __bool__(self) -> bool:
        return bool(self.routes or self.neighbours or self.nexthops)

    def added_to(self, changes: Changes) -> Changes:
        """Those changes, and all that was collected."""
        if not self:
            return changes
        return replace(
            changes,
            updates=tuple(self.routes),
            neighbour_updates=tuple(self.neighbours),
            nexthop_updates=tuple(self.nexthops),
        )


_Classify = Callable[[bytes, Updates], Changes]


def _link(event: bytes) -> Changes:
    # Bridges announce the state of their ports as link events of their own family, and VLANs: those
    # of the bridge itself count.
    if event[_AF_INDEX] != socket.AF_UNSPEC:
        return _LINKS if links.is_of_bridge(event[wire.HEADER_SIZE :]) else _NOTHING
    _, index, flags = _LINK_HEADER.unpack_from(event, wire.HEADER_SIZE)
    device = frozenset({index})
    gone = wire.kind_of(event) == RTM_DELLINK
    down = device if gone or not links.can_send(flags) else frozenset()
    return replace(_LINKS_AND_MORE, silent=device, down=down)


def _address(event: bytes) -> Changes:
    """Paths through the device come and go with its addresses; so do, with an IPv4 address, all
    routes that prefer it as their source (fib_sync_down_addr() in net/ipv4/fib_semantics.c).
    Reverse-path filtering asks whether the device has one."""
    kind = wire.kind_of(event)
    family, index = _ADDRESS_HEADER.unpack_from(event, wire.HEADER_SIZE)
    ipv4 = family == socket.AF_INET
    silent = ANYWHERE if ipv4 and kind == RTM_DELADDR else index
    return replace(_ADDRESSES, links=ipv4, silent=frozenset({silent}))


_LOOK: dict[int, Callable[[bytes], Changes]] = {
    RTM_NEWLINK: _link,
    RTM_DELLINK: _link,
    RTM_NEWADDR: _address,
    RTM_DELADDR: _address,
}

_KINDS: dict[int, Changes] = {
    RTM_NEWLINK: _LINKS_AND_MORE,
    RTM_DELLINK: _LINKS_AND_MORE,
    RTM_NEWADDR: _ADDRESSES,
    RTM_DELADDR: _ADDRESSES,
    RTM_NEWROUTE: _ROUTES,
    RTM_DELROUTE: _ROUTES,
    RTM_NEWNEIGH: _NEIGHBOURS,
    RTM_DELNEIGH: _NEIGHBOURS,
    RTM_NEWRULE: _RULES,
    RTM_DELRULE: _RULES,
    RTM_NEWNETCONF: _SETTINGS,
    RTM_DELNETCONF: _SETTINGS,
    RTM_NEWNEXTHOP: _NEXTHOPS,
    RTM_DELNEXTHOP: _NEXTHOPS,
    RTM_NEWNEXTHOPBUCKET: Changes(nexthops=True),
    **dict.fromkeys(tc.EVENTS, _FILTERS),
}
"""What may have changed by an event that doesn't tell it in full, or makes no sense."""


def _ruleset(datagram: bytes, _updates: Updates) -> Changes:
    """Of nftables: elements of sets come and go by the thousand, and bear on nothing here."""
    kinds = {kind for kind, *_ in wire.messages(datagram)}
    return _FILTERS if kinds - nftables.UNINTERESTING else _NOTHING


class Classifier:
    """Says what rtnetlink events mean."""

    def __init__(self) -> None:
        self._memos = {family: RouteMemo(family) for family in ADDRESS_SIZE}
        self._tell: dict[int, Callable[[Updates, int, int, bytes], None]] = {
            RTM_NEWROUTE: self._route,
            RTM_DELROUTE: self._route,
            RTM_NEWNEIGH: _tell_neighbour,
            RTM_DELNEIGH: _tell_neighbour,
            RTM_NEWNEXTHOP: _tell_nexthop,
            RTM_DELNEXTHOP: _tell_nexthop,
            RTM_NEWNEXTHOPBUCKET: _tell_bucket,
        }

    def __call__(self, datagram: bytes, updates: Updates) -> Changes:
        """What events say may have changed. What they tell in full is added to `updates` instead.
        Raises MalformedMessage if it cannot even be told which events there are."""
        changes = _NOTHING
        for kind, flags, start, end in wire.messages(datagram):
            if kind not in _KINDS:
                continue
            event = datagram[start:end]
            try:
                if kind in self._tell:
                    self._tell[kind](updates, kind, flags, event)
                else:
                    changes |= _LOOK[kind](event) if kind in _LOOK else _KINDS[kind]
            except (MalformedMessage, struct.error, IndexError, ValueError):
                changes |= _KINDS[kind]
        return changes

    def _route(self, updates: Updates, kind: int, flags: int, event: bytes) -> None:
        gone = kind == RTM_DELROUTE
        memo = self._memos.get(event[_AF_INDEX])
        route = memo and memo.parse(event)
        if route:
            fresh, replaces = bool(flags & wire.NLM_F_EXCL), bool(flags & wire.NLM_F_REPLACE)
            updates.routes.append(RouteUpdate(route, gone, fresh and not gone, replaces))


def _tell_neighbour(updates: Updates, kind: int, _flags: int, event: bytes) -> None:
    parsed = parse_neighbour(event[wire.HEADER_SIZE :])
    if parsed is not None:
        updates.neighbours.append(NeighbourUpdate(parsed[0], kind == RTM_DELNEIGH))


def _tell_nexthop(updates: Updates, kind: int, _flags: int, event: bytes) -> None:
    nhid, meaning = parse_or_doubt(event[wire.HEADER_SIZE :])
    updates.nexthops.append(NexthopUpdate(nhid, None if kind == RTM_DELNEXTHOP else meaning))


def _tell_bucket(updates: Updates, _kind: int, _flags: int, event: bytes) -> None:
    updates.nexthops.append(BucketUpdate(*parse_bucket(event[wire.HEADER_SIZE :])))


class Monitor(Closing):
    """Subscriptions of the network namespace that the calling thread is in when it is made.

    It can be handed to poll, select or a selector; when it is readable, call `drain()`.
    """

    def __init__(self, family: features.Family | None) -> None:
        """`family`: what `features.find_family` found; None = no notices of XDP features."""
        with ExitStack() as undo:
            self._poll = undo.enter_context(select.epoll())
            self._sources: list[tuple[socket.socket, _Classify, Changes]] = []
            self.emptied = True
            """Whether the last `drain` read all that had been said when it began."""
            self._subscribe(undo, socket.NETLINK_ROUTE, _GROUPS, Classifier())
            with suppress(OSError):  # a kernel built without IPsec
                policies = 1 << (xfrm.XFRMNLGRP_POLICY - 1)
                self._subscribe(undo, xfrm.NETLINK_XFRM, policies, lambda *_: _SETTINGS)
            with suppress(OSError):  # a kernel without nftables
                rulesets = 1 << (nftables.GROUP - 1)
                made = self._subscribe(undo, NETLINK_NETFILTER, rulesets, _ruleset, _FILTERS)
                skip_elements(made)
            if family is not None:
                made = self._subscribe(undo, wire.NETLINK_GENERIC, 0, lambda *_: _LINKS)
                made.setsockopt(wire.SOL_NETLINK, wire.NETLINK_ADD_MEMBERSHIP, family.group)
            self._close = undo.pop_all().close

    def _subscribe(
        self,
        undo: ExitStack,
        protocol: int,
        groups: int,
        look: _Classify,
        lost: Changes = _LOST,
    ) -> socket.socket:
        """Open a socket and have `drain` read it. `lost`: what dropped events may have said."""
        made = undo.enter_context(_socket(protocol))
        made.bind((0, groups))
        self._poll.register(made, select.EPOLLIN)
        self._sources.append((made, look, lost))
        return made

    def fileno(self) -> int:
        """One descriptor (an epoll) that is readable when there is something to drain."""
        return self._poll.fileno()

    def descriptors(self) -> set[int]:
        """The open files that a forked process needs to go on with it."""
        return {self._poll.fileno(), *(source.fileno() for source, *_ in self._sources)}

    def drain(self) -> Changes:
        """Read all events that wait, without blocking, and say what they mean."""
        changes, updates = _NOTHING, Updates()
        self.emptied = False
        emptied = True
        for source, look, lost in self._sources:
            found, to_the_end = _drain(source, look, lost, updates)
            changes |= found
            emptied &= to_the_end
        self.emptied = emptied
        return updates.added_to(changes)


def _socket(protocol: int) -> socket.socket:
    """A non-blocking netlink socket whose buffer takes a storm of events."""
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
    )
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)  # beyond rmem_max
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    return made


def _drain(
    source: socket.socket, look: _Classify, lost: Changes, updates: Updates
) -> tuple[Changes, bool]:
    """What events of this source mean, and whether no more wait."""
    changes = _NOTHING
    for _ in range(_MOST):
        try:
            datagram, (sender, _) = source.recvfrom(_DATAGRAM)
            if sender != wire.KERNEL:
                continue
            found = look(datagram, updates)
            if found is not _NOTHING:
                changes |= found
        except OSError as error:
            if error.errno == EAGAIN:
                return changes, True
            if error.errno != ENOBUFS:
                raise
            # The socket stays usable; what it dropped is made good by dumping everything.
            changes |= lost
    return changes, False
