"""What stands before the tries, tables for IPv4 and lately found destinations for IPv6, must never
change the answer: the longest prefix wins, whatever lengths meet and however they came about."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address
from itertools import count

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from tests.bpf.harness import Plane
from tests.bpf.objects import restart
from tests.bpf.packets import frame
from tests.bpf.world import SOURCE
from xdpecmp.compile import TableChange, Tables, Target, masked
from xdpecmp.model.values import NextHop, Prefix
from xdpecmp.program.abi import CAPACITY, Reason

pytestmark = pytest.mark.root

LENGTHS = {
    4: (0, 1, 7, 8, 12, 15, 16, 17, 18, 20, 23, 24, 25, 28, 31, 32),
    6: (0, 3, 16, 31, 32, 33, 47, 48, 56, 63, 64, 65, 96, 127, 128),
}
BASES = {
    4: ("198.18.0.0", "198.18.1.0", "198.18.255.0", "198.19.0.0", "203.0.113.128", "45.0.0.0"),
    6: ("2001:db8::", "2001:db8:0:1::", "2001:db8:ffff::", "2001:db9::", "2a00:1::8000:0:0:0"),
}
FLIPS = {4: (0, 1, 1 << 8, 1 << 16), 6: (0, 1, 1 << 63, 1 << 64, 1 << 80)}
HEADER = {4: IP, 6: IPv6}


@pytest.fixture
def plane(own_plane: Plane) -> Plane:
    return own_plane


def targets(usual: Tables, family: int) -> list[Target]:
    """The usable next hops of a family, and two ways to pass."""
    size = 4 if family == 4 else 16
    single = {t for t in usual.routes.values() if isinstance(t, NextHop) and len(t.via) == size}
    usable = sorted(nexthop for nexthop in single if not usual.nexthops[nexthop].reason)
    return [*usable, int(Reason.ROUTE_SPECIAL), int(Reason.ROUTE_LOCAL)]


def routes(
    rng: random.Random, family: int, choice: list[Target], number: int
) -> dict[Prefix, Target]:
    found = {}
    size = 4 if family == 4 else 16
    for _ in range(number):
        length = rng.choice(LENGTHS[family])
        address = int(ip_address(rng.choice(BASES[family]))) ^ rng.choice(FLIPS[family])
        found[Prefix(masked(address.to_bytes(size, "big"), length), length)] = rng.choice(choice)
    return found


def corners(prefixes: set[Prefix]) -> list[bytes]:
    """Addresses at and beyond the ends of each prefix, of those that a packet may be for."""
    found = set()
    for prefix in prefixes:
        size = len(prefix.address)
        first = int.from_bytes(prefix.address, "big")
        last = first | ((1 << (size * 8 - prefix.length)) - 1)
        beyond = max(first - 1, 0), min(last + 1, (1 << size * 8) - 1)
        found |= {address.to_bytes(size, "big") for address in (first, last, *beyond)}
    return [address for address in found if address[0] in (198, 203, 45, 0x20, 0x2A)]


def expected(tables: Tables, address: bytes) -> str:
    prefixes = (Prefix(masked(address, n), n) for n in range(len(address) * 8, -1, -1))
    target = next((tables.routes[p] for p in prefixes if p in tables.routes), None)
    if target is None:
        return "NO_ROUTE"
    return str(ip_address(target.via)) if isinstance(target, NextHop) else Reason(target).name


def seen(plane: Plane, address: bytes) -> str:
    family = 4 if len(address) == 4 else 6
    packet = HEADER[family](src=SOURCE[family], dst=str(ip_address(address))) / UDP()
    outcome = plane.observe(frame(packet))
    names = outcome.traffic.keys() if outcome.verdict == "REDIRECT" else outcome.stats.keys()
    (name,) = names
    return name


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_longest_prefix_wins(plane: Plane, family: int, seed: int) -> None:
    """At first, again, after each of some changes, and under an agent that takes over."""
    rng = random.Random(seed)
    usual = plane.load(plane.world.snapshot())
    choice = targets(usual, family)
    before = tables = replace(usual, routes=routes(rng, family, choice, 12))
    tried: list[bytes] = []
    for step in range(6):
        if step in (1, 4):  # single routes, as an agent follows them
            gone = before.routes.keys() - tables.routes.keys()
            plane.dataplane.change(
                TableChange({**dict.fromkeys(gone), **tables.routes}, {}, set(), {})
            )
        else:
            plane.load_tables(tables)
        if step == 3:
            restart(plane)
        tried += corners(set(tables.routes))
        for address in [*tried, *tried[:20]]:
            assert seen(plane, address) == expected(tables, address), (address, tables.routes)
        before = tables
        kept = {p: t for p, t in tables.routes.items() if rng.random() < 0.7}
        tables = replace(tables, routes=kept | routes(rng, family, choice, 4))


@pytest.mark.parametrize("table", ["direct24", "direct32"])
def test_what_the_direct_tables_leave_open_the_trie_knows(plane: Plane, table: str) -> None:
    rng = random.Random(5)
    usual = plane.load(plane.world.snapshot())
    tables = replace(usual, routes=routes(rng, 4, targets(usual, 4), 30))
    plane.load_tables(tables)
    entries = np.frombuffer(plane.maps.memory(table), np.uint16)
    kept = entries.copy()
    assert kept.any()
    entries[:] = 0
    try:
        for address in corners(set(tables.routes)):
            assert seen(plane, address) == expected(tables, address), (address, tables.routes)
    finally:
        entries[:] = kept


# --- IPv6 destinations that share a place ---------------------------------------------------------


def place(address: bytes) -> int:
    """The entry of `destinations` that look_up6() in bpf/lookup.c gives an address."""
    mask = (1 << 64) - 1
    high, low = (int.from_bytes(half, "little") for half in (address[:8], address[8:]))
    mixed = (high ^ (low << 32 & mask | low >> 32)) * 0x9E3779B97F4A7C15 & mask
    return mixed >> 40 & (CAPACITY["DESTINATIONS_MAX"] - 1)


def candidate(address: bytes, first: int, last: int) -> bytes:
    """Another address with the same place, which differs in these bytes only."""
    for number in count(1):
        part = number.to_bytes(last - first, "big")
        other = address[:first] + part + address[last:]
        if other != address and place(other) == place(address):
            return other
    raise AssertionError


@pytest.mark.parametrize(("first", "last"), [(4, 8), (12, 16)], ids=["upper half", "lower half"])
def test_destinations_of_one_place_are_told_apart(plane: Plane, first: int, last: int) -> None:
    usual = plane.load(plane.world.snapshot())
    one = ip_address("2001:db8:5:6::7").packed
    other = candidate(one, first, last)
    a, b = targets(usual, 6)[:2]
    tables = replace(usual, routes={Prefix(one, 128): a, Prefix(other, 128): b})
    plane.load_tables(tables)
    for address in (one, other, other, one, one):
        assert seen(plane, address) == expected(tables, address)
