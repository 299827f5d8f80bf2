"""Five namespaces: a client behind a narrow link, a hop, a router, two servers with one address.

Plain `ip` commands, as a network engineer would type them, one batch a namespace. All addresses are
documentation prefixes (RFC 5737, RFC 3849); nothing is connected to the host's own network.

Two settings are there for native XDP. A veth takes frames from it only if its *peer* has GRO (or an
XDP program), so the servers have it on. And such frames lose the note "checksum still to be filled
in", so the end hosts fill it in themselves (as by `ethtool -K eth0 tx off`); that turns TSO off
too, so every segment meets the narrow link in its real size.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import netns

from .commands import run_apart
from .errors import DemoError

WEIGHTS = {"s1": 1, "s2": 2}
NEXT_HOPS = {"s1": ("192.0.2.10", "2001:db8:3::2"), "s2": ("192.0.2.14", "2001:db8:4::2")}
NARROW_MTU = 1300
SEED = 20240229
INGRESS = "to-hop"  # the router's interface that requests and ICMP errors come in by

_ROLES = ("client", "hop", "router", *WEIGHTS)

DRAWING = f"""\
                                                      ┌── s1  weight {WEIGHTS["s1"]}
  client ────────────── hop ───────────── router ─────┤
  198.51.100.0/24       MTU {NARROW_MTU}          xdpecmp     └── s2  weight {WEIGHTS["s2"]}
  203.0.113.0/24        towards           on {INGRESS}
  2001:db8:c::/64       the client                    both: 192.0.2.80
                                                            2001:db8:80::80"""


@dataclass(frozen=True)
class Family:
    """What the two address families do not share."""

    name: str
    option: str
    vip: str
    sources: tuple[str, ...]
    error_name: str
    error_counter: tuple[str, str, str]  # file in /proc/net, prefix of its lines, counter


IPV4 = Family(
    name="IPv4",
    option="-4",
    vip="192.0.2.80",
    sources=tuple(
        f"{network}.{host}" for network in ("198.51.100", "203.0.113") for host in range(1, 255)
    ),
    error_name="ICMP fragmentation needed",
    error_counter=("snmp", "Icmp:", "InDestUnreachs"),
)
IPV6 = Family(
    name="IPv6",
    option="-6",
    vip="2001:db8:80::80",
    sources=tuple(f"2001:db8:c::{host:x}" for host in range(1, len(IPV4.sources) + 1)),
    error_name="ICMPv6 packet too big",
    error_counter=("snmp6", "Icmp6InPktTooBigs", ""),
)
FAMILIES = (IPV4, IPV6)
MOST_SOURCES = len(IPV4.sources)

# The client owns whole prefixes ("AnyIP"), so it can send from hundreds of addresses.
_IP = {
    "client": """
        link add eth0 mtu 1500 type veth peer name to-client mtu {narrow_mtu} netns {hop}
        link set eth0 up
        addr add 192.0.2.2/30 dev eth0
        addr add 2001:db8:1::2/64 dev eth0
        route add local 198.51.100.0/24 dev lo
        route add local 203.0.113.0/24 dev lo
        route add local 2001:db8:c::/64 dev lo
        route add default via 192.0.2.1
        route add default via 2001:db8:1::1
    """,
    "hop": """
        link add to-router type veth peer name to-hop netns {router}
        link set to-client up
        link set to-router up
        addr add 192.0.2.1/30 dev to-client
        addr add 192.0.2.5/30 dev to-router
        addr add 2001:db8:1::1/64 dev to-client
        addr add 2001:db8:2::1/64 dev to-router
        route add 198.51.100.0/24 via 192.0.2.2
        route add 203.0.113.0/24 via 192.0.2.2
        route add 2001:db8:c::/64 via 2001:db8:1::2
        route add default via 192.0.2.6
        route add default via 2001:db8:2::2
    """,
    "router": """
        link add to-s1 type veth peer name eth0 netns {s1}
        link add to-s2 type veth peer name eth0 netns {s2}
        link set to-hop up
        link set to-s1 up
        link set to-s2 up
        addr add 192.0.2.6/30 dev to-hop
        addr add 192.0.2.9/30 dev to-s1
        addr add 192.0.2.13/30 dev to-s2
        addr add 2001:db8:2::2/64 dev to-hop
        addr add 2001:db8:3::1/64 dev to-s1
        addr add 2001:db8:4::1/64 dev to-s2
    """,
    "s1": """
        link set eth0 up
        addr add 192.0.2.10/30 dev eth0
        addr add 2001:db8:3::2/64 dev eth0
        addr add 192.0.2.80/32 dev lo
        addr add 2001:db8:80::80/128 dev lo
        route add default via 192.0.2.9
        route add default via 2001:db8:3::1
    """,
    "s2": """
        link set eth0 up
        addr add 192.0.2.14/30 dev eth0
        addr add 2001:db8:4::2/64 dev eth0
        addr add 192.0.2.80/32 dev lo
        addr add 2001:db8:80::80/128 dev lo
        route add default via 192.0.2.13
        route add default via 2001:db8:4::1
    """,
}
# In a second batch: the next hops' devices must be up at both ends first.
_ROUTER_ROUTES = """
        route add 192.0.2.0/30 via 192.0.2.5
        route add 2001:db8:1::/64 via 2001:db8:2::1
        route add 198.51.100.0/24 via 192.0.2.5
        route add 203.0.113.0/24 via 192.0.2.5
        route add 2001:db8:c::/64 via 2001:db8:2::1
        route add 192.0.2.80/32 {nexthops4}
        route add 2001:db8:80::80/128 {nexthops6}
"""

# New namespaces take some defaults from the host (rp_filter, for one), so nothing is left to luck.
_SYSCTLS_EVERYWHERE = {
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
}
_FORWARDING = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
# flowlabel_reflect: bit 1 is "established flows" (2: resets, 4: echo replies). tcp_mtu_probing
# stays off so that nothing but the ICMP error can repair a transfer.
_SERVER = {"ipv6/flowlabel_reflect": 1, "ipv4/tcp_mtu_probing": 0, "ipv4/ip_no_pmtu_disc": 0}
_SYSCTLS: dict[str, dict[str, int]] = {
    "client": {"ipv6/ip_nonlocal_bind": 1, "ipv6/auto_flowlabels": 1},
    "hop": _FORWARDING,
    "router": _FORWARDING,
    "s1": _SERVER,
    "s2": _SERVER,
}
_SEED_SYSCTL = "ipv4/fib_multipath_hash_seed"
_HINT = "it needs namespaces and veth; in a container: docker run --privileged"
_OFFLOADS = {"tx": False, "gro": True}


def nexthops(family: Family) -> str:
    """The router's next hops for the servers' shared address, in the words of `ip route`."""
    index = FAMILIES.index(family)
    return " ".join(
        f"nexthop via {NEXT_HOPS[server][index]} weight {weight}"
        for server, weight in WEIGHTS.items()
    )


class Topology:
    """The namespaces, from `__enter__` to `__exit__`; `names` maps each role to its namespace."""

    def __init__(self, policy: int) -> None:
        self.policy = policy
        suffix = secrets.token_hex(3)
        self.names = {role: f"xdpecmp-demo-{suffix}-{role}" for role in _ROLES}
        self.has_seed = False

    def __enter__(self) -> Topology:
        try:
            self._build()
        except OSError as error:
            self.close()
            raise DemoError(f"building the demo's namespaces: {error}", _HINT) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove every namespace that is there; their links go with them."""
        for name in self.names.values():
            if _path(name).exists():
                _ip("netns", "del", name)

    @contextlib.contextmanager
    def inside(self, role: str) -> Iterator[None]:
        """Put the calling thread (alone) into a namespace; sockets opened there stay in it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.enter(role)
            try:
                yield
            finally:
                netns.setns(home)
        finally:
            os.close(home)

    def enter(self, role: str) -> None:
        """Put the calling thread into a namespace for good: for threads that live there."""
        netns.setns(str(_path(self.names[role])), flags=0)

    def icmp_errors(self, server: str, family: Family) -> int:
        """How many "too big" errors a server has received so far.

        "thread-self" because /proc/net shows the namespace of the main thread, whoever asks.
        """
        file, prefix, counter = family.error_counter
        with self.inside(server):
            lines = Path("/proc/thread-self/net", file).read_text().splitlines()
        rows = [line.split() for line in lines if line.split()[0] == prefix]
        if not counter:  # snmp6: "name value"
            return int(rows[0][1])
        names, values = rows  # snmp: a line of names, a line of values
        return int(values[names.index(counter)])

    def path_mtu(self, server: str, family: Family, client: str) -> int | None:
        """The path MTU that a server has learnt for a client address, None if it has not."""
        route = json.loads(
            _ip("-n", self.names[server], family.option, "-j", "route", "get", client)
        )[0]
        learnt: dict[str, Any] = {}
        for metrics in route.get("metrics", []):
            learnt.update(metrics)
        return learnt.get("mtu")

    def _build(self) -> None:
        for role, name in self.names.items():
            _ip("netns", "add", name)
            with self.inside(role):
                for key, value in {**_SYSCTLS_EVERYWHERE, **_SYSCTLS[role]}.items():
                    _sysctl(key).write_text(f"{value}\n")
        with self.inside("router"):
            for ip in ("ipv4", "ipv6"):
                _sysctl(f"{ip}/fib_multipath_hash_policy").write_text(f"{self.policy}\n")
            # Linux before 6.11 keeps the seed to itself, and multipath passes to it.
            self.has_seed = _sysctl(_SEED_SYSCTL).exists()
            if self.has_seed:
                _sysctl(_SEED_SYSCTL).write_text(f"{SEED}\n")
        for role, commands in _IP.items():
            self._batch(role, "link set lo up" + commands, narrow_mtu=NARROW_MTU, **self.names)
        for role in ("client", *WEIGHTS):
            with self.inside(role):
                _set_offloads("eth0", _OFFLOADS)
        self._batch("router", _ROUTER_ROUTES, nexthops4=nexthops(IPV4), nexthops6=nexthops(IPV6))

    def _batch(self, role: str, commands: str, **values: object) -> None:
        lines = [line.strip().format(**values) for line in commands.splitlines() if line.strip()]
        # `ip` guesses the family from the address in all of these commands.
        _ip("-n", self.names[role], "-batch", "-", text="\n".join(lines) + "\n")


def _path(name: str) -> Path:
    return Path("/run/netns", name)


def _sysctl(key: str) -> Path:
    return Path("/proc/sys/net", key)


def _set_offloads(interface: str, offloads: dict[str, bool]) -> None:
    """By the command, since pyroute2 before 0.8 has no such call."""
    switches = [word for name, on in offloads.items() for word in (name, "on" if on else "off")]
    _run("ethtool", "-K", interface, *switches)


def _ip(*arguments: str, text: str = "") -> str:
    """Run `ip` and return what it printed; DemoError if it fails."""
    return _run("ip", *arguments, text=text)


def _run(*command: str, text: str = "") -> str:
    """The same for a command of one of _PACKAGES."""
    try:
        done = run_apart(*command, text=text)
    except FileNotFoundError as error:
        package = _PACKAGES[command[0]]
        raise DemoError(f"there is no `{command[0]}` command", f"apt install {package}") from error
    if done.returncode != 0:
        message = done.stderr.strip().replace("\n", "; ")
        raise DemoError(f"{' '.join(command)}: {message}", _HINT)
    return done.stdout


_PACKAGES = {"ip": "iproute2", "ethtool": "ethtool"}
