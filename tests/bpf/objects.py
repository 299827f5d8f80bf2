"""A group of nexthop objects in the router of the data-path tests, and what Linux would choose.

That is written down here once more, from net/ipv4/nexthop.c. Every next hop has a MAC of its own,
so the frame that leaves tells the choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from testbed.netns import Namespace
from tests.bpf.harness import Plane
from tests.bpf.packets import forwarded, frame
from tests.bpf.world import (
    NUD_FAILED,
    NUD_REACHABLE,
    RTPROT_STATIC,
    SEED,
    SOURCE,
    World,
    neighbour_mac,
    packed,
)
from xdpecmp.compile import compile_tables
from xdpecmp.dataplane.plane import Dataplane
from xdpecmp.hashing import bounds, flow_key
from xdpecmp.model.hashkey import HashKey, Origin
from xdpecmp.model.values import Neighbour, NextHop, NexthopGroup, Prefix, Route, RouteKind
from xdpecmp.model.values import Path as Leg
from xdpecmp.program.abi import GroupKind
from xdpecmp.program.clock import HZ, Jiffies, read_jiffies

NHID = 7
PREFIXES = {4: ("198.19.0.0/16", "203.0.113.0/24"), 6: ("2001:db8:90::/48", "2001:db8:91::/48")}
TO = {4: "198.19.0.1", 6: "2001:db8:90::1"}
FLOWS = 200
IDLE_S = 30.0
HOUR = 3600


def vias(family: int, count: int) -> list[str]:
    return [f"10.0.70.{i}" if family == 4 else f"2001:db8:b:70::{i:x}" for i in range(1, count + 1)]


A, B, C = vias(4, 3)


@contextmanager
def new_plane(namespace: Namespace, directory: Path, world: World) -> Iterator[Plane]:
    """A plane with pins in that directory, which is made."""
    directory.mkdir()
    with namespace.enter():
        made = Plane(directory, world)
    try:
        yield made
    finally:
        made.close()


def start_over(plane: Plane) -> None:
    """A new agent, and no group that it could inherit from."""
    restart(plane)
    plane.load(plane.world.snapshot())


def restart(plane: Plane) -> None:
    """An agent ends and another one takes over what it left in the maps."""
    plane.dataplane = Dataplane(plane.maps)
    plane.tables = None


def tick(plane: Plane, later: float = 0.0) -> None:
    """What the agent does every second, `later` by its clock."""
    now = read_jiffies(plane.clock) + round(later * HZ)
    plane.dataplane.settle_buckets(Jiffies(now, HZ))


@dataclass(frozen=True)
class Group:
    """Object NHID as a test wants it: next hops by address, and weights."""

    members: tuple[str, ...]
    weights: tuple[int, ...] = ()
    buckets: tuple[int, ...] = ()
    """Members by their place; none: not resilient."""
    bad: tuple[str, ...] = ()
    """Members with a failed neighbour."""
    unresolved: tuple[str, ...] = ()
    """Members without one."""

    @property
    def family(self) -> int:
        return 6 if ":" in self.members[0] else 4


def load(
    plane: Plane,
    group: Group,
    seed: int | None = SEED,
    own_seed: bool = True,
    follow_label: bool = True,
    **settings: Any,
) -> None:
    """The usual router, and two routes that lead to the group. `own_seed`: Linux hashes otherwise,
    so buckets are ours; without `follow_label` too, under IPv6 policy 0."""
    world = plane.world
    snapshot = world.snapshot()
    device = world.ifindex["out"]
    hops = [NextHop(packed(via), device) for via in group.members]
    legs = zip(hops, group.weights or [1] * len(hops), strict=True)
    found = NexthopGroup(
        NHID,
        RouteKind.UNICAST,
        tuple(Leg(*leg) for leg in legs),
        resilient=bool(group.buckets),
        buckets=group.buckets,
        idle_s=IDLE_S,
    )
    states = {
        via: NUD_FAILED if via in group.bad else NUD_REACHABLE
        for via in group.members
        if via not in group.unresolved
    }
    neighbours = {
        (packed(via), device): Neighbour(
            packed(via), device, b"" if state == NUD_FAILED else neighbour_mac(via), state
        )
        for via, state in states.items()
    }
    routes = tuple(
        Route(Prefix.parse(text), 254, 0, RouteKind.UNICAST, (), RTPROT_STATIC, nhid=NHID)
        for text in PREFIXES[group.family]
    )
    tables = compile_tables(
        replace(
            snapshot,
            routes=(*snapshot.routes, *routes),
            neighbours={**snapshot.neighbours, **neighbours},
            nexthop_groups={NHID: found},
            settings=replace(
                snapshot.settings, **{"policy4": 1, "policy6": 1, "seed": seed, **settings}
            ),
        ),
        [world.ifindex["in"]],
    )
    origin = Origin.OWN if own_seed else Origin.SYSCTL
    key = None if seed is None else HashKey.of_seed(seed, origin)
    config = tables.config._replace(key=key, follow_label=follow_label)
    plane.load_tables(replace(tables, config=config))


def packets(family: int, count: int = FLOWS) -> list[bytes]:
    generator = random.Random(count + family)
    head = IP if family == 4 else IPv6
    return [
        bytes(head(src=SOURCE[family], dst=TO[family]) / UDP(sport=sport, dport=7))
        for sport in generator.sample(range(1024, 65536), count)
    ]


def hash_of(l3: bytes) -> int:
    return flow_key(l3, 1).hash(SEED)


def chosen(plane: Plane, l3: bytes) -> str:
    """Which next hop the program sends it to, having checked every byte; "" where it passes it."""
    verdict, out = plane.run(frame(l3))
    if verdict == "PASS":
        assert out == frame(l3)
        return ""
    (via,) = [via for via in vias(l3[0] >> 4, 16) if neighbour_mac(via) == out[:6]]
    assert (verdict, out) == ("REDIRECT", forwarded(l3, via))
    return via


def split(plane: Plane, flows: Sequence[bytes]) -> list[str]:
    return [chosen(plane, l3) for l3 in flows]


def numbers(plane: Plane, family: int = 4) -> dict[str, int]:
    """The group's routes, as they stand in the map."""
    found = {Prefix(bytes(k)[4:], k.prefixlen): n for k, n in plane.maps.items(f"routes{family}")}
    return {text: found[Prefix.parse(text)] for text in PREFIXES[family]}


def kind(plane: Plane, family: int = 4) -> GroupKind:
    (number,) = set(numbers(plane, family).values())
    return GroupKind(plane.maps["groups"].entries[number].kind)


def by_threshold(group: Group, hash31: int) -> str:
    """nexthop_select_path_hthr()."""
    first_good = None
    for via, bound in zip(group.members, bounds(group.weights), strict=True):
        if via in group.bad:
            continue
        first_good = first_good or via
        if hash31 <= bound:
            return via
    return first_good or group.members[0]


def by_bucket(group: Group, hash31: int) -> str:
    """nexthop_select_path_res()."""
    return group.members[group.buckets[hash31 % len(group.buckets)]]


def table_full(plane: Plane) -> bool:
    l3 = packets(4, 1)[0]
    return plane.observe(frame(l3)) == ("PASS", frame(l3), {"TABLE_FULL": 1}, {})


MOVED = Group((A, B), buckets=(1,) * 64)
BEFORE = replace(MOVED, buckets=(0,) * 64)


STEPS: Mapping[str, Group] = {
    "threshold": Group((A, B), (3, 1)),
    "other weights": Group((A, B), (1, 300)),
    "a member more": Group((A, B, C), (1, 300, 20)),
    "a neighbour fails": Group((A, B, C), (1, 300, 20), bad=(B,)),
    "one is left": Group((C,), (20,)),
    "resilient": Group((A, B), buckets=(0, 1, 1, 0, 0)),
    "more buckets": Group((A, B), buckets=(1, 0, 0) * 20),
    "resilient, one left": Group((B,), buckets=(0, 0, 0) * 20),
    "threshold again": Group((B, C), (3, 1)),
}
