"""From what the kernel says to what the maps must hold. Pure: values in, values out.

`compile_tables` decides for each prefix what the data path does with it; the identifiers that maps
use (slots, group numbers) are given out later, in `dataplane`. The rules are the kernel's:

- IPv4: while only the default rules exist, main and local share one trie, so that the longest
  prefix wins whatever its table; `default` is asked only where they have nothing (fib_lookup() in
  include/net/ip_fib.h, fib_trie.c). IPv6: the whole local table comes before main
  (fib6_rule_lookup() in net/ipv6/ip6_fib.c).
- Of equal prefixes the lowest metric wins that has a living path; a prefix without any is as if
  it weren't there.
- Bounds: fib_rebalance() in net/ipv4/fib_semantics.c, rt6_upper_bound_set() in net/ipv6/route.c.
- A neighbour on a directly connected network becomes a host route, as in a hardware FIB.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .abi import CAPACITY, INTERFACE_FLAGS, LOCAL4_FILTER_WORDS, MAX_PATHS, Reason
from .hashing import bounds
from .model import (
    InterfaceSettings,
    Link,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
    Settings,
    Snapshot,
)

TABLE_DEFAULT, TABLE_MAIN, TABLE_LOCAL = 253, 254, 255
LAST_BOUND = (1 << 31) - 1
HANDLED_POLICIES = frozenset({0, 1})


class PathEntry(NamedTuple):
    """One entry of the map `paths`."""

    bound: int
    nexthop: NextHop
    weight: int


Group = tuple[PathEntry, ...]
"""Paths with ascending bounds; the last bound is 2^31 - 1."""

Target = int | NextHop | tuple[object, ...]
"""What a prefix leads to: a Reason to pass, one next hop, or the key of a group."""


class Interface(NamedTuple):
    """One entry of the map `interfaces`: an ingress, by the device that Linux sees it on."""

    mac: bytes
    flags: int
    rp_filter: int


class VlanKey(NamedTuple):
    """Key of the map `vlans`; TPIDs and VLAN ids in host order, 0 = no such tag."""

    ifindex: int
    outer_tpid: int
    outer_vid: int
    inner_tpid: int = 0
    inner_vid: int = 0


class Tag(NamedTuple):
    """A VLAN tag to push: TPID and VLAN id in host order."""

    tpid: int
    vid: int


class Adjacency(NamedTuple):
    """One entry of the map `nexthops` but for its identity."""

    reason: int
    device: int
    """Index of the device that transmits: the VLAN's lower one."""
    mac: bytes = bytes(6)
    device_mac: bytes = bytes(6)
    mtu: int = 0
    tags: tuple[Tag, ...] = ()


class Config(NamedTuple):
    """One entry of the map `config`, before the seed is turned into SipHash states."""

    policy4: int
    policy6: int
    seed: int | None
    pass4: int
    pass6: int
    pass_multipath4: int
    pass_multipath6: int
    local4: frozenset[bytes] | None
    """Our own IPv4 addresses; None = look every source up."""


@dataclass(frozen=True, slots=True)
class Tables:
    """All that the maps must hold."""

    config: Config
    interfaces: Mapping[int, Interface] = field(default_factory=dict)
    vlans: Mapping[VlanKey, int] = field(default_factory=dict)
    nexthops: Mapping[NextHop, Adjacency] = field(default_factory=dict)
    gateways: Collection[NextHop] = ()
    """The next hops that routes name, which must be kept resolved; the others are neighbours."""
    groups: Mapping[tuple[object, ...], Group] = field(default_factory=dict)
    routes: Mapping[Prefix, Target] = field(default_factory=dict)


def compile_tables(snapshot: Snapshot, attached: Collection[int]) -> Tables:
    """The whole contents of the maps for `attached`, the indexes of our interfaces."""
    routes = _Routes(snapshot)
    return Tables(
        config=_refuse_overflow(_config(snapshot), routes.targets),
        interfaces=_interfaces(snapshot, attached),
        vlans=_vlans(snapshot.links, attached),
        nexthops=routes.nexthops(),
        gateways=routes.gateways,
        groups=routes.groups,
        routes=routes.targets,
    )


# --- configuration ------------------------------------------------------------------------------


def _config(snapshot: Snapshot) -> Config:
    settings = snapshot.settings
    own, custom_local = _own_addresses4(snapshot.routes)
    unsupported4 = snapshot.custom_rules4 or settings.ip_forward_use_pmtu
    return Config(
        policy4=settings.policy4,
        policy6=settings.policy6,
        seed=settings.seed,
        pass4=Reason.UNSUPPORTED if unsupported4 else Reason.FORWARDED,
        pass6=Reason.UNSUPPORTED if snapshot.custom_rules6 else Reason.FORWARDED,
        pass_multipath4=_multipath_reason(settings, settings.policy4),
        pass_multipath6=_multipath_reason(settings, settings.policy6),
        local4=None if custom_local else own,
    )


def _refuse_overflow(config: Config, targets: Mapping[Prefix, Target]) -> Config:
    """Half a route table would send packets by a shorter prefix: rather pass the whole family."""
    count4 = sum(len(prefix.address) == 4 for prefix in targets)
    if count4 > CAPACITY["ROUTES4_MAX"]:
        config = config._replace(pass4=int(Reason.TABLE_FULL))
    if len(targets) - count4 > CAPACITY["ROUTES6_MAX"]:
        config = config._replace(pass6=int(Reason.TABLE_FULL))
    return config


def _multipath_reason(settings: Settings, policy: int) -> int:
    if policy not in HANDLED_POLICIES:
        return int(Reason.POLICY_UNSUPPORTED)
    return int(Reason.SEED_UNKNOWN if settings.seed is None else Reason.FORWARDED)


RTPROT_KERNEL = 2


def _own_addresses4(routes: Iterable[Route]) -> tuple[frozenset[bytes], bool]:
    """Our IPv4 addresses, and whether somebody added local routes by hand (which makes the kernel
    look every source up: fib_has_custom_local_routes)."""
    own: set[bytes] = set()
    custom = False
    for route in routes:
        if route.table != TABLE_LOCAL or route.prefix.family != 4:
            continue
        if route.protocol != RTPROT_KERNEL:
            custom = True
        elif route.kind is RouteKind.LOCAL and route.prefix.length == 32:
            own.add(route.prefix.address)
    return frozenset(own), custom


def local4_filter(addresses: Collection[bytes] | None) -> list[int]:
    """The Bloom filter of struct config: one bit an address, by the hash that check_source4() in
    bpf/xdpecmp.c uses. All ones for None."""
    if addresses is None:
        return [(1 << 64) - 1] * LOCAL4_FILTER_WORDS
    words = [0] * LOCAL4_FILTER_WORDS
    for address in addresses:
        bit = (int.from_bytes(address, "little") * 0x9E3779B1 & 0xFFFFFFFF) >> 23
        words[bit >> 6] |= 1 << (bit & 63)
    return words


# --- ingress ------------------------------------------------------------------------------------


def _vlans(links: Mapping[int, Link], attached: Collection[int]) -> dict[VlanKey, int]:
    """The VLAN devices over our interfaces, one tag or two, by the tags that lead to them."""
    vlans: dict[VlanKey, int] = {}
    for link in links.values():
        stack = tag_stack(links, link.ifindex)
        if stack is None:
            continue
        base, tags = stack
        if base in attached and 1 <= len(tags) <= 2 and link.up and not link.master:
            flat = [number for tag in tags for number in tag]
            vlans[VlanKey(base, *flat)] = link.ifindex
    return vlans


def tag_stack(links: Mapping[int, Link], ifindex: int) -> tuple[int, tuple[Tag, ...]] | None:
    """The device below a stack of VLAN devices and the tags, outermost first.

    A device that is no VLAN has no tags. None where a lower device is in another namespace.
    """
    tags: list[Tag] = []
    link = links.get(ifindex)
    while link is not None and link.kind == "vlan":
        tags.append(Tag(link.vlan_protocol, link.vlan_id))
        link = links.get(link.lower)
    return None if link is None else (link.ifindex, tuple(reversed(tags)))


def _interfaces(snapshot: Snapshot, attached: Collection[int]) -> dict[int, Interface]:
    """Our interfaces and the VLANs over them. One that is enslaved to a bridge, bond, team or VRF
    is left out: its packets belong to the master, so Linux handles them."""
    links = snapshot.links
    with_address = _interfaces_with_address4(snapshot.routes)
    interfaces: dict[int, Interface] = {}
    for ifindex in [*attached, *_vlans(links, attached).values()]:
        link = links.get(ifindex)
        stack = tag_stack(links, ifindex)
        if link is None or link.master or len(link.mac) != 6 or stack is None:
            continue
        settings = snapshot.settings.interfaces.get(ifindex, InterfaceSettings())
        rp_filter = settings.rp_filter
        if rp_filter == 2 and ifindex not in with_address:
            rp_filter = 1  # loose turns strict on an interface without an IPv4 address
        flags = _flags(settings, links[stack[0]])
        interfaces[ifindex] = Interface(link.mac, flags, rp_filter)
    return interfaces


def _interfaces_with_address4(routes: Iterable[Route]) -> set[int]:
    return {
        path.nexthop.ifindex
        for route in routes
        if route.table == TABLE_LOCAL and route.kind is RouteKind.LOCAL and route.prefix.family == 4
        for path in route.paths
    }


def _flags(settings: InterfaceSettings, device: Link) -> int:
    generic = device.xdp_mode == "generic"
    chosen = {
        "FORWARD4": settings.forwarding4,
        "FORWARD6": settings.forwarding6,
        "GENERIC": generic,
        "SEND_REDIRECTS": settings.send_redirects,
        "PARTIAL_CHECKSUMS": device.kind == "veth" and not generic,
    }
    return sum(INTERFACE_FLAGS[name] for name, wanted in chosen.items() if wanted)


# --- routes -------------------------------------------------------------------------------------

_KIND_REASON = {
    RouteKind.LOCAL: int(Reason.ROUTE_LOCAL),
    RouteKind.SPECIAL: int(Reason.ROUTE_SPECIAL),
    RouteKind.UNSUPPORTED: int(Reason.ROUTE_UNSUPPORTED),
}


class _Routes:
    """Compiles the routes; collects the groups and next hops that they need."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._seen: set[NextHop] = set()
        self._by_paths: dict[tuple[bool, tuple[Path, ...]], Target | None] = {}
        self.groups: dict[tuple[object, ...], Group] = {}
        self.targets: dict[Prefix, Target] = _winners(snapshot.routes, self._target)
        self.gateways = frozenset(nexthop for nexthop in self._seen if nexthop.via)
        self._add_host_routes()

    def nexthops(self) -> dict[NextHop, Adjacency]:
        return {nexthop: self._adjacency(nexthop) for nexthop in self._seen}

    def _target(self, route: Route) -> Target | None:
        """What this route by itself leads to; None where it has no living path."""
        if route.tos:
            return int(Reason.ROUTE_UNSUPPORTED)
        if route.kind is not RouteKind.UNICAST:
            return _KIND_REASON[route.kind]
        if route.nhid:
            return int(Reason.ROUTE_UNSUPPORTED)
        key = (route.prefix.family == 4, route.paths)
        try:
            return self._by_paths[key]
        except KeyError:
            target = self._by_paths[key] = self._paths_target(*key)
            return target

    def _paths_target(self, ipv4: bool, paths: tuple[Path, ...]) -> Target | None:
        usable = [not self._left_out(ipv4, path) for path in paths]
        if not any(usable):
            return None
        if len(paths) == 1:
            self._seen.add(paths[0].nexthop)
            return paths[0].nexthop
        if len(paths) > MAX_PATHS:
            return int(Reason.ROUTE_UNSUPPORTED)
        weights = [
            path.weight if alive else None for path, alive in zip(paths, usable, strict=True)
        ]
        group = tuple(
            PathEntry(bound, path.nexthop, path.weight)
            for path, bound in zip(paths, bounds(weights), strict=True)
            if bound >= 0
        )
        if ipv4 and self._snapshot.settings.use_neigh:
            group = self._skip_bad_neighbours(group)
        self._seen.update(entry.nexthop for entry in group)
        return self._register(ipv4, paths, group)

    def _left_out(self, ipv4: bool, path: Path) -> bool:
        if path.dead:
            return True
        settings = self._snapshot.settings.interfaces.get(path.nexthop.ifindex)
        if not path.linkdown or settings is None:
            return False
        return settings.ignore_linkdown4 if ipv4 else settings.ignore_linkdown6

    def _skip_bad_neighbours(self, group: Group) -> Group:
        """fib_multipath_use_neigh: the first good path by bound, else the first good one. Said in
        bounds: bad paths fall away, and what lies above the last good bound goes to the first."""
        good = [entry for entry in group if self._good(entry.nexthop)]
        if not good:
            return (group[0]._replace(bound=LAST_BOUND),)
        if good[-1].bound != LAST_BOUND:
            good.append(good[0]._replace(bound=LAST_BOUND))
        return tuple(good)

    def _good(self, nexthop: NextHop) -> bool:
        neighbour = self._snapshot.neighbours.get((nexthop.via, nexthop.ifindex))
        return neighbour is None or neighbour.valid

    def _register(self, ipv4: bool, paths: tuple[Path, ...], group: Group) -> Target:
        """A group is known by what was configured, not by which paths live now: so all routes of
        a group move with one store when a path dies."""
        key: tuple[object, ...] = (ipv4, *((path.nexthop, path.weight) for path in paths))
        if self.groups.setdefault(key, group) != group:
            key = (*key, group)  # the kernel says different things of equal paths: two groups
            self.groups[key] = group
        return key

    def _add_host_routes(self) -> None:
        """Neighbours on directly connected networks, where that network is the one in force."""
        lengths = _lengths(self.targets)
        for (address, ifindex), neighbour in self._snapshot.neighbours.items():
            if not neighbour.usable:
                continue
            family = 4 if len(address) == 4 else 6
            if longest_match(self.targets, address, lengths[family]) == NextHop(b"", ifindex):
                nexthop = NextHop(address, ifindex)
                self._seen.add(nexthop)
                self.targets[Prefix(address, len(address) * 8)] = nexthop

    def _adjacency(self, nexthop: NextHop) -> Adjacency:
        links = self._snapshot.links
        stack = tag_stack(links, nexthop.ifindex)
        if stack is None or len(stack[1]) > 2:
            return Adjacency(Reason.EGRESS_NO_XDP, 0)
        device, tags = links[stack[0]], stack[1]
        link = links[nexthop.ifindex]
        neighbour = self._snapshot.neighbours.get((nexthop.via, nexthop.ifindex))
        if not nexthop.via:
            reason = Reason.ON_LINK
        elif not link.up or not device.up:
            reason = Reason.EGRESS_DOWN
        elif neighbour is None or not neighbour.usable or len(link.mac) != 6:
            reason = Reason.NEIGHBOUR
        elif not device.can_transmit_xdp:
            reason = Reason.EGRESS_NO_XDP
        else:
            reason = Reason.FORWARDED
        return Adjacency(
            reason=int(reason),
            device=device.ifindex,
            mac=neighbour.mac if neighbour and neighbour.usable else bytes(6),
            device_mac=link.mac if len(link.mac) == 6 else bytes(6),
            mtu=min(link.mtu, 65535),
            tags=tags,
        )


# --- which route of a prefix is in force ---------------------------------------------------------


def _winners(
    routes: Iterable[Route], target_of: Callable[[Route], Target | None]
) -> dict[Prefix, Target]:
    """For each prefix the target of the route that the kernel would find for it."""
    candidates: dict[Prefix, list[Route]] = {}
    fallback: list[Route] = []
    for route in routes:
        if route.table == TABLE_DEFAULT:
            fallback.append(route)
        else:
            candidates.setdefault(route.prefix, []).append(route)
    targets: dict[Prefix, Target] = {}
    for prefix, rivals in candidates.items():
        target = _winner(rivals, target_of)
        if target is not None:
            targets[prefix] = target
    _drop_shadowed6(targets, routes)
    _add_fallback4(targets, fallback, target_of)
    return targets


def _winner(rivals: list[Route], target_of: Callable[[Route], Target | None]) -> Target | None:
    """The first of one prefix's routes, in the kernel's order, that has a living path."""
    if len(rivals) == 1:
        return target_of(rivals[0])
    if any(route.tos for route in rivals):
        return int(Reason.ROUTE_UNSUPPORTED)
    ordered = sorted(rivals, key=lambda route: (-route.table, route.metric))
    living = [route for route in ordered if target_of(route) is not None]
    if not living:
        return None
    first, second = living[0], living[1] if len(living) > 1 else None
    if (
        second is not None
        and first.prefix.family == 6
        and first.kind is RouteKind.UNICAST
        and (first.table, first.metric) == (second.table, second.metric)
    ):
        return int(Reason.ROUTE_UNSUPPORTED)  # the kernel takes turns between them
    return target_of(first)


def _drop_shadowed6(targets: dict[Prefix, Target], routes: Iterable[Route]) -> None:
    """IPv6 asks the local table first: what a wide local prefix covers is never reached."""
    wide = {
        route.prefix
        for route in routes
        if route.table == TABLE_LOCAL
        and route.prefix.family == 6
        and route.prefix.length < 128
        and route.prefix.address[0] != 0xFF
    }
    if not wide:
        return
    local = {route.prefix for route in routes if route.table == TABLE_LOCAL}
    for prefix in [p for p in targets if p.family == 6 and p not in local]:
        if any(covers(shadow, prefix) for shadow in wide):
            del targets[prefix]


def _add_fallback4(
    targets: dict[Prefix, Target],
    fallback: Iterable[Route],
    target_of: Callable[[Route], Target | None],
) -> None:
    """Table `default` is asked for what main and local do not cover at all."""
    by_prefix: dict[Prefix, list[Route]] = {}
    for route in fallback:
        if route.prefix.family == 4:
            by_prefix.setdefault(route.prefix, []).append(route)
    lengths = _lengths(targets)[4] if by_prefix else []
    for prefix, rivals in by_prefix.items():
        target = _winner(rivals, target_of)
        shorter = [length for length in lengths if length <= prefix.length]
        if target is not None and longest_match(targets, prefix.address, shorter) is None:
            targets[prefix] = target


def covers(wide: Prefix, narrow: Prefix) -> bool:
    """Whether every address of `narrow` is in `wide`."""
    return (
        wide.family == narrow.family
        and wide.length <= narrow.length
        and masked(narrow.address, wide.length) == wide.address
    )


def masked(address: bytes, length: int) -> bytes:
    """The packed address with all but its first `length` bits cleared."""
    bits = len(address) * 8
    value = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return value.to_bytes(len(address), "big")


def _lengths(targets: Iterable[Prefix]) -> dict[int, list[int]]:
    """The prefix lengths in use, longest first, by family."""
    found: dict[int, set[int]] = {4: set(), 6: set()}
    for prefix in targets:
        found[4 if len(prefix.address) == 4 else 6].add(prefix.length)
    return {family: sorted(lengths, reverse=True) for family, lengths in found.items()}


def longest_match(
    targets: Mapping[Prefix, Target], address: bytes, lengths: Iterable[int]
) -> Target | None:
    """What the longest prefix that holds the address leads to; `lengths` longest first."""
    for length in lengths:
        target = targets.get(Prefix(masked(address, length), length))
        if target is not None:
            return target
    return None
