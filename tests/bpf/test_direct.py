"""The program looks IPv4 routes up in tables before the trie: it must find what the longest prefix
leads to, whatever lengths meet and however they came about."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP

from tests.bpf.harness import Plane
from tests.bpf.objects import own_plane, restart
from tests.bpf.packets import frame
from tests.bpf.world import SOURCE
from tests.netns import Namespace
from xdpecmp.abi import Reason
from xdpecmp.compile import Tables, Target, longest_match, masked
from xdpecmp.model import NextHop, Prefix

pytestmark = pytest.mark.root

LENGTHS = (0, 1, 7, 8, 12, 15, 16, 17, 18, 20, 23, 24, 25, 28, 31, 32)
BASES = ("198.18.0.0", "198.18.1.0", "198.18.255.0", "198.19.0.0", "203.0.113.128", "45.0.0.0")


@pytest.fixture(scope="module")
def own(namespace: Namespace, pins: Path, shared_plane: Plane) -> Iterator[Plane]:
    with own_plane(namespace, pins / "direct", shared_plane.world) as made:
        yield made


@pytest.fixture
def plane(namespace: Namespace, own: Plane) -> Iterator[Plane]:
    with namespace.enter():
        yield own


def routes(rng: random.Random, targets: list[Target], count: int) -> dict[Prefix, Target]:
    found = {}
    for _ in range(count):
        length = rng.choice(LENGTHS)
        address = int(ip_address(rng.choice(BASES))) ^ rng.choice((0, 1, 128, 256, 1 << 16))
        found[Prefix(masked(address.to_bytes(4, "big"), length), length)] = rng.choice(targets)
    return found


def corners(prefixes: set[Prefix]) -> list[str]:
    """Addresses at and beyond the ends of each prefix, of those that a packet may be for."""
    found = set()
    for prefix in prefixes:
        first = int.from_bytes(prefix.address, "big")
        last = first | ((1 << (32 - prefix.length)) - 1)
        found |= {first, last, max(first - 1, 0), min(last + 1, 0xFFFFFFFF)}
    texts = [ip_address(address) for address in found]
    return [str(a) for a in texts if a.packed[0] in (198, 203, 45)]


def expected(tables: Tables, address: str) -> str:
    target = longest_match(tables.routes, ip_address(address).packed, range(32, -1, -1))
    if target is None:
        return "NO_ROUTE"
    return str(ip_address(target.via)) if isinstance(target, NextHop) else Reason(target).name


def seen(plane: Plane, address: str) -> str:
    outcome = plane.observe(frame(IP(src=SOURCE[4], dst=address) / UDP()))
    names = outcome.traffic.keys() if outcome.verdict == "REDIRECT" else outcome.stats.keys()
    (name,) = names
    return name


@pytest.mark.parametrize("seed", range(4))
def test_the_longest_prefix_wins(plane: Plane, seed: int) -> None:
    """At first, after each of some changes, and under an agent that takes over."""
    rng = random.Random(seed)
    usual = plane.load(plane.world.snapshot())
    singles = {t for t in usual.routes.values() if isinstance(t, NextHop) and len(t.via) == 4}
    good = sorted(t for t in singles if not usual.nexthops[t].reason)
    targets: list[Target] = [*good, int(Reason.ROUTE_SPECIAL), int(Reason.ROUTE_LOCAL)]
    tables = replace(usual, routes=routes(rng, targets, 12))
    for step in range(4):
        plane.load_tables(tables)
        if step == 3:
            restart(plane)
        for address in corners(set(tables.routes)):
            assert seen(plane, address) == expected(tables, address), (address, tables.routes)
        kept = {p: t for p, t in tables.routes.items() if rng.random() < 0.7}
        tables = replace(tables, routes=kept | routes(rng, targets, 4))
