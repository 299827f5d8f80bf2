"""Routers with random routes of many kinds, each described by one number.

Next hops are permanent neighbours, each with a MAC of its own: a frame's destination MAC tells by
which path it left.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import NamedTuple

INGRESS = "in"
EGRESS = ("e1", "e2", "e3", "e4")
DEVICES = (INGRESS, *EGRESS)
NEIGHBOURS = 16
"""Per device and family: so 64 paths are possible."""
ROUTER_MAC = bytes.fromhex("02aa00000001")
SENDER_MAC = bytes.fromhex("02bb00000002")
SOURCES = {4: ip_network("11.0.0.0/8"), 6: ip_network("2001:db8:c::/48")}
"""What lies behind the ingress interface: a strict reverse-path check finds it there."""
SENTINEL_SOURCE = ip_network("11.255.0.0/16")
POLICIES = (0, 1, 2, 3)
MODES = ("generic", "native")
QUIRKS = (
    "net.ipv4.conf.default.accept_local",
    "net.ipv4.conf.default.route_localnet",
    "net.ipv4.conf.all.bc_forwarding",
    "net.ipv4.conf.default.bc_forwarding",
)
"""Sysctls that change what Linux forwards, each now and then on; none that passes all to Linux."""
STACKED = ("", "macvlan")
"""What the ingress is in generic mode: the veth itself, or a device over it. What a bridge receives
is all Linux's: tests/net/test_stacked.py."""
OFFLOADS = ("tx", "tso", "tx-udp-segmentation", "tx-gso-list", "sg")
"""Of an egress now and then one is off: then merged packets must not go there as they are."""
PASSED = ("by TOS", "MTU")
"""Kinds of routes that xdpecmp leaves to Linux, ICMP errors too."""


def link_address(device: int, host: int, family: int) -> str:
    """An address on the link of DEVICES[device]; host 1 is the router."""
    return f"10.0.{device}.{host}" if family == 4 else f"2001:db8:{device}::{host:x}"


def neighbour_mac(device: int, host: int, family: int) -> str:
    return f"02:00:00:0{family}:{device:02x}:{host:02x}"


def device_mac(device: int) -> bytes:
    """Of the router's side of a link."""
    return (int.from_bytes(ROUTER_MAC, "big") + device).to_bytes(6, "big")


def sentinel_target(device: int) -> str:
    """An address that is behind exactly one device."""
    return f"49.0.0.{device + 1}"


class Hop(NamedTuple):
    """A next hop: DEVICES[device], and the host on its link."""

    device: int
    host: int
    weight: int


class Target(NamedTuple):
    """A prefix that frames are sent to."""

    family: int
    prefix: str
    kind: str
    multipath: bool


@dataclass
class Design:
    """Everything about a round's router, drawn from its seed."""

    seed: int
    policy: int
    mode: str
    fields4: int
    fields6: int
    hash_seed: int
    rp_filter: int
    send_redirects: int
    mtus: Sequence[int]
    quirks: dict[str, int]
    """Further sysctls."""
    stacked: str = ""
    """One of STACKED."""
    offloads: dict[str, str] = field(default_factory=dict)
    """By egress, the one of OFFLOADS that is off."""
    addressless: bool = False
    """The ingress has a local route and no IPv4 address: reverse-path filtering is never loose."""
    accepting: str = ""
    """An egress where ICMP redirects are accepted, "" = none."""
    commands: list[str] = field(default_factory=list)
    """For `ip -batch`, in order."""
    groups: list[tuple[int, list[tuple[int, int]]]] = field(default_factory=list)
    """Nexthop groups: id, members' ids and 16-bit weights, which iproute2 can't before 6.13."""
    routes: list[str] = field(default_factory=list)
    """More commands, once the groups are there."""
    targets: list[Target] = field(default_factory=list)
    local: list[str] = field(default_factory=lambda: ["127.0.0.0/8"])
    """Prefixes of the router's own, besides its addresses."""

    def __str__(self) -> str:
        kinds = " ".join(f"{t.prefix}({t.kind})" for t in self.targets)
        return (
            f"policy {self.policy} {self.mode} fields {self.fields4:#x} {self.fields6:#x} "
            f"seed {self.hash_seed} rp_filter {self.rp_filter} redirects {self.send_redirects} "
            f"mtu {list(self.mtus)} {self.quirks} stacked {self.stacked or 'no'} "
            f"without {self.offloads} addressless {self.addressless} "
            f"accepting {self.accepting or 'none'}: {kinds}"
        )

    @property
    def left_out(self) -> set[str]:
        """Egresses by which all that comes in passes to Linux."""
        merging = self.offloads.keys() if self.mode == "generic" else set()
        return {*merging, *([self.accepting] if self.accepting else [])}


def design(seed: int) -> Design:
    """The round of that seed. Eight seeds in a row have every policy in both modes."""
    rng = random.Random(f"router {seed}")
    policy, mode = POLICIES[seed % 4], MODES[seed // 4 % 2]
    made = Design(
        seed=seed,
        policy=policy,
        mode=mode,
        fields4=rng.choice([0x7, 0x37, rng.randrange(1, 0x1000), rng.randrange(1, 0x1000)]),
        fields6=rng.choice([0x7, 0x3F, rng.randrange(1, 0x1000), rng.randrange(1, 0x1000)]),
        hash_seed=rng.choice([1, rng.getrandbits(32) or 1, 0xFFFFFFFF]),
        rp_filter=rng.choice([0, 0, 1, 2]),
        send_redirects=rng.randrange(2),
        mtus=(1500, 1500, rng.choice([1400, 1500]), rng.choice([1280, 1300])),
        quirks={name: 1 for name in QUIRKS if rng.random() < 0.15},
    )
    edges = random.Random(f"edges {seed}")
    if mode == "generic":
        made.stacked = edges.choice(STACKED)
    made.offloads = {name: edges.choice(OFFLOADS) for name in EGRESS if edges.random() < 0.25}
    made.addressless = edges.random() < (0.7 if made.rp_filter == 2 else 0.2)
    if edges.random() < 0.3:
        made.accepting = edges.choice(EGRESS)
    for family in (4, 6):
        _Routes(made, rng, family).draw()
    return made


class _Routes:
    """Draws the routes of one family."""

    def __init__(self, made: Design, rng: random.Random, family: int) -> None:
        self._made, self._rng, self._family = made, rng, family
        self._numbers = iter(range(1, 200))
        self._ids = iter(range(family * 10_000, family * 10_000 + 5_000))
        self._nexthop_ids: dict[tuple[int, int], int] = {}

    def draw(self) -> None:
        rng = self._rng
        for count in (2, 3, 64, rng.randrange(2, 65), rng.randrange(2, 17)):
            self._classic(count)
        for _ in range(2):
            self._group(rng.choice([1, 2, 5, rng.randrange(2, 65)]), 0xFFFF)
        self._group(rng.choice([2, 3, 7]), 0x100, resilient=True)
        self._single()
        self._by_object()
        for kind in ("blackhole", "unreachable", "prohibit", "throw"):
            self._no_route(kind)
        self._on_link()
        self._with_mtu()
        if rng.random() < 0.3:
            self._default()
        if rng.random() < 0.3:
            self._local()
        self._two_metrics()
        if self._family == 4:
            self._over_ipv6()
            self._tos()

    # --- kinds of routes --------------------------------------------------------------------------

    def _classic(self, count: int) -> None:
        prefix, hops = self._prefix(), self._hops(count, 0x100)
        self._route(prefix, f"classic {count}", self._nexthops(hops), count > 1)
        if self._rng.random() < 0.7:  # inside of it, where the longer prefix has to win
            inner = self._longer(prefix)
            count = self._rng.randrange(1, 5)
            hops = self._hops(count, 0x100)
            self._route(inner, f"longer {count}", self._nexthops(hops), count > 1)

    def _group(self, count: int, most: int, resilient: bool = False) -> None:
        made, nhid = self._made, next(self._ids)
        members = [(self._nexthop_id(hop), hop.weight) for hop in self._hops(count, most)]
        if resilient:
            text = "/".join(f"{member},{weight}" for member, weight in members)
            buckets = self._rng.choice([8, 64, 100, 1000])
            made.commands.append(
                f"nexthop add id {nhid} group {text} type resilient buckets {buckets}"
            )
        else:
            made.groups.append((nhid, members))
        kind = "resilient" if resilient else "group"
        self._route(self._prefix(), f"{kind} {count}", f"nhid {nhid}", count > 1)

    def _single(self) -> None:
        (hop,) = self._hops(1, 1)
        self._route(self._prefix(), "single", self._via(hop))

    def _by_object(self) -> None:
        (hop,) = self._hops(1, 1)
        self._route(self._prefix(), "object", f"nhid {self._nexthop_id(hop)}")

    def _no_route(self, kind: str) -> None:
        prefix = self._prefix()
        self._made.routes.append(f"route add {kind} {prefix}")
        self._made.targets.append(Target(self._family, prefix, kind, False))
        if self._rng.random() < 0.5:
            (hop,) = self._hops(1, 1)
            self._route(self._longer(prefix), f"out of {kind}", self._via(hop))

    def _on_link(self) -> None:
        """A prefix of the link itself: the destinations are the neighbours, most not there."""
        device = self._rng.randrange(1, len(DEVICES))
        prefix = f"{link_address(device, 0, 4)}/27"
        if self._family == 6:
            prefix = f"{link_address(device, 0, 6)}/123"
        self._made.targets.append(Target(self._family, prefix, "on link", False))

    def _with_mtu(self) -> None:
        """A route that says how large its packets may be."""
        lock = self._rng.choice(("", "lock "))
        hops = self._nexthops(self._hops(2, 0x100))
        self._route(self._prefix(), "MTU", f"mtu {lock}1300 {hops}", True)

    def _default(self) -> None:
        where = self._nexthops(self._hops(2, 0x100))
        self._made.routes.append(f"route add {'0.0.0.0' if self._family == 4 else '::'}/0 {where}")
        prefix = "88.0.0.0/8" if self._family == 4 else "3fff::/20"
        self._made.targets.append(Target(self._family, prefix, "default", True))

    def _local(self) -> None:
        """A part of SOURCES that is the router's own: as a source Linux refuses it."""
        first, *_ = SOURCES[self._family].subnets(prefixlen_diff=5)
        prefix = self._prefix()
        self._made.local += [str(first), prefix]
        self._made.routes += [f"route add local {first} dev lo", f"route add local {prefix} dev lo"]
        self._made.targets.append(Target(self._family, prefix, "local", False))

    def _two_metrics(self) -> None:
        """The same prefix twice; the lower metric wins."""
        prefix = self._prefix()
        for metric in (200, 100):
            hops = self._hops(3, 0x100)
            self._made.routes.append(f"route add {prefix} metric {metric} {self._nexthops(hops)}")
        self._made.targets.append(Target(self._family, prefix, "two metrics", True))

    def _over_ipv6(self) -> None:
        hops = self._hops(3, 0x100)
        text = " ".join(
            f"nexthop via inet6 {link_address(hop.device, hop.host, 6)} dev {DEVICES[hop.device]} "
            f"weight {hop.weight}"
            for hop in hops
        )
        self._route(self._prefix(), "over IPv6", text, True)

    def _tos(self) -> None:
        """A route for one kind of service beside the one for the others."""
        prefix = self._prefix()
        for tos in ("tos 0x10 ", ""):
            self._made.routes.append(f"route add {prefix} {tos}{self._nexthops(self._hops(3, 9))}")
        self._made.targets.append(Target(4, prefix, "by TOS", True))

    # --- words ------------------------------------------------------------------------------------

    def _prefix(self) -> str:
        number = next(self._numbers)
        if self._family == 4:
            return f"50.{number}.0.0/{self._rng.choice([16, 16, 17, 20])}"
        return f"2001:db8:{0x1000 + number:x}::/{self._rng.choice([48, 48, 49, 56])}"

    def _longer(self, prefix: str) -> str:
        network = ip_network(prefix)
        length = self._rng.randrange(network.prefixlen + 1, network.max_prefixlen + 1)
        address = int(network[0]) | self._rng.getrandbits(network.max_prefixlen - network.prefixlen)
        return str(ip_network((address, length), strict=False))

    def _hops(self, count: int, most: int) -> list[Hop]:
        rng, places = self._rng, len(EGRESS) * NEIGHBOURS
        small = rng.random() < 0.5
        weights = [rng.randint(1, min(most, 10) if small else most) for _ in range(count)]
        if not small:
            weights[rng.randrange(count)] = most
        return [
            Hop(1 + place // NEIGHBOURS, 0x10 + place % NEIGHBOURS, weight)
            for place, weight in zip(rng.sample(range(places), count), weights, strict=True)
        ]

    def _via(self, hop: Hop) -> str:
        return f"via {link_address(hop.device, hop.host, self._family)} dev {DEVICES[hop.device]}"

    def _nexthops(self, hops: Sequence[Hop]) -> str:
        return " ".join(f"nexthop {self._via(hop)} weight {hop.weight}" for hop in hops)

    def _nexthop_id(self, hop: Hop) -> int:
        place = hop[:2]
        if place not in self._nexthop_ids:
            self._nexthop_ids[place] = nhid = next(self._ids)
            self._made.commands.append(f"nexthop add id {nhid} {self._via(hop)}")
        return self._nexthop_ids[place]

    def _route(self, prefix: str, kind: str, where: str, multipath: bool = False) -> None:
        self._made.routes.append(f"route add {prefix} {where}")
        self._made.targets.append(Target(self._family, prefix, kind, multipath))
