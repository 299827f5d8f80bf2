"""A router of real veths, routes and neighbours in a namespace, with xdpecmp attached by its own
command line.

The next hops' MAC address is the router's own: a test run does not reset the frame between repeats,
and a frame that was rewritten once must still be for us. The neighbours are permanent, and nothing
is ever transmitted, so nobody needs to answer for them.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from tests.netns import Namespace, veth
from xdpecmp.errors import XdpecmpError
from xdpecmp.netlink import Kernel

PATHS = (1, 2, 16, 64, 256, 1024)
"""Numbers of paths for which there is a route."""

MAC = bytes.fromhex("020000000010")
SOURCE4, SOURCE6 = "203.0.113.9", "2001:db8:f::9"
SEED = 7
_ROOT = Path(__file__).parents[1]
_EGRESSES = ("out0", "out1")


class BenchError(XdpecmpError):
    """The bench cannot measure what it should."""


def destination(family: int, paths: int) -> str:
    """A destination behind the route of so many paths."""
    number = PATHS.index(paths)
    return f"198.18.{number}.80" if family == 4 else f"2001:db8:80:{number:x}::80"


def gateway(family: int, number: int) -> str:
    """Next hop `number`; even ones are behind out0, odd ones behind out1."""
    network, host = 1 + number % 2, number // 2 + 2
    if family == 4:
        return f"10.{network}.{host // 250}.{host % 250 + 2}"
    return f"2001:db8:{network}::{host:x}"


@dataclass(frozen=True)
class Router:
    """A router with interfaces in0, out0 and out1."""

    namespace: Namespace
    ingress: int
    egresses: tuple[int, ...]


@contextlib.contextmanager
def router(label: str, policy: int, paths: tuple[int, ...] = PATHS) -> Iterator[Router]:
    """Builds the router, without xdpecmp, with a route of each number of paths; gone at the end."""
    with Namespace(f"bench-{label}") as inside, Namespace(f"bench-{label}-wire") as wire:
        for key, value in {
            "net/ipv4/ip_forward": 1,
            "net/ipv6/conf/all/forwarding": 1,
            "net/ipv4/conf/all/rp_filter": 0,
            "net/ipv4/conf/default/rp_filter": 0,
            "net/ipv4/fib_multipath_hash_policy": policy,
            "net/ipv6/fib_multipath_hash_policy": policy,
            "net/ipv4/fib_multipath_hash_seed": SEED,
        }.items():
            inside.sysctl(key, value)
        for name in ("in0", *_EGRESSES):
            veth(inside, name, wire, name)
        inside.ip(f"link set in0 address {MAC.hex(':')}")
        _batch(inside, _addresses(), _neighbours())
        result = Router(inside, *_indexes(inside))
        with inside.enter(), IPRoute() as kernel:
            _add_routes(kernel, result, paths)
        yield result


@contextlib.contextmanager
def attached(namespace: Namespace) -> Iterator[float]:
    """xdpecmp attached to in0 for a `with` block; gives the seconds that took, start to sync."""
    begin = time.perf_counter()
    xdpecmp(namespace, "attach", "in0")
    seconds = time.perf_counter() - begin
    try:
        yield seconds
    finally:
        xdpecmp(namespace, "detach", "--all")


def hold(namespace: Namespace, program: int) -> None:
    """Attach a program to a veth of its own for as long as the namespace lives.

    The first test run of a program that is attached nowhere, and the end of each, patch the
    kernel's XDP dispatcher, which takes milliseconds; and what is in the dispatcher is called
    directly, as the attached xdpecmp is.
    """
    device = f"hold{program}"
    namespace.ip(f"link add {device} type veth peer name {device}p")
    namespace.ip(f"link set {device} up")
    with namespace.enter(), Kernel() as kernel:
        kernel.attach_xdp(namespace.ifindex(device), program, "native")


def xdpecmp(namespace: Namespace, *arguments: str) -> None:
    """Run the command line. Raises BenchError with what it said."""
    command = [sys.executable, "-m", "xdpecmp", "-n", namespace.name, *arguments]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(arguments)}: {done.stderr.strip()}")


def _indexes(namespace: Namespace) -> tuple[int, tuple[int, ...]]:
    return namespace.ifindex("in0"), tuple(namespace.ifindex(name) for name in _EGRESSES)


def _addresses() -> Iterator[str]:
    yield "address add 10.0.0.1/24 dev in0"
    yield "address add 2001:db8::1/64 dev in0"
    for i, name in enumerate(_EGRESSES):
        yield f"address add 10.{i + 1}.0.1/16 dev {name}"
        yield f"address add 2001:db8:{i + 1}::1/64 dev {name}"


def _neighbours() -> Iterator[str]:
    for number in range(max(PATHS)):
        for family in (4, 6):
            device = _EGRESSES[number % 2]
            yield (
                f"neighbour replace {gateway(family, number)} lladdr {MAC.hex(':')} "
                f"dev {device} nud permanent"
            )


def add_plain_routes(namespace: Namespace, count: int) -> None:
    """`count` IPv4 routes with two next hops each, from 100.64.0.0/24 on."""
    _batch(namespace, (f"route add {plain_route(i)}" for i in range(count)))


def plain_route(number: int, weight: int = 1) -> str:
    """Arguments of `ip route add` and its like for one of them."""
    paths = f"nexthop via {gateway(4, 0)} weight {weight} nexthop via {gateway(4, 1)} weight 2"
    return f"100.{64 + number // 256}.{number % 256}.0/24 {paths}"


def _batch(namespace: Namespace, *commands: Iterator[str]) -> None:
    lines = "".join(f"{line}\n" for part in commands for line in part)
    namespace.run("ip", "-batch", "-", input=lines)


def _add_routes(kernel: IPRoute, inside: Router, wanted: tuple[int, ...]) -> None:
    """By netlink, since `ip route` takes no more than some 250 next hops."""
    for family, width in ((4, 24), (6, 64)):
        for paths in wanted:
            hops = [
                {"gateway": gateway(family, n), "oif": inside.egresses[n % 2], "hops": n % 3}
                for n in range(paths)
            ]
            network = destination(family, paths)
            network = network.removesuffix(".80") + ".0" if family == 4 else network[:-2]
            where = {"multipath": hops} if paths > 1 else {"gateway": hops[0]["gateway"]}
            kernel.route("add", dst=f"{network}/{width}", **where)
