"""What other network namespaces have to do with our devices: what stands on them there, and what
the other ends of our veths may send.

A macvlan of a container takes its frames from a NIC of ours, though no dump of ours shows it. So
every namespace that has a name or a process is looked at, as far as it refers to ours at all. What
nobody can find (a namespace kept by an open file alone, or of which this process sees no trace)
stays unknown.

Source: rtnl_net_getid() in net/core/net_namespace.c, rtnl_fill_link_netnsid() in rtnetlink.c.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import MalformedMessage, XdpecmpError
from ..model.values import Link, Peer, Upper
from . import wire
from .ethtool import Features, features
from .links import dump_links, foreign_lower, parse_link
from .namespace import inside
from .rtnetlink import RTM_GETNSID

_NETNSA_NSID = 1
_NETNSA_FD = 3
_NOT_ASSIGNED = -1

_NAMED = ("/run/netns", "/run/docker/netns")
_PROC = Path("/proc")

_HARMLESS = frozenset({"vlan", "veth"})
"""A VLAN device takes what nobody forwards here: a tag that this namespace does not know."""

_SAY_NO_NAMESPACE = frozenset({"ipvtap"})
"""Kinds that tell the number of the device below, and not in which namespace that is."""

SHARE = 10
"""No more than this part of the time is spent on looking everywhere, after events."""
SOON = 0.005
"""Seconds that a look may take before what hangs on an event."""
IDLE_SHARE = 3000
"""One part in so many is spent on looking, without events, at what is known to refer to ours."""
LATEST = 15.0
"""Seconds after which that is looked at again, however long it takes."""


@dataclass(frozen=True)
class Elsewhere:
    """By index of our devices."""

    uppers: Mapping[int, tuple[Upper, ...]] = field(default_factory=dict)
    peers: Mapping[int, Peer] = field(default_factory=dict)
    """The other ends of veths."""

    def add_to(self, link: Link) -> Link:
        """The link with what is known of it from elsewhere."""
        if link.ifindex in self.uppers:
            link = replace(link, elsewhere=self.uppers[link.ifindex])
        if link.kind == "veth" and link.ifindex in self.peers:
            link = replace(link, peer=self.peers[link.ifindex])
        return link


class Place(NamedTuple):
    """Another namespace."""

    path: str
    text: str
    """For people to read."""


class Lookout:
    """Looks at other namespaces, but not all the time. `home`: a descriptor of ours."""

    def __init__(self, home: int) -> None:
        self._home = home
        self._known = Elsewhere()
        self._relevant: dict[Place, Elsewhere] = {}
        self._took = self._next = self._next_again = 0.0
        self._is_fresh = False
        self._is_overdue = True

    def look(self) -> Elsewhere:
        """All of it as it is now; if that takes long, as it was the last time, and `has_changed`
        looks: who asks has events to follow."""
        if self._is_fresh:
            self._is_fresh = False
            return self._known
        self._is_overdue = self._took > SOON or time.monotonic() < self._next
        if not self._is_overdue:
            self._look()
        return self._known

    def has_changed(self, ours: frozenset[int]) -> bool:
        """Whether `look` has something new to say. If it put nothing off, no other namespaces
        are looked at than those that are known to refer to these devices of ours."""
        begin = time.monotonic()
        if self._is_overdue:
            if begin < self._next:
                return False
            before = self._known
            self._look()
            # fresh for whoever is told to ask; nobody is if there is nothing new
            self._is_overdue, self._is_fresh = False, self._known != before
            return self._is_fresh
        if begin < self._next_again:
            return False
        differs = False
        for place, before in self._relevant.items():
            if not ours.isdisjoint({*before.uppers, *before.peers}):
                found = _look_at(place, self._home)
                differs = differs or (found is not None and found != before)
        end = time.monotonic()
        self._next_again = end + min(LATEST, IDLE_SHARE * (end - begin))
        self._is_overdue = differs and self._took > SOON
        return differs and not self._is_overdue

    def _look(self) -> None:
        begin = time.monotonic()
        found = {place: _look_at(place, self._home) for place in _others(self._home)}
        # of those that cannot be looked at, what was known holds
        known = self._relevant
        self._keep(
            {
                place: known.get(place, Elsewhere()) if each is None else each
                for place, each in found.items()
            }
        )
        end = time.monotonic()
        self._took, self._next = end - begin, end + SHARE * (end - begin)

    def _keep(self, found: Mapping[Place, Elsewhere]) -> None:
        uppers: dict[int, tuple[Upper, ...]] = defaultdict(tuple)
        peers: dict[int, Peer] = {}
        for each in found.values():
            for ifindex, there in each.uppers.items():
                uppers[ifindex] += there
            peers |= each.peers
        self._known = Elsewhere(dict(uppers), peers)
        self._relevant = {place: each for place, each in found.items() if each.uppers or each.peers}


def _others(home: int) -> Iterator[Place]:
    """All namespaces that have a name or a process, except ours."""
    own = os.fstat(home)
    seen = {own.st_ino}

    def is_new(path: str) -> bool:
        with suppress(OSError):
            there = os.stat(path)
            if there.st_dev == own.st_dev and there.st_ino not in seen:
                seen.add(there.st_ino)
                return True
        return False

    for folder in _NAMED:
        with suppress(OSError):
            for name in sorted(os.listdir(folder)):
                if is_new(path := f"{folder}/{name}"):
                    yield Place(path, f"namespace {name}")
    for pid in filter(str.isdecimal, os.listdir(_PROC)):
        if is_new(path := f"{_PROC}/{pid}/ns/net"):
            yield Place(path, f"the namespace of process {pid}")


def _look_at(place: Place, home: int) -> Elsewhere | None:
    """What one namespace has to do with ours; nothing if it has just gone, None if it cannot
    be told."""
    try:
        with (
            _opened(place.path) as there,
            inside(there),
            wire.Socket() as connection,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control,
        ):
            number = _number_of(connection, home)
            return Elsewhere() if number is None else _refers(connection, control, number, place)
    except OSError:
        return Elsewhere()
    except XdpecmpError:
        return None


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _number_of(connection: wire.Socket, namespace: int) -> int | None:
    """By which number that namespace is known here, None if it is not known at all."""
    request = bytes(4) + wire.attribute(_NETNSA_FD, struct.pack("=I", namespace))
    answer = connection.ask(RTM_GETNSID, request, "number of a network namespace")
    found = wire.attribute_map(answer, 4, len(answer))
    number: int = struct.unpack("=i", found.get(_NETNSA_NSID, b"\xff\xff\xff\xff"))[0]
    return None if number == _NOT_ASSIGNED else number


def _refers(
    connection: wire.Socket, control: socket.socket, number: int, place: Place
) -> Elsewhere:
    uppers: dict[int, tuple[Upper, ...]] = {}
    peers: dict[int, Peer] = {}
    links: dict[int, Link] = {}
    referring: list[tuple[Link, int | None, int]] = []
    for message in dump_links(connection):
        with suppress(MalformedMessage):
            link = parse_link(message)
            links[link.ifindex] = link
            referring.append((link, *foreign_lower(message)))
    for link, namespace, ifindex in referring:
        if link.kind in _SAY_NO_NAMESPACE and not _stands_here(links, link):
            ifindex = link.lower  # of a device in some other namespace, which may be ours
        elif namespace != number:
            continue
        if link.kind == "veth":
            peers[ifindex] = peer_of(links, link, features(control, link.name), place.path)
        elif link.kind not in _HARMLESS:
            upper = Upper(link.name, link.kind, link.mode, link.mac, place.text)
            uppers[ifindex] = (*uppers.get(ifindex, ()), upper)
    return Elsewhere(uppers, peers)


def _stands_here(links: Mapping[int, Link], link: Link) -> bool:
    """Whether it is on a device of its own namespace, whose address it has."""
    below = links.get(link.lower)
    return below is not None and below.mac == link.mac


def peer_of(links: Mapping[int, Link], end: Link, has: Features, path: str = "") -> Peer:
    """This end of a veth, which may hand over frames with their tag beside them if it is left to it
    to insert tags, and something above it makes or forwards tagged frames."""
    return Peer(end.name, path, has.hides_sent and _sends_tags(links, end))


def _sends_tags(links: Mapping[int, Link], link: Link) -> bool:
    master = links.get(link.master)
    if link.master and (master is None or master.kind not in ("bond", "vrf")):
        return True  # a bridge forwards what came in with a tag elsewhere
    above = [each for each in links.values() if each.lower == link.ifindex]
    return any(each.kind == "vlan" or _sends_tags(links, each) for each in above) or (
        master is not None and _sends_tags(links, master)
    )
