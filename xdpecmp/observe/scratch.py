"""Whether this kernel hashes as we do, by real packets in a network namespace of our own.

RTM_GETROUTE is what Linux says; packets are what it does. A multipath route over tun devices, with
the hash policy, seed, fields and weights in question; a packet is written to one more tun device
and read from that of the next hop which Linux chose. The namespace goes when the last file that was
opened in it is closed.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from .. import hashing
from ..errors import XdpecmpError
from ..model.flow import Flow
from ..model.values import Prefix
from ..netlink import wire
from ..netlink.namespace import fresh
from ..netlink.routes import NEXT_HOP_HEADER, ROUTE_HEADER, RTA_DST, RTA_GATEWAY, RTA_MULTIPATH
from ..netlink.rtnetlink import (
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
    Protocol,
    family_of,
)
from .explain import HashSettings, reference
from .frames import packet_of

_PREFIX = {4: Prefix.parse("198.18.0.0/15"), 6: Prefix.parse("2001:db8::/32")}
_GATEWAYS = {4: Prefix.parse("10.0.0.0/8"), 6: Prefix.parse("fd00::/8")}
_USUAL_WEIGHTS = (1, 2, 3)
_FLOWS = 64
_SECONDS = 2.0
"""For all of them."""

_SEED = "ipv4/fib_multipath_hash_seed"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sH22x")


class Trial(NamedTuple):
    """How many flows were sent, and how many of them took the next hop that we compute."""

    flows: int
    agreed: int


def try_packets(
    family: int, settings: HashSettings, weights: Sequence[int], rng: random.Random | None = None
) -> Trial | None:
    """None if that cannot be tried: no tun devices, no privileges, packets that get lost."""
    fits = 2 <= len(weights) <= 16 and all(1 <= weight <= 256 for weight in weights)
    try:
        with fresh(), ExitStack() as stack:
            router = _Router(stack, family, settings, weights if fits else _USUAL_WEIGHTS)
            return _try(router, settings, rng or random.Random())
    except (OSError, XdpecmpError):
        return None


class _Router:
    """The namespace that the calling thread is in, as a router."""

    def __init__(
        self, stack: ExitStack, family: int, settings: HashSettings, weights: Sequence[int]
    ) -> None:
        self.family, self.weights = family, weights
        self._control = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for key, value in _sysctls(family, settings):
            with open(f"/proc/sys/net/{key}", "w") as file:
                file.write(str(value))
        self._up("lo")  # without a local table IPv4 takes no gateway
        self.ingress = self._tun(stack, "in")
        self.egress = [self._tun(stack, f"out{i}") for i in range(len(weights))]
        with wire.Socket() as connection:
            request = _route(family, weights)
            connection.tell(RTM_NEWROUTE, wire.NLM_F_CREATE, request, "route of a trial")

    def _tun(self, stack: ExitStack, name: str) -> int:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, tun)
        fcntl.ioctl(tun, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
        self._up(name)
        return tun

    def _up(self, name: str) -> None:
        fcntl.ioctl(self._control, _SIOCSIFFLAGS, _IFREQ.pack(name.encode(), _IFF_UP))

    def forward(self, packet: bytes, deadline: float) -> int | None:
        """Which of the next hops gets it; None for none."""
        os.write(self.ingress, packet)
        addresses = slice(12, 20) if self.family == 4 else slice(8, 40)
        poll = select.poll()
        for tun in self.egress:
            poll.register(tun, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            for tun, _ in poll.poll(left * 1000):
                # others are the kernel's own: neighbour discovery and the like
                if os.read(tun, 2048)[addresses] == packet[addresses]:
                    return self.egress.index(tun)
        return None


def _sysctls(family: int, settings: HashSettings) -> list[tuple[str, int]]:
    policy = f"ipv{family}/fib_multipath_hash_"
    # without one the namespace goes by the host's own key, which is in question then
    seed = [] if settings.key.seed is None else [(_SEED, settings.key.seed)]
    return [
        *seed,
        ("ipv4/ip_forward", 1),
        ("ipv6/conf/all/forwarding", 1),
        ("ipv4/conf/all/rp_filter", 0),
        ("ipv4/conf/default/rp_filter", 0),
        (f"{policy}policy", settings.policy),
        (f"{policy}fields", settings.fields),
    ]


def _route(family: int, weights: Sequence[int]) -> bytes:
    prefix, block = _PREFIX[family], b""
    for i, weight in enumerate(weights):
        gateway = wire.attribute(RTA_GATEWAY, _GATEWAYS[family].address[:-1] + bytes([i + 1]))
        length = NEXT_HOP_HEADER.size + len(gateway)
        ifindex = socket.if_nametoindex(f"out{i}")
        block += NEXT_HOP_HEADER.pack(length, RTNH_F_ONLINK, weight - 1, ifindex) + gateway
    table, protocol = RT_TABLE_MAIN, Protocol.STATIC
    header = ROUTE_HEADER.pack(
        *(family_of(prefix.address), prefix.length, 0, 0),
        *(table, protocol, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0),
    )
    return header + wire.attribute(RTA_DST, prefix.address) + wire.attribute(RTA_MULTIPATH, block)


def _try(router: _Router, settings: HashSettings, rng: random.Random) -> Trial | None:
    limits = hashing.bounds(router.weights)
    deadline = time.monotonic() + _SECONDS
    agreed = 0
    as_linux = settings._replace(follows_label=True)
    for _ in range(_FLOWS):
        packet = packet_of(_random_flow(rng, _PREFIX[router.family]))
        chosen, ours = router.forward(packet, deadline), reference(packet, as_linux)
        if chosen is None or ours is None:
            return None
        agreed += chosen == hashing.select(limits, ours.hash)
    return Trial(_FLOWS, agreed)


def _random_flow(rng: random.Random, prefix: Prefix) -> Flow:
    size = len(prefix.address)
    source = (b"\x20" if size == 4 else b"\x20\x01") + rng.randbytes(size)
    bits = rng.getrandbits(size * 8 - prefix.length)
    return Flow(
        source=source[:size],
        destination=(int.from_bytes(prefix.address, "big") | bits).to_bytes(size, "big"),
        proto=rng.choice((socket.IPPROTO_TCP, socket.IPPROTO_UDP)),
        sport=rng.randrange(1, 1 << 16),
        dport=rng.randrange(1, 1 << 16),
        flow_label=rng.randrange(1 << 20) if size == 16 else 0,
    )
