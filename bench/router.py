"""A router of real veths, routes and neighbours in a namespace, with xdpecmp attached by its own
command line.

Unless wanted otherwise, the next hops' MAC address is the router's own: a test run does not reset
the frame between repeats, and a frame that was rewritten once must still be for us. The neighbours
are permanent, so nobody needs to answer for them.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from testbed.netns import Namespace, veth
from xdpecmp.errors import XdpecmpError
from xdpecmp.netlink import Kernel

PATHS = (1, 2, 16, 64, 256, 1024)
"""Numbers of paths for which there is a route."""

MAC = bytes.fromhex("020000000010")
SOURCE4, SOURCE6 = "203.0.113.9", "2001:db8:f::9"
VLAN_ID = 5
VLAN_DESTINATION4 = "198.18.200.80"
SEED = 7
_SEED_SYSCTL = Path("/proc/sys/net/ipv4/fib_multipath_hash_seed")
ROOT = Path(__file__).parents[1]
EGRESSES = ("out0", "out1")


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
    """A router with interfaces in0, out0 and out1; `wire` has the other ends, of the same names."""

    namespace: Namespace
    wire: Namespace
    ingress: int
    egresses: tuple[int, ...]
    has_vlan: bool
    """Whether there is VLAN_ID too, in0.5 and out0.5: not every kernel has VLAN devices."""

    def egresses_on_the_wire(self) -> tuple[int, ...]:
        """The other ends of the egresses."""
        return tuple(self.wire.ifindex(name) for name in EGRESSES)


@contextlib.contextmanager
def router(
    label: str, policy: int, paths: Sequence[int] = PATHS, own_macs: bool = False
) -> Iterator[Router]:
    """Builds the router, without xdpecmp, with a route of each number of paths; gone at the end.
    `own_macs`: each next hop has a MAC address of its own, see `neighbour_mac`."""
    if not _SEED_SYSCTL.exists():
        raise BenchError(
            "this kernel keeps its hash seed to itself, so its multipath routes pass to Linux",
            "measure on Linux 6.11 or later",
        )
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
        for name in ("in0", *EGRESSES):
            veth(inside, name, wire, name)
        inside.ip(f"link set in0 address {MAC.hex(':')}")
        _batch(inside, _addresses(), _neighbours(own_macs))
        result = Router(inside, wire, *_indexes(inside), _add_vlan(inside, wire))
        with inside.enter(), IPRoute() as kernel:
            _add_routes(kernel, result, paths)
        yield result


@contextlib.contextmanager
def attached(namespace: Namespace, *options: str) -> Iterator[None]:
    """xdpecmp attached to in0 for a `with` block."""
    xdpecmp(namespace, "attach", "in0", *options)
    try:
        yield
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


def command_line(namespace: Namespace, *arguments: str) -> list[str]:
    """How the project's own command is called, from its root."""
    return [sys.executable, "-m", "xdpecmp", "-n", namespace.name, *arguments]


def xdpecmp(namespace: Namespace, *arguments: str) -> str:
    """Run it; returns what it printed. Raises BenchError with what it complained about."""
    command = command_line(namespace, *arguments)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _indexes(namespace: Namespace) -> tuple[int, tuple[int, ...]]:
    return namespace.ifindex("in0"), tuple(namespace.ifindex(name) for name in EGRESSES)


def _addresses() -> Iterator[str]:
    yield "address add 10.0.0.1/24 dev in0"
    yield "address add 2001:db8::1/64 dev in0"
    for i, name in enumerate(EGRESSES):
        yield f"address add 10.{i + 1}.0.1/16 dev {name}"
        yield f"address add 2001:db8:{i + 1}::1/64 dev {name}"


def neighbour_mac(number: int) -> bytes:
    """The MAC address of a next hop that has one of its own."""
    return b"\x02\0\0\x01" + number.to_bytes(2, "big")


def _neighbours(own_macs: bool) -> Iterator[str]:
    for number in range(max(PATHS)):
        mac = neighbour_mac(number) if own_macs else MAC
        for family in (4, 6):
            yield (
                f"neighbour replace {gateway(family, number)} lladdr {mac.hex(':')} "
                f"dev {EGRESSES[number % 2]} nud permanent"
            )


def _add_vlan(inside: Namespace, wire: Namespace) -> bool:
    """Devices of a VLAN and a route of two paths that leaves by it. False where the kernel has no
    such devices."""
    for name in ("in0", "out0"):
        device = f"name {name}.{VLAN_ID} type vlan id {VLAN_ID}"
        command = f"ip -n {inside.name} link add link {name} {device}"
        if subprocess.run(command.split(), capture_output=True, check=False).returncode:
            return False
        inside.ip(f"link set {name}.{VLAN_ID} up")
        for namespace in (inside, wire):  # tags stay in the frame, where XDP sees them
            namespace.run("ethtool", "-K", name, "rxvlan", "off", "txvlan", "off")
    inside.ip(f"address add 10.9.0.1/24 dev out0.{VLAN_ID}")
    for host in (2, 3):
        where = f"lladdr {MAC.hex(':')} dev out0.{VLAN_ID} nud permanent"
        inside.ip(f"neighbour replace 10.9.0.{host} {where}")
    network = VLAN_DESTINATION4.removesuffix(".80") + ".0/24"
    inside.ip(f"route add {network} nexthop via 10.9.0.2 nexthop via 10.9.0.3 weight 2")
    return True


def _batch(namespace: Namespace, *commands: Iterator[str]) -> None:
    lines = "".join(f"{line}\n" for part in commands for line in part)
    namespace.run("ip", "-batch", "-", input=lines)


def _add_routes(kernel: IPRoute, inside: Router, wanted: Sequence[int]) -> None:
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
