"""Change notifications: which kinds of things are to be read again.

The kernel's events do not tell the whole story (multipath routes lose paths without a word when a
link goes), so no state is derived from them. They say only *that* something
changed; a fresh dump says what. For the same reason a link, address or nexthop-object event means
that routes may have changed too, and a link event that groups of nexthop objects have.

A bucket of a resilient group that moves to another member (RTM_NEWNEXTHOPBUCKET) is news of the
groups alone; whether ours moves along is not for netlink to say (see `buckets`).

Subscribe first, dump then: what changes in between is read twice rather than never.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EAGAIN, ENOBUFS
from types import TracebackType
from typing import Self

from ..errors import MalformedMessage
from . import features, wire
from .neighbours import FAMILIES, NEIGHBOUR_HEADER, NTF_PROXY
from .routes import ROUTE_HEADER, RTM_F_CLONED, TABLES

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
_BUFFER = 8 << 20
_DATAGRAM = 1 << 16
_MOST = 20_000
"""Datagrams read in one go: about 50 ms worth. Under a storm that outpaces us the rest has to wait
in the buffer, so that the caller gets to act."""

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

_Classify = Callable[[bytes], Changes]


def _link(event: bytes) -> Changes:
    # Bridges announce the state of their ports as link events of their own family.
    return _LINKS_AND_MORE if event[_AF_INDEX] == socket.AF_UNSPEC else _NOTHING


def _route(event: bytes) -> Changes:
    # A table above 255 shows as 252 in the header, which is none of ours either.
    *_, table, _, _, _, flags = ROUTE_HEADER.unpack_from(event, wire.HEADER_SIZE)
    return _NOTHING if flags & RTM_F_CLONED or table not in TABLES else _ROUTES


def _neighbour(event: bytes) -> Changes:
    family, _, _, flags, _ = NEIGHBOUR_HEADER.unpack_from(event, wire.HEADER_SIZE)
    return _NEIGHBOURS if family in FAMILIES and not flags & NTF_PROXY else _NOTHING


_CLASSIFY: dict[int, _Classify] = {
    16: _link,  # RTM_NEWLINK
    17: _link,  # RTM_DELLINK
    20: lambda _: _ROUTES,  # RTM_NEWADDR
    21: lambda _: _ROUTES,  # RTM_DELADDR
    24: _route,  # RTM_NEWROUTE
    25: _route,  # RTM_DELROUTE
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


def classify(datagram: bytes) -> Changes:
    """What an rtnetlink event says may have changed. Raises MalformedMessage."""
    changes = _NOTHING
    for kind, _, start, end in wire.messages(datagram):
        look = _CLASSIFY.get(kind)
        if look is None:
            continue
        try:
            changes |= look(datagram[start:end])
        except (struct.error, IndexError):
            raise MalformedMessage(f"netlink event {kind} of {end - start} bytes") from None
    return changes


class Monitor:
    """Subscriptions of the network namespace that the calling thread is in when it is made.

    It can be handed to poll, select or a selector; when it is readable, call `drain()`.
    """

    def __init__(self, family: features.Family | None) -> None:
        """`family`: what `features.find_family` found; None = no notices of XDP features."""
        with ExitStack() as undo:
            self._poll = undo.enter_context(select.epoll())
            self._sources: list[tuple[socket.socket, _Classify]] = []
            self._subscribe(undo, socket.NETLINK_ROUTE, _GROUPS, classify)
            if family is not None:
                made = self._subscribe(undo, wire.NETLINK_GENERIC, 0, lambda _: _LINKS)
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """One descriptor (an epoll) that is readable when there is something to drain."""
        return self._poll.fileno()

    def drain(self) -> Changes:
        """Read all events that wait, without blocking, and say what they mean."""
        changes = _NOTHING
        for source, look in self._sources:
            changes |= _drain(source, look)
        return changes


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


def _drain(source: socket.socket, look: _Classify) -> Changes:
    changes = _NOTHING
    for _ in range(_MOST):
        try:
            changes |= look(source.recv(_DATAGRAM))
        except OSError as error:
            if error.errno == EAGAIN:
                break
            if error.errno != ENOBUFS:
                raise
            # The socket stays usable; what it dropped is made good by dumping everything.
            changes |= _LOST
    return changes
