"""What a network namespace's routing looks like, as plain values.

`netlink` makes these from what the kernel says, `compile` turns them into map contents. Nothing
here does input or output. Addresses are packed bytes in network order (4 or 16 of them), so that
they compare, hash and go into maps as they are; the kernel's numbers (interface indexes, table
ids, metrics) are plain integers. Devices are in `links`, sysctls and filters in `settings`; others
import them from here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from ..errors import shortened
from .links import Link as Link
from .links import Peer as Peer
from .links import Upper as Upper
from .settings import EGRESS as EGRESS
from .settings import INGRESS as INGRESS
from .settings import Filter as Filter
from .settings import Filters as Filters
from .settings import InterfaceSettings as InterfaceSettings
from .settings import Settings as Settings


class Prefix(NamedTuple):
    """An IPv4 or IPv6 prefix: the address is packed (4 or 16 bytes) with its host bits zero."""

    address: bytes
    length: int

    @property
    def family(self) -> int:
        """4 or 6."""
        return 4 if len(self.address) == 4 else 6

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """Read `10.0.0.0/8`, `2001:db8::/32`, `default` (IPv4) or a bare address (a host prefix).

        Raises ValueError for anything else, host bits that are not zero included, with a plain
        sentence.
        """
        if "%" in text:
            raise ValueError(f"{shortened(text)} has a zone, which no prefix has")
        try:
            network = ipaddress.ip_network("0.0.0.0/0" if text == "default" else text, strict=False)
        except ValueError:
            raise ValueError(
                f"{shortened(text)} is no prefix: give ADDRESS, ADDRESS/LENGTH or default"
            ) from None
        if "/" in text and ipaddress.ip_address(text.split("/")[0]) != network.network_address:
            host = text.split("/")[0]
            raise ValueError(
                f"{shortened(text)} has host bits set: the prefix is {network}, the host {host}"
            )
        return cls(network.network_address.packed, network.prefixlen)

    def __str__(self) -> str:
        return f"{ipaddress.ip_address(self.address)}/{self.length}"


class RouteKind(Enum):
    """What a route does with a packet, in the kernel's words (RTN_*), as far as we tell apart."""

    UNICAST = "unicast"
    LOCAL = "local"
    """RTN_LOCAL and RTN_ANYCAST: the packet is for this host."""
    SPECIAL = "special"
    """Blackhole, unreachable, prohibit, broadcast, multicast."""
    UNSUPPORTED = "unsupported"
    """Anything whose meaning we do not know or do not carry out: Linux must handle it."""


class NextHop(NamedTuple):
    """Where a path leads: a gateway on a device, or the device alone (directly connected).

    `via` is the gateway's packed address, of either family (RTA_GATEWAY or RTA_VIA), or b"".
    """

    via: bytes
    ifindex: int

    def __str__(self) -> str:
        via = str(ipaddress.ip_address(self.via)) if self.via else "on-link"
        return f"{via} dev #{self.ifindex}"


class Path(NamedTuple):
    """One next hop of a route with its weight (1 to 65,535) and the kernel's RTNH_F_* flags."""

    nexthop: NextHop
    weight: int = 1
    flags: int = 0

    @property
    def dead(self) -> bool:
        """RTNH_F_DEAD: the kernel leaves this path out."""
        return bool(self.flags & 0x01)

    @property
    def linkdown(self) -> bool:
        """RTNH_F_LINKDOWN: left out too where `ignore_routes_with_linkdown` is set."""
        return bool(self.flags & 0x10)


class Route(NamedTuple):
    """One route of one table. Paths stand in the kernel's order: it decides the bounds."""

    prefix: Prefix
    table: int
    metric: int
    kind: RouteKind
    paths: tuple[Path, ...] = ()
    protocol: int = 0
    """RTPROT_*: who installed it (186 BGP, 188 OSPF, 12 BIRD …)."""
    scope: int = 0
    tos: int = 0
    nhid: int = 0
    """RTA_NH_ID: the nexthop object that holds the paths; `paths` is empty then. 0 = none."""
    source_bits: int = 0
    """Length of the source prefix that it is for (IPv6); 0 = any source."""

    @property
    def selective(self) -> bool:
        """More than the destination chooses it: then the same goes for all routes of its prefix,
        whatever their metrics (fib_table_lookup(); fib6_node_lookup_1(), which asks a prefix's
        routes by source first, and passes over the prefix if none is for that source)."""
        return bool(self.tos or self.source_bits)


class RouteUpdate(NamedTuple):
    """One change of one route, as the kernel announces it."""

    route: Route
    gone: bool = False
    """Deleted, or some paths of it."""
    fresh: bool = False
    """There was none of this prefix, table and metric."""
    replaces: bool = False
    """It took the place of the first such route."""


@dataclass(frozen=True, slots=True)
class NexthopGroup:
    """A nexthop object (`ip nexthop`) that routes refer to by its id: a group, or a next hop alone.

    The kernel chooses among its members by other rules than among the paths of a route: flags
    don't count (what is dead gets deleted), the state of neighbours always does, save in a
    resilient group.
    """

    id: int
    kind: RouteKind
    """UNICAST; SPECIAL for a blackhole; UNSUPPORTED for what we do not carry out or understand
    (bridge forwarding, tunnels, other types of group): `members` may be incomplete or empty."""
    members: tuple[Path, ...]
    """In the kernel's order. Their addresses may be of both families, if IPv4 routes alone use it.
    A blackhole has none."""
    single: bool = False
    """Not a group: one next hop, of weight 1."""
    resilient: bool = False
    """A flow goes to the bucket `hash mod len(buckets)`. Otherwise hash-threshold, as a route."""
    buckets: tuple[int, ...] = ()
    """For a resilient group: which of `members` (0 is the first) each bucket holds now."""
    idle_s: float = 0.0
    """For a resilient group: a bucket unused for so many seconds may change hands."""
    unbalanced_s: float = 0.0
    """For a resilient group: after so long one changes hands even in use; 0 = never."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A resolved or failed neighbour: ARP or ND entry."""

    address: bytes
    ifindex: int
    mac: bytes
    """Six bytes, or b"" while there is none."""
    state: int
    """NUD_* bits (include/uapi/linux/neighbour.h)."""
    managed: bool = False
    """NTF_EXT_MANAGED: the kernel keeps it resolved."""

    @property
    def valid(self) -> bool:
        """NUD_VALID: REACHABLE, STALE, DELAY, PROBE, PERMANENT or NOARP."""
        return bool(self.state & 0xDE)

    @property
    def usable(self) -> bool:
        """Valid and with a MAC: packets can be sent to it."""
        return len(self.mac) == 6 and self.valid


class NeighbourUpdate(NamedTuple):
    """One change of one neighbour, as the kernel announces it."""

    neighbour: Neighbour
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that decides where a packet goes, at one moment."""

    links: Mapping[int, Link]
    neighbours: Mapping[tuple[bytes, int], Neighbour]
    """By (packed address, ifindex)."""
    routes: Iterable[Route]
    """Of the tables main, local and default, both families; may be read more than once. By the
    million they are a `routetable.RouteTable`."""
    settings: Settings
    custom_rules4: bool = False
    """Policy rules other than the three (IPv6: two) default ones exist."""
    custom_rules6: bool = False
    filters: Filters = field(default_factory=Filters)
    nexthop_groups: Mapping[int, NexthopGroup] = field(default_factory=dict)
    """By id, which is what `Route.nhid` refers to. One that is not here has just gone or come."""
