"""Asks Linux how it hashes: which path of a many-path route it takes for flows of ours.

In a network namespace that is gone afterwards. Its loopback device is all it takes: a route of
PATHS paths leads out of it, and RTM_GETROUTE says which path a packet that came in by it would
take. Half of the paths have weight 1 and say more about the hash than the others; they are found by
asking often enough. The namespace is a fresh one, so its hash key is the host's own, even if the
namespace that we came from has a seed of its own (sysctl net.ipv4.fib_multipath_hash_seed).
"""

from __future__ import annotations

import fcntl
import random
import socket
import struct

from ..hashing import bounds
from ..hashing.evidence import ENOUGH_BITS, Choice
from ..model.flow import Flow
from ..model.values import Prefix
from . import wire
from .getroute import Query, route_get
from .namespace import fresh
from .routes import NEXT_HOP_HEADER, ROUTE_HEADER, RTA_DST, RTA_GATEWAY, RTA_MULTIPATH
from .rtnetlink import (
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
    Protocol,
)

PATHS = 512
_WEIGHTS = (1, 256) * (PATHS // 2)
_BOUNDS = bounds(_WEIGHTS)
NARROW_BITS = 15
"""What a path of weight 1 says at least: one in 257 flows takes such a path."""

_MOST_QUESTIONS = 20_000
_PREFIX = Prefix.parse("198.18.0.0/15")
_SOURCES = 0x20 << 24
"""32.0.0.0/8: any that is no martian."""
_GATEWAYS = 10 << 24

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sH22x")


def ask_linux(narrow: int = 0, seed: int = 0, rng: random.Random | None = None) -> list[Choice]:
    """Choices that together are enough to confirm a key, so many of them NARROW_BITS or more; those
    come first. `seed`: of the namespace that is asked in; 0: the host's.

    Raises OSError and XdpecmpError where Linux cannot be asked.
    """
    rng = rng or random.Random()
    with fresh(), wire.Socket() as connection:
        _prepare(connection, seed)
        loopback = socket.if_nametoindex("lo")
        found: list[Choice] = []
        for _ in range(_MOST_QUESTIONS):
            choice = _ask(connection, loopback, rng)
            if choice.bits >= NARROW_BITS and narrow > 0:
                narrow -= 1
                found.insert(0, choice)
            elif sum(each.bits for each in found) < ENOUGH_BITS:
                found.append(choice)
            elif narrow <= 0:
                break
        return found


def _prepare(connection: wire.Socket, seed: int) -> None:
    """Make the calling thread's namespace a router with that route."""
    for key, value in (
        ("ip_forward", 1),
        ("conf/all/rp_filter", 0),
        ("conf/lo/rp_filter", 0),
        ("fib_multipath_hash_policy", 0),
        ("fib_multipath_use_neigh", 0),
    ):
        _write(key, value)
    if seed:
        _write("fib_multipath_hash_seed", seed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
    connection.tell(RTM_NEWROUTE, wire.NLM_F_CREATE, _route(), "route of a trial")


def _write(key: str, value: int) -> None:
    with open(f"/proc/sys/net/ipv4/{key}", "w") as file:
        file.write(str(value))


def _route() -> bytes:
    loopback, block = socket.if_nametoindex("lo"), b""
    for number, weight in enumerate(_WEIGHTS, 1):
        gateway = wire.attribute(RTA_GATEWAY, (_GATEWAYS + number).to_bytes(4, "big"))
        length = NEXT_HOP_HEADER.size + len(gateway)
        block += NEXT_HOP_HEADER.pack(length, RTNH_F_ONLINK, weight - 1, loopback) + gateway
    header = ROUTE_HEADER.pack(
        *(socket.AF_INET, _PREFIX.length, 0, 0),
        *(RT_TABLE_MAIN, Protocol.STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0),
    )
    return header + wire.attribute(RTA_DST, _PREFIX.address) + wire.attribute(RTA_MULTIPATH, block)


def _ask(connection: wire.Socket, ingress: int, rng: random.Random) -> Choice:
    source = (_SOURCES | rng.getrandbits(24)).to_bytes(4, "big")
    destination = int.from_bytes(_PREFIX.address, "big") | rng.getrandbits(32 - _PREFIX.length)
    to = destination.to_bytes(4, "big")
    answer = route_get(connection, Query(Flow(source, to), ingress))
    if answer.nexthop is None:
        raise OSError(answer.error, f"a route of ours: {answer}")
    path = int.from_bytes(answer.nexthop.via, "big") - _GATEWAYS - 1
    return Choice(source, to, _BOUNDS[path - 1] + 1 if path else 0, _BOUNDS[path])
