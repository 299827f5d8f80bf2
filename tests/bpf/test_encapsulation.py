"""Hash policies 2 and 3, which look into tunnels: the program against the reference model.

That it says what Linux says: tests/net/test_hashing_kernel.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from tests.bpf.harness import Case, Plane
from tests.bpf.manypaths import PATHS, ROUTER, chosen, setup
from tests.bpf.packets import forwarded, frame
from tests.bpf.world import SEED, packed
from tests.tunnels import (
    TUNNELS,
    UNFOLLOWED,
    Ends,
    Tunnel,
    in4,
    in6,
    out4,
    out6,
    random_ends,
    tcp,
    udp,
)
from xdpecmp.hashing import Field, flow_hash, flow_keys

pytestmark = pytest.mark.root

TARGET = {4: packed("198.18.40.0")[:3], 6: packed("2001:db8:40::")[:6]}

_ALL = 0xFFF
_INNER = 6
_BITS = [1 << bit for bit in range(12)]
_PAIRS = [Field.SOURCE | Field.DESTINATION, Field.SPORT | Field.DPORT, Field.PROTO, Field(0x3F)]
FIELDS = [
    0,
    *_BITS,
    *(_ALL & ~bit for bit in _BITS),
    *(outer | inner << _INNER for outer in _PAIRS for inner in _PAIRS),
    *random.Random(12).sample(range(_ALL + 1), 24),
]
"""Of fib_multipath_hash_fields: each bit alone, each left out, outer and inner ones mixed."""


def load(plane: Plane, policy: int, fields: int = 0) -> None:
    plane.load(plane.world.snapshot(**setup(policy, fields)))


def check(plane: Plane, l3: bytes, hash31: int) -> str:
    """The packet goes where this hash says; returns the next hop."""
    via = chosen(l3[0] >> 4, hash31)
    verdict, out = plane.run(frame(l3))
    assert (verdict, out.hex()) == ("REDIRECT", forwarded(l3, via).hex()), via
    return via


# --- packets -------------------------------------------------------------------------------------

PLAIN = [
    Tunnel("UDP alone", lambda e: out4(e) / udp(e), 4, 17),
    Tunnel("first fragment", lambda e: out4(e, flags="MF") / udp(e), 4, 17),
    Tunnel("TCP alone", lambda e: out6(e) / tcp(e), 6, 6),
    Tunnel("UDP behind options", lambda e: out6(e) / IPv6ExtHdrDestOpt() / udp(e), 6, 17),
]
FOLLOWED = [*TUNNELS, *PLAIN]


def sample(rng: random.Random, count: int) -> list[Tunnel]:
    return [*rng.sample(TUNNELS, count), *PLAIN]


def check_many(
    plane: Plane, policy: int, fields: int, tunnels: Iterable[Tunnel], rng: random.Random
) -> set[str]:
    load(plane, policy, fields)
    taken = set()
    for tunnel in tunnels:
        l3 = tunnel.build(random_ends(rng, TARGET))
        keys = flow_keys(l3, policy, fields)
        assert keys.is_followed
        taken.add(check(plane, l3, keys.hash(SEED)))
    return taken


@pytest.mark.parametrize(("policy", "fields"), [(2, 0), (3, 0xFFF)])
def test_every_tunnel(plane: Plane, policy: int, fields: int) -> None:
    taken = check_many(plane, policy, fields, FOLLOWED, random.Random(policy))
    assert len(taken) > PATHS


@pytest.mark.parametrize("fields", FIELDS, ids=hex)
def test_policy_3(plane: Plane, fields: int) -> None:
    rng = random.Random(fields)
    check_many(plane, 3, fields, sample(rng, 20), rng)


@pytest.mark.parametrize("policy", [0, 1])
def test_policies_that_do_not_look_inside(plane: Plane, policy: int) -> None:
    rng = random.Random(policy)
    load(plane, policy)
    for tunnel in [*FOLLOWED, *UNFOLLOWED]:
        l3 = tunnel.build(random_ends(rng, TARGET))
        check(plane, l3, flow_hash(l3, policy, SEED))


def test_the_inside_decides_under_policy_2(plane: Plane) -> None:
    """Whatever tunnel a flow is in: without the reference model."""
    load(plane, 2)
    rng = random.Random(2)
    macs = set()
    for tunnel in TUNNELS:
        if (tunnel.outer, tunnel.inner) == (4, 4) and tunnel.name.startswith("UDP"):
            ends = random_ends(rng, TARGET)
            same = {"inner4": ("10.9.9.9", "10.8.8.8"), "ports": ends.ports}
            macs.add(plane.run(frame(tunnel.build(Ends(**{**vars(ends), **same}))))[1][:6])
    assert len(macs) == 1


# --- what cannot be followed ---------------------------------------------------------------------


def unfollowed(tunnel: Tunnel, policy: int, fields: int) -> Case:
    l3 = tunnel.build(random_ends(random.Random(tunnel.name), TARGET))
    return Case(
        f"{tunnel} policy {policy}", frame(l3), "ENCAPSULATION", setup=setup(policy, fields)
    )


PASSED = [
    unfollowed(tunnel, policy, fields)
    for policy, fields in ((2, 0), (3, 0x040), (3, 0xFFF))
    for tunnel in UNFOLLOWED
]


@pytest.mark.parametrize("policy", [2, 3])
def test_what_cannot_be_followed_is_passed(plane: Plane, policy: int) -> None:
    for case in PASSED:
        if case.name.endswith(f"policy {policy}"):
            plane.check(case)


def test_outer_fields_alone_need_no_look_inside(plane: Plane) -> None:
    load(plane, 3, 0x3F)
    for tunnel in UNFOLLOWED:
        l3 = tunnel.build(random_ends(random.Random(tunnel.name), TARGET))
        keys = flow_keys(l3, 3, 0x3F)
        assert keys.is_followed
        check(plane, l3, keys.hash(SEED))


def test_without_the_program_that_walks(plane: Plane) -> None:
    """A policy that comes before the program for it was built: Linux takes the packets."""
    load(plane, 2)
    packet = frame(TUNNELS[0].build(random_ends(random.Random(1), TARGET)))
    with plane.without_deep():
        assert plane.observe(packet) == ("PASS", packet, {"POLICY_UNSUPPORTED": 1}, {})
    assert plane.run(packet)[0] == "REDIRECT"


# --- ICMP errors ---------------------------------------------------------------------------------


def error_about(quote: bytes, behind: Packet | None = None) -> bytes:
    """By which a router tells the source of the quoted packet."""
    if quote[0] >> 4 == 4:
        source = ".".join(map(str, quote[12:16]))
        return bytes(IP(src=ROUTER[4], dst=source) / ICMP(type=3, code=4) / Raw(quote))
    source = ":".join(quote[i : i + 2].hex() for i in range(8, 24, 2))
    head = IPv6(src=ROUTER[6], dst=source, fl=0x777, nh=60 if behind else 58)
    if behind:
        behind.nh = 58
        head = head / behind
    return bytes(head / Raw(bytes([2, 0]) + bytes(6) + quote))


def both_ways(tunnel: Tunnel, rng: random.Random) -> tuple[bytes, bytes]:
    """A packet to the target and one that answers it, about which a router complains."""
    ends = random_ends(rng, TARGET)
    return tunnel.build(ends), tunnel.build(ends.turned())


@pytest.mark.parametrize("fields", [-1, *FIELDS], ids=lambda n: "policy 2" if n < 0 else hex(n))
def test_errors_go_where_the_flow_goes(plane: Plane, fields: int) -> None:
    """An error about an answer reaches whom the flow's packets reach. No reference model here."""
    policy = 2 if fields < 0 else 3
    load(plane, policy, max(fields, 0))
    rng = random.Random(fields)
    for tunnel in FOLLOWED if policy == 2 else sample(rng, 20):
        packet, answer = both_ways(tunnel, rng)
        mac = plane.run(frame(packet))[1][:6]
        for behind in (None, IPv6ExtHdrDestOpt()) if tunnel.outer == 6 else (None,):
            verdict, out = plane.run(frame(error_about(answer, behind)))
            assert (verdict, out[:6]) == ("REDIRECT", mac), tunnel


def cut_errors(tunnels: Iterable[Tunnel], rng: random.Random) -> Iterable[bytes]:
    """Errors that quote packets up to any length, with padding behind which must not count."""
    for tunnel in tunnels:
        quote = tunnel.build(random_ends(rng, TARGET).turned())
        for size in range(20 if tunnel.outer == 4 else 40, len(quote) + 1):
            yield error_about(quote[:size])


@pytest.mark.parametrize(("policy", "fields"), [(1, 0), (2, 0), (3, 0xFFF), (3, 0x555), (3, 0xA80)])
def test_quotes_cut_anywhere(plane: Plane, policy: int, fields: int) -> None:
    """What there is has to do, and the reference model says the same of it."""
    load(plane, policy, fields)
    rng = random.Random(fields)
    for l3 in cut_errors([*sample(rng, 16), *UNFOLLOWED[::2]], rng):
        via = chosen(l3[0] >> 4, flow_hash(l3, policy, SEED, fields))
        verdict, out = plane.run(frame(l3, padding=b"\xee" * 30))
        assert (verdict, out.hex()) == ("REDIRECT", forwarded(l3, via).hex())


@pytest.mark.parametrize(("policy", "fields"), [(0, 0), (1, 0), (2, 0), (3, 0xFFF), (3, 0x35A)])
def test_quotes_of_rubbish(plane: Plane, policy: int, fields: int) -> None:
    """Each quote has some of its bytes changed: whatever it says of itself, both agree."""
    load(plane, policy, fields)
    rng = random.Random(policy)
    for tunnel in [*sample(rng, 60), *UNFOLLOWED] * 2:
        l3 = bytearray(error_about(tunnel.build(random_ends(rng, TARGET).turned())))
        start = 28 if tunnel.outer == 4 else 48
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(start, min(len(l3), start + 90))
            l3[at] = rng.choice((rng.randrange(256), 0, 4, 6, 41, 43, 44, 47, 60))
        via = chosen(tunnel.outer, flow_hash(bytes(l3), policy, SEED, fields))
        verdict, out = plane.run(frame(bytes(l3)))
        assert (verdict, out.hex()) == ("REDIRECT", forwarded(bytes(l3), via).hex()), l3.hex()


@pytest.mark.parametrize("policy", [1, 2, 3])
def test_quotes_of_what_cannot_be_followed(plane: Plane, policy: int) -> None:
    load(plane, policy, _ALL)
    rng = random.Random(policy)
    for tunnel in UNFOLLOWED:
        l3 = error_about(tunnel.build(random_ends(rng, TARGET).turned()))
        check(plane, l3, flow_hash(l3, policy, SEED, _ALL))


@pytest.mark.parametrize("fields", [0x3F, 0xFC0, 0xFFF, 0x004, 0x100])
def test_quotes_of_more_headers_than_we_walk(plane: Plane, fields: int) -> None:
    """The walk ends where it broke, though there is a second one for the inner header."""
    load(plane, 3, fields)
    ends = random_ends(random.Random(fields), TARGET).turned()
    for count in range(5, 15):
        chain = b"".join(bytes([60, 0]) + bytes(6) for _ in range(count - 1)) + b"\x04\0" + bytes(6)
        quote = bytes(out6(ends, nh=60) / Raw(chain + bytes(in4(ends) / udp(ends))))
        l3 = error_about(quote)
        followed = count < 6 or (count == 6 and fields & 0x3F)  # a walk for each of both
        assert flow_keys(l3, 3, fields).is_followed == bool(followed)
        check(plane, l3, flow_hash(l3, 3, SEED, fields))


def test_errors_inside_a_tunnel_are_not_looked_into(plane: Plane) -> None:
    """Nor counted: to Linux, and so to us, the tunnel's own header is what is routed by."""
    load(plane, 2)
    ends = random_ends(random.Random(9), TARGET)
    for head, quote in ((in4(ends), in4(ends.turned())), (in6(ends), in6(ends.turned()))):
        error = ICMP(type=3, code=4) if isinstance(head, IP) else Raw(bytes([2, 0]) + bytes(6))
        inner = bytes(head / error / Raw(bytes(quote / udp(ends.turned()))))
        proto = 4 if isinstance(head, IP) else 41
        if proto == 41:
            inner = inner[:6] + b"\x3a" + inner[7:]
        l3 = bytes(out4(ends, proto=proto) / Raw(inner))
        outcome = plane.observe(frame(l3))
        assert outcome.verdict == "REDIRECT"
        assert outcome.stats == {}
        check(plane, l3, flow_hash(l3, 2, SEED))
