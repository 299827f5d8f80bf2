"""What a network namespace's routing looks like, as plain values.

`netlink` makes these from what the kernel says, `compile` turns them into map contents. Nothing
here does input or output. Addresses are packed bytes in network order (4 or 16 of them), so that
they compare, hash and go into maps as they are; the kernel's numbers (interface indexes, table
ids, metrics) are plain integers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from ..errors import shortened


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
        routes by source first, and passes over the prefix where none is for that source)."""
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


class Upper(NamedTuple):
    """A device that stands on another one, as far as that one's received frames go."""

    name: str
    kind: str
    mode: str
    mac: bytes
    where: str = ""
    """The other namespace that it is in, for people to read; "" for ours."""

    def __str__(self) -> str:
        kind = f"{self.kind} {self.mode}".strip()
        return f"{self.name} ({kind}{self.where and f', in {self.where}'})"


class Peer(NamedTuple):
    """The other end of a veth."""

    name: str
    path: str
    """Of the network namespace that it is in (as for `nsenter --net=`); "" for ours."""
    hides_tags: bool
    """Whether it may leave VLAN tags beside the frames (skb->vlan_tci), where XDP cannot see
    them."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network device of the namespace."""

    ifindex: int
    name: str
    mac: bytes
    """Six bytes, or b"" where the device has none (tun, loopback counts as none)."""
    mtu: int
    up: bool
    """Administratively up and with carrier (IFF_UP and IFF_LOWER_UP)."""
    kind: str = ""
    """IFLA_INFO_KIND: veth, vlan, bridge …; "" for a physical device."""
    master: int = 0
    """Index of the bridge, bond, team or VRF that it is enslaved to; 0 = none."""
    lower: int = 0
    """Index of the device that it stands on (IFLA_LINK), as a VLAN device or a macvlan does; 0 for
    none, or one of another namespace. The other end of a veth is no such device."""
    vlan_id: int = 0
    """For a VLAN device: its VLAN id, host order; 0 otherwise."""
    vlan_protocol: int = 0
    """For a VLAN device: 0x8100 or 0x88a8, host order; 0 otherwise."""
    xdp_prog_id: int = 0
    """Id of the XDP program attached to it, 0 = none."""
    xdp_mode: str = ""
    """"native", "generic", "offload" or "" (none)."""
    can_transmit_xdp: bool = True
    """Whether frames may be redirected to it in native mode (NETDEV_XDP_ACT_NDO_XMIT).
    Where the kernel cannot tell (before 6.3), only a native program of its own speaks for it."""
    strips_tags: bool = False
    """Whether the device takes VLAN tags off received frames (`ethtool -k`: rx-vlan-offload): then
    an XDP program cannot see them. Not told of a veth: see `peer`."""

    sets_priority: bool = False
    """For a VLAN device: whether the tags that it sends carry priorities (`egress-qos-map`)."""
    mode: str = ""
    """Of a macvlan or macvtap: private, vepa, bridge, passthru, source; of a bond: balance-rr,
    active-backup, 802.3ad …; "" otherwise or for one that we do not know."""
    ports: tuple[int, ...] = ()
    """Indexes of devices that it receives by without being their `master` (HSR, PRP)."""
    delivers: bool = False
    """For a link of a bond: whether the bond receives all that comes in there. False for an
    inactive link, whose frames Linux drops (bond_should_deliver_exact_match())."""
    peer_index: int = 0
    """For a veth: index of the other end, if that is in this namespace."""
    peer: Peer | None = None
    """For a veth: its other end, as far as that can be looked at."""
    is_untagged: bool = False
    """For a bridge: whether its VLAN filter takes the tag off all that the bridge itself
    receives."""
    elsewhere: tuple[Upper, ...] = ()
    """What stands on it in other network namespaces, as far as they can be looked at."""

    addresses4: frozenset[bytes] = frozenset()
    """Its packed IPv4 addresses, whether routes lead to them or not."""

    segments_all: bool = True
    """Whether it has all offloads that merged and unfinished packets can ask of it: it finishes
    checksums and splits what was merged (`ethtool -k`), of any size."""

    offloads_received: bool = False
    """Whether what it receives comes with word of its checksum (`ethtool -k`: rx-checksumming),
    with a hypervisor behind it perhaps that it is unfinished."""

    merges_lists: bool = False
    """Whether it merges received packets into lists (`ethtool -k`: rx-gro-list)."""

    merges: frozenset[str] = frozenset()
    """How the device itself makes larger packets of several that it receives: "rx-lro", "rx-gro-hw"
    (features of `ethtool -k`). What the kernel merges on that device (GRO) comes after XDP."""

    has_local_ports: bool = False
    """Whether veths or taps are among what is enslaved to it."""

    @property
    def has_address4(self) -> bool:
        """Whether it has an IPv4 address: without one, loose reverse-path filtering is strict."""
        return bool(self.addresses4)

    @property
    def leaves_checksums(self) -> bool:
        """Whether what comes in there may have a checksum that is to be finished later, by hardware
        that there may never be: from hosts behind a veth, from VMs behind a tap, also by way of a
        bridge. Native XDP does not see the note that says so (tun_build_skb() in drivers/net/tun.c
        runs it before the virtio_net_hdr is looked at), and loses it."""
        return self.kind in ("veth", "tun") or self.has_local_ports


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
    """NTF_EXT_MANAGED: the kernel keeps it resolved by itself."""

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
class InterfaceSettings:
    """The sysctls of one interface, already combined with those of `all` as the kernel does."""

    forwarding4: bool = False
    forwarding6: bool = False
    rp_filter: int = 0
    """max(all, interface): 0 off, 1 strict, 2 loose."""
    learns_redirects4: bool = False
    """Whether Linux heeds ICMP redirects that come in there, or did a while ago: then its next hops
    behind the interface are not only what routes say."""
    learns_redirects6: bool = False
    send_redirects: bool = True
    """all or interface."""
    ignore_linkdown4: bool = False
    """net.ipv4.conf.*.ignore_routes_with_linkdown, all or interface."""
    ignore_linkdown6: bool = False
    mtu6: int = 0
    """net.ipv6.conf.*.mtu, which IPv6 goes by rather than the device's; 0 = no IPv6 there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The sysctls of the namespace that decide which path a flow takes."""

    policy4: int = 0
    policy6: int = 0
    seed: int | None = None
    """fib_multipath_hash_seed; None where the kernel has none or keeps it to itself (0)."""
    fields4: int = 0x7
    """net.ipv4.fib_multipath_hash_fields, for policy 3."""
    fields6: int = 0x7
    use_neigh: bool = False
    """net.ipv4.fib_multipath_use_neigh."""
    ip_forward_use_pmtu: bool = False
    proxy_ndp: bool = False
    """net.ipv6.conf.all.proxy_ndp."""
    flow_dissector: bool = False
    """Whether a BPF program takes packets apart in the kernel's stead
    (BPF_PROG_TYPE_FLOW_DISSECTOR): all hash policies but 0 go by what it finds."""
    ipsec: bool = False
    """Whether IPsec policies or their default bear on what is forwarded or sent (`ip xfrm policy`,
    `ip xfrm policy getdefault`)."""
    learned: frozenset[bytes] = frozenset()
    """Packed addresses for which Linux goes by what ICMP errors told it rather than by routes."""
    defragments4: bool = False
    """Whether Linux reassembles IPv4 fragments before it routes them (connection tracking)."""
    defragments6: bool = False
    interfaces: Mapping[int, InterfaceSettings] = field(default_factory=dict)


INGRESS, EGRESS = "ingress", "egress"


class Filter(NamedTuple):
    """One thing in Linux that may drop, change, translate, delay or track what is forwarded, and
    that a packet forwarded by XDP never meets."""

    what: str
    """In the words of the tool that shows it: "nftables chain inet filter forward"."""
    ipv4: bool = True
    ipv6: bool = True
    ifindex: int = 0
    """The one device that it is on; 0 = it looks at what all devices forward."""
    side: str = ""
    """On a device: INGRESS or EGRESS."""
    bridged: bool = False
    """It only looks at frames that pass through a bridge."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Everything of the kind that the namespace has, whether or not it bears on our interfaces."""

    found: tuple[Filter, ...] = ()
    unread: tuple[str, ...] = ()
    """What could not be read, and why: it may hold anything."""
    defragments4: bool = False
    """Whether IPv4 fragments are reassembled before they are routed."""
    defragments6: bool = False

    def settings(self, settings: Settings) -> Settings:
        """With what is to be known of them there."""
        return replace(settings, defragments4=self.defragments4, defragments6=self.defragments6)


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
    filters: Filters = Filters()
    nexthop_groups: Mapping[int, NexthopGroup] = field(default_factory=dict)
    """By id, which is what `Route.nhid` refers to. One that is not here has just gone or come."""
