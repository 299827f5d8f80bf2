"""Change notifications: which kinds of things are to be read again, and what routes have become.

The kernel's events do not tell the whole story (multipath routes lose paths without a word when a
link goes), so no state is derived from most of them. They say only *that* something changed; a
fresh dump says what. For the same reason a link, address or nexthop-object event means that routes
may have changed too, and a link event that groups of nexthop objects have.

Route events are told in full, as `RouteUpdate`s: what to make of them is not for netlink to say.

A bucket of a resilient group that moves to another member (RTM_NEWNEXTHOPBUCKET) is news of the
groups alone; whether ours moves along is not for netlink to say either (see `buckets`).

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
from typing import Self

from ..errors import MalformedMessage
from ..model import RouteUpdate
from . import features, links, wire, xfrm
from .neighbours import FAMILIES, NEIGHBOUR_HEADER, NTF_PROXY
from .routes import ADDRESS_SIZE, RTM_NEWROUTE, RouteMemo

_GROUPS = sum(
    1 << (group - 1)
    for group in (
        1,  # RTNLGRP_LINK
        3,  # RTNLGRP_NEIGH
        5,  # RTNLGRP_IPV4_IFADDR
        7,  # RTNLGRP_IPV4_ROUTE
        8,  # RTNLGRP_IPV4_RULE
        9,  # RTNLGRP_IPV6_IFADDR
        11,  # RTNLGRP_IPV6_ROUTE
        19,  # RTNLGRP_IPV6_RULE
        24,  # RTNLGRP_IPV4_NETCONF
        25,  # RTNLGRP_IPV6_NETCONF
        32,  # RTNLGRP_NEXTHOP
    )
)
_SO_RCVBUFFORCE = 33
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_BUFFER = 32 << 20
_DATAGRAM = 1 << 16
_MOST = 20_000
"""Datagrams read in one go: about 50 ms worth. Under a storm that outpaces us the rest has to wait
in the buffer, so that the caller gets to act."""

_RTM_DELROUTE = 25
_NLM_F_EXCL = 0x200

_AF_INDEX = wire.HEADER_SIZE  # every rtnetlink header starts with the address family


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
    updates: tuple[RouteUpdate, ...] = ()
    """Routes that have changed, in order; those that `routes` stands for may be others."""

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
            updates=self.updates + other.updates,
        )


_NOTHING = Changes()
_LINKS = Changes(links=True)
_LINKS_AND_MORE = Changes(links=True, routes=True, nexthops=True)
_ROUTES = Changes(routes=True)
_NEXTHOPS = Changes(nexthops=True, routes=True)
_NEIGHBOURS = Changes(neighbours=True)
_RULES = Changes(rules=True)
_SETTINGS = Changes(settings=True)
_LOST = Changes(lost=True)

_Classify = Callable[[bytes, list[RouteUpdate]], Changes]


def _link(event: bytes) -> Changes:
    if event[_AF_INDEX] == socket.AF_UNSPEC:
        return _LINKS_AND_MORE
    # Bridges announce the state of their ports as link events of their own family, and VLANs: those
    # of the bridge itself count.
    return _LINKS if links.is_of_bridge(event[wire.HEADER_SIZE :]) else _NOTHING


def _neighbour(event: bytes) -> Changes:
    family, _, _, flags, _ = NEIGHBOUR_HEADER.unpack_from(event, wire.HEADER_SIZE)
    return _NEIGHBOURS if family in FAMILIES and not flags & NTF_PROXY else _NOTHING


_CLASSIFY: dict[int, Callable[[bytes], Changes]] = {
    16: _link,  # RTM_NEWLINK
    17: _link,  # RTM_DELLINK
    20: lambda _: _ROUTES,  # RTM_NEWADDR
    21: lambda _: _ROUTES,  # RTM_DELADDR
    28: _neighbour,  # RTM_NEWNEIGH
    29: _neighbour,  # RTM_DELNEIGH
    32: lambda _: _RULES,  # RTM_NEWRULE
    33: lambda _: _RULES,  # RTM_DELRULE
    80: lambda _: _SETTINGS,  # RTM_NEWNETCONF
    81: lambda _: _SETTINGS,  # RTM_DELNETCONF
    104: lambda _: _NEXTHOPS,  # RTM_NEWNEXTHOP
    105: lambda _: _NEXTHOPS,  # RTM_DELNEXTHOP
    116: lambda _: Changes(nexthops=True),  # RTM_NEWNEXTHOPBUCKET
}


class Classifier:
    """Says what rtnetlink events mean."""

    def __init__(self) -> None:
        self._memos = {family: RouteMemo(family) for family in ADDRESS_SIZE}

    def __call__(self, datagram: bytes, updates: list[RouteUpdate]) -> Changes:
        """What events say may have changed, routes apart: those are added to `updates`. Raises
        MalformedMessage."""
        changes = _NOTHING
        for kind, flags, start, end in wire.messages(datagram):
            event = datagram[start:end]
            try:
                if kind in (RTM_NEWROUTE, _RTM_DELROUTE):
                    self._add(updates, kind == _RTM_DELROUTE, flags, event)
                elif kind in _CLASSIFY:
                    changes |= _CLASSIFY[kind](event)
            except (struct.error, IndexError):
                raise MalformedMessage(f"netlink event {kind} of {end - start} bytes") from None
        return changes

    def _add(self, updates: list[RouteUpdate], gone: bool, flags: int, event: bytes) -> None:
        memo = self._memos.get(event[_AF_INDEX])
        route = memo and memo.parse(event)
        if route:
            fresh, replaces = bool(flags & _NLM_F_EXCL), bool(flags & wire.NLM_F_REPLACE)
            updates.append(RouteUpdate(route, gone, fresh and not gone, replaces))


class Monitor:
    """Subscriptions of the network namespace that the calling thread is in when it is made.

    It can be handed to poll, select or a selector; when it is readable, call `drain()`.
    """

    def __init__(self, family: features.Family | None) -> None:
        """`family`: what `features.find_family` found; None = no notices of XDP features."""
        with ExitStack() as undo:
            self._poll = undo.enter_context(select.epoll())
            self._sources: list[tuple[socket.socket, _Classify]] = []
            self._subscribe(undo, socket.NETLINK_ROUTE, _GROUPS, Classifier())
            with suppress(OSError):  # a kernel built without IPsec
                policies = 1 << (xfrm.XFRMNLGRP_POLICY - 1)
                self._subscribe(undo, xfrm.NETLINK_XFRM, policies, lambda *_: _SETTINGS)
            if family is not None:
                made = self._subscribe(undo, wire.NETLINK_GENERIC, 0, lambda *_: _LINKS)
                made.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, family.group)
            self._close = undo.pop_all().close

    def _subscribe(
        self, undo: ExitStack, protocol: int, groups: int, look: _Classify
    ) -> socket.socket:
        """Open a socket and have `drain` read it."""
        made = undo.enter_context(_socket(protocol))
        made.bind((0, groups))
        self._poll.register(made, select.EPOLLIN)
        self._sources.append((made, look))
        return made

    def close(self) -> None:
        """Close the sockets. May be called again."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """One descriptor (an epoll) that is readable when there is something to drain."""
        return self._poll.fileno()

    def descriptors(self) -> set[int]:
        """The open files that a forked process needs to go on with it."""
        return {self._poll.fileno(), *(source.fileno() for source, _ in self._sources)}

    def drain(self) -> Changes:
        """Read all events that wait, without blocking, and say what they mean."""
        changes, updates = _NOTHING, list[RouteUpdate]()
        for source, look in self._sources:
            changes |= _drain(source, look, updates)
        return replace(changes, updates=tuple(updates)) if updates else changes


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


def _drain(source: socket.socket, look: _Classify, updates: list[RouteUpdate]) -> Changes:
    changes = _NOTHING
    for _ in range(_MOST):
        try:
            found = look(source.recv(_DATAGRAM), updates)
            if found is not _NOTHING:
                changes |= found
        except OSError as error:
            if error.errno == EAGAIN:
                break
            if error.errno != ENOBUFS:
                raise
            # The socket stays usable; what it dropped is made good by dumping everything.
            changes |= _LOST
    return changes
