"""Which next hop: the program against the reference model, which is tested against the kernel.

Every next hop has a MAC of its own, so the frame that leaves tells the choice.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from tests.bpf.harness import Plane
from tests.bpf.packets import forwarded, frame
from tests.bpf.world import SEED, neighbour_mac, packed
from xdpecmp.compile import PathEntry, Resilient
from xdpecmp.hashing import HASH_SPACE, bounds, flow_key, select
from xdpecmp.model.values import Prefix

pytestmark = pytest.mark.root

PREFIX = {4: "198.18.64.0/18", 6: "2001:db8:64::/48"}


def vias(family: int, count: int) -> list[str]:
    if family == 4:
        return [f"10.0.{64 + i // 250}.{1 + i % 250}" for i in range(count)]
    return [f"2001:db8:b:64::{i + 1:x}" for i in range(count)]


def load(plane: Plane, family: int, policy: int, weights: Sequence[int], seed: int = SEED) -> None:
    hops = zip(vias(family, len(weights)), weights, strict=True)
    legs = [f"nexthop via {via} dev out weight {weight}" for via, weight in hops]
    snapshot = plane.world.snapshot(
        routes=" ".join([PREFIX[family], *legs]),
        settings={"policy4": policy, "policy6": policy, "seed": seed},
    )
    plane.load(snapshot)


def flow(generator: random.Random, family: int) -> bytes:
    """A packet to PREFIX with everything that a key may hold drawn at random."""
    sport, dport = generator.getrandbits(16), generator.getrandbits(16)
    l4: Packet = generator.choice((TCP, UDP))(sport=sport, dport=dport)
    proto = generator.choice((None, None, None, 33, 47, 50, 51, 132, 136, 200))
    if proto is not None:
        l4 = Raw(generator.randbytes(generator.choice((1, 3, 4, 7, 8, 20))))
    if family == 4:
        source = bytes([generator.choice((1, 9, 100, 198, 223)), *generator.randbytes(3)])
        head: Packet = IP(
            src=".".join(map(str, source)),
            dst=f"198.18.{64 + generator.getrandbits(6)}.{generator.getrandbits(8)}",
            tos=generator.getrandbits(8),
            flags=generator.choice(("", "", "DF", "MF")),
            ttl=generator.randint(2, 255),
        )
        if proto is not None:
            head.proto = proto
        return bytes(head / l4)
    words = [generator.choice((0x2001, 0x2A00, 0xFD00)), *generator.choices(range(1 << 16), k=7)]
    head = IPv6(
        src=":".join(f"{word:x}" for word in words),
        dst=f"2001:db8:64:{generator.getrandbits(16):x}::{generator.getrandbits(16):x}",
        tc=generator.getrandbits(8),
        fl=generator.getrandbits(20),
        hlim=generator.randint(2, 255),
    )
    extension = generator.choice((None, None, IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment(m=1, id=5)))
    if extension is not None:
        head = head / extension
    if proto is not None:
        head.lastlayer().nh = proto
    return bytes(head / l4)


def check(
    plane: Plane, flows: Sequence[bytes], policy: int, weights: Sequence[int], seed: int = SEED
) -> Counter[str]:
    """Each flow goes where the reference model says; returns how often each next hop was taken."""
    hops, limits = vias(flows[0][0] >> 4, len(weights)), bounds(weights)
    taken: Counter[str] = Counter()
    for l3 in flows:
        via = hops[select(limits, flow_key(l3, policy).hash(seed))]
        assert plane.run(frame(l3)) == ("REDIRECT", forwarded(l3, via)), l3.hex(" ")
        taken[via] += 1
    return taken


def flows(family: int, count: int, seed: int) -> list[bytes]:
    generator = random.Random(seed)
    return [flow(generator, family) for _ in range(count)]


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", [SEED, 1, 0xFFFFFFFF])
def test_many_flows(plane: Plane, family: int, policy: int, seed: int) -> None:
    weights = [1, 2, 5, 7, 256, 3, 1, 9]
    load(plane, family, policy, weights, seed)
    taken = check(plane, flows(family, 300, seed), policy, weights, seed)
    assert len(taken) > 3


@pytest.mark.parametrize("family", [4, 6])
def test_every_number_of_paths(plane: Plane, family: int) -> None:
    """The halving must come to its end for numbers that are no powers of two as well."""
    generator = random.Random(family)
    for count in range(2, 65):
        weights = [generator.choice((1, 1, 2, 3, 7, 255, 256)) for _ in range(count)]
        load(plane, family, 1, weights)
        check(plane, flows(family, 12, count), 1, weights)


@pytest.mark.parametrize("family", [4, 6])
def test_1024_paths(plane: Plane, family: int) -> None:
    weights = [1 + i % 5 for i in range(1024)]
    load(plane, family, 1, weights)
    taken = check(plane, flows(family, 1000, 5), 1, weights)
    assert len(taken) > 500


def test_1025_paths_are_for_linux(plane: Plane) -> None:
    load(plane, 4, 0, [1] * 1025)
    packet = frame(flows(4, 1, 5)[0])
    assert plane.observe(packet) == ("PASS", packet, {"ROUTE_UNSUPPORTED": 1}, {})


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("count", [2, 3, 8, 31])
def test_the_edges_of_a_path(plane: Plane, family: int, count: int) -> None:
    """A hash that equals a bound belongs to that path, one more to the next: for each path in turn
    the bounds are laid around the hash of one flow."""
    load(plane, family, 1, [1] * count)
    tables = plane.tables
    assert tables is not None
    key = tables.routes[Prefix.parse(PREFIX[family])]
    assert isinstance(key, tuple)
    group = tables.groups[key]
    assert not isinstance(group, Resilient)
    l3 = flows(family, 1, 77)[0]
    hash31 = flow_key(l3, 1).hash(SEED)
    for index in range(count - 1):
        for bound, expected in ((hash31, index), (hash31 - 1, index + 1)):
            edges = [bound + (i - index) * 1000 for i in range(count - 1)]
            entries = tuple(
                PathEntry(edge, entry.nexthop, 1)
                for edge, entry in zip([*edges, HASH_SPACE - 1], group, strict=True)
            )
            assert select([entry.bound for entry in entries], hash31) == expected
            plane.load_tables(replace(tables, groups={**tables.groups, key: entries}))
            _, out = plane.run(frame(l3))
            assert out[:6] == neighbour_mac(vias(family, count)[expected]), (index, bound - hash31)


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("family", [4, 6])
def test_both_directions_hash_alike(plane: Plane, family: int, policy: int) -> None:
    """Addresses and ports are put in order, each on their own: what is swapped stays."""
    weights = [1] * 64
    load(plane, family, policy, weights)
    ends = ("198.18.65.1", "198.18.66.1") if family == 4 else ("2001:db8:64::1", "2001:db8:64::2")
    head = IP if family == 4 else IPv6
    generator = random.Random(3)
    for _ in range(50):
        ports = [generator.getrandbits(16) for _ in range(2)]
        macs = set()
        for source, destination in (ends, ends[::-1]):
            for sport, dport in (ports, ports[::-1]):
                l3 = bytes(head(src=source, dst=destination) / UDP(sport=sport, dport=dport))
                check(plane, [l3], policy, weights)
                macs.add(plane.run(frame(l3))[1][:6])
        assert len(macs) == 1


@pytest.mark.parametrize("policy", [0, 1])
def test_addresses_that_differ_in_one_byte(plane: Plane, policy: int) -> None:
    """IPv4 addresses compare as little-endian numbers, IPv6 ones from the first byte on: pairs that
    differ in any one byte tell a wrong order, or a byte that isn't hashed."""
    weights = [1] * 64
    for family, size in ((4, 4), (6, 16)):
        load(plane, family, policy, weights)
        base = bytes([198, 18, 65, 9]) if family == 4 else bytes.fromhex("20010db80064") + bytes(10)
        packets = []
        for i in range(size):
            for change in (0x01, 0x40):
                other = bytearray(base)
                other[i] ^= change
                source, destination = str(ip_address(bytes(other))), str(ip_address(base))
                head = (IP if family == 4 else IPv6)(src=source, dst=destination)
                packets.append(bytes(head / UDP(sport=9, dport=7)))
        check(plane, packets, policy, weights)


def test_counters_add_up(plane: Plane) -> None:
    weights = [3, 1, 4]
    load(plane, 4, 1, weights)
    packets = flows(4, 100, 8)
    slots = {nexthop.via: slot for nexthop, slot in plane.dataplane.nexthop_slots.items()}
    mine = {via: slots[packed(via)] for via in vias(4, len(weights))}
    before = {via: plane.traffic(slot) for via, slot in mine.items()}
    taken = check(plane, packets, 1, weights)
    moved = {via: plane.traffic(slot)[0] - before[via][0] for via, slot in mine.items()}
    assert moved == {via: taken[via] for via in mine}
    size = sum(plane.traffic(slot)[1] - before[via][1] for via, slot in mine.items())
    assert size == sum(14 + len(l3) for l3 in packets)
