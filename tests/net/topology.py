"""A client, a router and servers that all hold the same anycast address, each in a namespace.

    client ── [hop] ── router ══ s1, s2, …

Somebody else has built the router, with plain `ip`; the tests then drive `xdpecmp` by its command
line, as a subprocess, as a user does. The client owns whole prefixes, so a test can have as many
flows as it likes. A hop, where one is asked for, has a link of NARROW_MTU towards the client.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from testbed.netns import Namespace, veth
from testbed.waiting import wait_until
from tests.capabilities import Since, require_kernel
from tests.net.command import Done, command
from xdpecmp.cli import asjson
from xdpecmp.instance.instance import BPFFS, RUN, Instance
from xdpecmp.model.values import Prefix
from xdpecmp.netlink import Kernel
from xdpecmp.observe.state import RouteState
from xdpecmp.observe.view import View

DEADLINE = 5.0
"""Within this a change of the kernel's has to be in the data path, on a busy machine too."""

SEED = 7
NARROW_MTU = 1300
VIP = {4: "192.0.2.80", 6: "2001:db8:80::80"}
VIP_PREFIX = {4: "192.0.2.80/32", 6: "2001:db8:80::80/128"}
SOURCES = {4: "198.18.0.0/15", 6: "2001:db8:c::/64"}
"""Prefixes that the client owns."""


def gateway(server: int, family: int) -> str:
    """The address of server 1, 2, … that the router has as next hop."""
    return f"10.0.{server}.2" if family == 4 else f"2001:db8:{server}::2"


class Router:
    """A namespace in which xdpecmp is driven by its command line and watched through its maps."""

    finds_key = False
    """Whether `attach` may look for Linux's hash key. Where a test gives it no seed, whether there
    is one would depend on the host, and a search would take its CPUs."""

    def __init__(self, namespace: Namespace) -> None:
        self.ns = namespace
        with namespace.enter():
            self.instance = Instance()

    def run(self, *arguments: str, status: int = 0, **options: Any) -> Done:
        """`xdpecmp -n ROUTER ARGUMENTS`, which has to end with that status."""
        done = command("-n", self.ns.name, *arguments, **options)
        assert done.status == status, f"{arguments}: {done}"
        return done

    def json(self, *arguments: str) -> Any:
        """The same for a command that prints JSON."""
        return json.loads(self.run(*arguments, "-j").stdout)

    def attach(self, *arguments: str) -> Done:
        """Attach, then wait until the topology's next hops are usable."""
        told = () if self.finds_key else ("--no-find-key",)
        done = self.run("attach", *arguments, *told)
        with self.view() as view:
            wait_until(lambda: not unresolved(view), "all next hops resolved", DEADLINE)
        return done

    def detach(self, *names: str) -> Done:
        """Detach from these interfaces, or from all."""
        return self.run("detach", *(names or ("--all",)))

    @contextmanager
    def view(self) -> Iterator[View]:
        """The running instance's data path, read in this process."""
        with self.ns.enter():
            kernel = Kernel()
        with kernel, self.instance.open_maps() as maps:
            yield View(maps, kernel.links())

    def wait_for_route(self, prefix: str, wanted: Any, what: str) -> None:
        """Until `wanted`, a predicate, holds for the RouteState (or None) of a prefix."""
        with self.view() as view:
            wait_until(lambda: bool(wanted(view.route(Prefix.parse(prefix)))), what, DEADLINE)

    def status(self) -> dict[str, Any]:
        """What `status -j` says, read in this process."""
        with self.view() as view:
            return asjson.status(view.status(self.instance))

    def wait_for_status(self, **wanted: Any) -> None:
        """Until `status -j` says all this."""
        with self.view() as view:

            def holds() -> bool:
                return wanted.items() <= asjson.status(view.status(self.instance)).items()

            wait_until(holds, f"{wanted}", DEADLINE)

    def reason(self, name: str) -> int:
        """One counter of `stats -j`, read in this process."""
        with self.view() as view:
            return view.stats().reasons[name]

    def sysctl(self, key: str, value: int | str | None = None) -> str:
        """Set or read one of the router's sysctls."""
        return self.ns.sysctl(key, value)

    def policy(self, number: int) -> None:
        """Set the hash policy of both families; where xdpecmp runs, wait until it goes by that."""
        for family in ("ipv4", "ipv6"):
            self.sysctl(f"net.{family}.fib_multipath_hash_policy", number)
        if self.instance.present():
            self.wait_for_status(policy4=number, policy6=number)

    def program_id(self, interface: str) -> int:
        """Of the XDP program attached to an interface, 0 where there is none."""
        (link,) = json.loads(self.ns.ip(f"-j link show dev {interface}"))
        number: int = link.get("xdp", {}).get("prog", {}).get("id", 0)
        return number

    def kill_agent(self) -> None:
        """SIGKILL, and wait for its end."""
        pid = self.instance.agent_pid()
        assert pid is not None
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            wait_until(lambda: has_ended(descriptor), f"agent {pid} ended", DEADLINE)
        finally:
            os.close(descriptor)

    def remains(self) -> list[str]:
        """Everything that is left of this namespace's instance: programs, pins, files, agent."""
        nsid = str(self.instance.nsid)
        found = [BPFFS / "xdpecmp" / nsid, *RUN.glob(f"{nsid}*")]
        left = [str(path) for path in found if path.exists()]
        left += [f"process {pid}" for pid in agents(self.instance.nsid)]
        if self.ns.path.exists():
            for link in json.loads(self.ns.ip("-j link show")):
                if "xdp" in link:
                    left.append(f"XDP program on {link['ifname']}")
        return left


def unresolved(view: View) -> list[RouteState]:
    """The topology's routes with a gateway that is not usable yet."""
    prefixes = {Prefix.parse(text) for text in (*VIP_PREFIX.values(), *SOURCES.values())}
    return [
        route
        for route in view.routes()
        if route.prefix in prefixes
        and any(path.via is not None and path.state == "neighbour" for path in route.paths)
    ]


def agents(nsid: int) -> list[int]:
    """Processes of xdpecmp that live in the network namespace of that number."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.stat(process / "ns/net").st_ino != nsid:
                continue
            if b"xdpecmp" in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue  # it ended while we looked, or is a zombie
    return found


def has_ended(pidfd: int) -> bool:
    """Whether a process has ended, reaped or not."""
    return bool(select.select([pidfd], [], [], 0)[0])


class Anycast(Router):
    """The whole topology, from `__enter__` to `__exit__`.

    Interfaces: the router's `c0` faces the client, `e1`, `e2` … face the servers; everybody else's
    is `eth0`. The anycast routes have the weights 1, 2, 3 … unless others are given. With None for
    a seed Linux keeps its own to itself.
    """

    def __init__(
        self, weights: Sequence[int] = (1, 2), hop: bool = False, seed: int | None = SEED
    ) -> None:
        self._weights = weights
        self._hop = hop
        self._seed = seed
        self._cleanup = ExitStack()
        self.clients: list[Namespace] = []
        self.servers: list[Namespace] = []

    def __enter__(self) -> Self:
        if self._seed is not None:
            require_kernel(Since.HASH_SEED)
        with ExitStack() as undo:
            self.client = undo.enter_context(Namespace("client"))
            self.near = undo.enter_context(Namespace("hop")) if self._hop else self.client
            router = undo.enter_context(Namespace("router"))
            self.servers = [
                undo.enter_context(Namespace(f"s{i}")) for i in range(1, len(self._weights) + 1)
            ]
            super().__init__(router)
            undo.callback(self._detach)
            self._build()
            self._cleanup = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._cleanup.close()

    def _detach(self) -> None:
        if self.ns.path.exists() and self.instance.present():
            self.detach()

    def _build(self) -> None:
        for namespace in (self.near, self.ns, self.client):
            # What a new namespace's devices inherit is up to the host: leave nothing to luck.
            for name in ("all", "default"):
                namespace.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        for namespace in {self.near, self.ns} - {self.client}:
            namespace.sysctl("net.ipv4.ip_forward", 1)
            namespace.sysctl("net.ipv6.conf.all.forwarding", 1)
        if self._seed is not None:
            self.sysctl("net.ipv4.fib_multipath_hash_seed", self._seed)
        self.client.sysctl("net.ipv6.ip_nonlocal_bind", 1)
        self._build_client_side()
        for i, server in enumerate(self.servers, 1):
            self._build_server(i, server)
        for family in (4, 6):
            self.ns.ip(f"route add {VIP_PREFIX[family]} {self.nexthops(family, self._weights)}")

    def join(self, far: Namespace, far_name: str, name: str) -> None:
        """Make the router's device `name`, and the one at the other end of its wire."""
        veth(far, far_name, self.ns, name)

    def _build_client_side(self) -> None:
        router_side = "eth1" if self._hop else "eth0"
        self.join(self.near, router_side, "c0")
        batch(
            self.near,
            f"addr add 10.0.0.2/24 dev {router_side}",
            f"addr add 2001:db8::2/64 dev {router_side}",
            "route add default via 10.0.0.1 dev " + router_side,
        )
        batch(
            self.ns,
            "addr add 10.0.0.1/24 dev c0",
            "addr add 2001:db8::1/64 dev c0",
            f"route add {SOURCES[4]} via 10.0.0.2",
            f"route add {SOURCES[6]} via 2001:db8::2",
        )
        batch(self.near, "route add default via 2001:db8::1")
        if self._hop:
            veth(self.client, "eth0", self.near, "eth0")
            batch(
                self.near,
                f"link set eth0 mtu {NARROW_MTU}",
                "addr add 10.1.0.1/24 dev eth0",
                "addr add 2001:db8:1000::1/64 dev eth0",
                f"route add {SOURCES[4]} via 10.1.0.2",
                f"route add {SOURCES[6]} via 2001:db8:1000::2",
            )
            batch(
                self.client,
                "addr add 10.1.0.2/24 dev eth0",
                "addr add 2001:db8:1000::2/64 dev eth0",
                "route add default via 10.1.0.1",
                "route add default via 2001:db8:1000::1",
            )
        # "AnyIP": every address of a local prefix is the client's
        batch(self.client, *(f"route add local {SOURCES[family]} dev lo" for family in (4, 6)))
        no_checksum_offload(self.client)

    def _build_server(self, i: int, server: Namespace) -> None:
        self.join(server, "eth0", f"e{i}")
        batch(
            self.ns,
            f"addr add 10.0.{i}.1/24 dev e{i}",
            f"addr add 2001:db8:{i}::1/64 dev e{i}",
        )
        batch(
            server,
            f"addr add {gateway(i, 4)}/24 dev eth0",
            f"addr add {gateway(i, 6)}/64 dev eth0",
            f"addr add {VIP_PREFIX[4]} dev lo",
            f"addr add {VIP_PREFIX[6]} dev lo",
            f"route add default via 10.0.{i}.1",
            f"route add default via 2001:db8:{i}::1",
        )
        server.sysctl("net.ipv6.flowlabel_reflect", 1)
        no_checksum_offload(server)

    def nexthops(self, family: int, weights: Sequence[int]) -> str:
        """The servers as next hops, in the words of `ip route`."""
        return " ".join(
            f"nexthop via {gateway(i, family)} dev e{i} weight {weight}"
            for i, weight in enumerate(weights, 1)
        )

    def replace_routes(self, weights: Sequence[int]) -> None:
        """Give the anycast routes these weights, by `ip route replace`."""
        for family in (4, 6):
            self.ns.ip(f"route replace {VIP_PREFIX[family]} {self.nexthops(family, weights)}")


def batch(namespace: Namespace, *commands: str) -> None:
    """Several `ip` commands by one process."""
    namespace.run("ip", "-batch", "-", input="\n".join(commands) + "\n")


def no_checksum_offload(namespace: Namespace) -> None:
    """An end host that fills in its checksums. A veth doesn't by default, counting on the skb to
    say so, and an XDP frame has no skb."""
    namespace.run("ethtool", "-K", "eth0", "tx", "off")
