"""A router of values on which all is well for `doctor`, and what changes that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Self

from xdpecmp.compile import compile_tables
from xdpecmp.doctor import Facts, Verdict, examine
from xdpecmp.doctor.facts import Device, Host, Running, Trial
from xdpecmp.doctor.interfaces import assumed
from xdpecmp.model.options import Options
from xdpecmp.model.values import (
    InterfaceSettings,
    Link,
    Neighbour,
    NextHop,
    Path,
    Prefix,
    Route,
    RouteKind,
    Settings,
    Snapshot,
)
from xdpecmp.observe.state import InterfaceState, Status

IN, OUT = 1, 2
MAC = bytes.fromhex("020000000001")
GATEWAYS = [NextHop(bytes([10, 0, 0, i]), OUT) for i in (2, 3)]
MAIN = 254


def route(prefix: str, *nexthops: NextHop, **other: Any) -> Route:
    paths = tuple(Path(nexthop) for nexthop in nexthops)
    kind = other.pop("kind", RouteKind.UNICAST)
    return Route(Prefix.parse(prefix), MAIN, 0, kind, paths, **other)


HOST = Host(
    root=True,
    missing_capabilities=(),
    machine="x86_64",
    release="6.18.1-amd64",
    bcc="0.26.0",
    bcc_is_ours=True,
    libbpf="1.1",
    bpffs=None,
    trial=Trial(),
    tickless="",
)
SETTINGS = Settings(
    seed=7,
    interfaces={
        number: InterfaceSettings(forwarding4=True, forwarding6=True, send_redirects=True)
        for number in (IN, OUT)
    },
)
LINKS = {
    IN: Link(IN, "eth1", MAC, 1500, True),
    OUT: Link(OUT, "eth2", MAC, 1500, True),
}
NIC = Device(driver="ixgbe", features=frozenset({"rx-gro"}), native_xdp=True)
SNAPSHOT = Snapshot(
    links=LINKS,
    neighbours={(hop.via, hop.ifindex): Neighbour(hop.via, OUT, MAC, 0x02) for hop in GATEWAYS},
    routes=(route("192.0.2.0/24", *GATEWAYS),),
    settings=SETTINGS,
)


class World:
    """Facts of a router on which all is well, with some of them replaced."""

    def __init__(self) -> None:
        self.host = HOST
        self.snapshot = SNAPSHOT
        self.devices = {IN: NIC, OUT: NIC}
        self.other: dict[str, Any] = {"running": Running()}
        self.chosen: tuple[int, ...] = (IN,)
        self.options = Options()

    def choose(self, *ifindexes: int) -> Self:
        """The devices that are examined."""
        self.chosen = ifindexes
        return self

    def links(self, ifindex: int, **changes: Any) -> Self:
        link = replace(self.snapshot.links[ifindex], **changes)
        self.snap(links={**self.snapshot.links, ifindex: link})
        return self

    def snap(self, **changes: Any) -> Self:
        self.snapshot = replace(self.snapshot, **changes)
        return self

    def option(self, **changes: Any) -> Self:
        self.options = replace(self.options, **changes)
        return self

    def settings(self, **changes: Any) -> Self:
        self.snap(settings=replace(self.snapshot.settings, **changes))
        return self

    def interface(self, **changes: Any) -> Self:
        """Settings of eth1."""
        all_of_them = self.snapshot.settings.interfaces
        self.settings(interfaces={**all_of_them, IN: replace(all_of_them[IN], **changes)})
        return self

    def device(self, ifindex: int = IN, **changes: Any) -> Self:
        self.devices[ifindex] = replace(self.devices[ifindex], **changes)
        return self

    def routes(self, *routes: Route) -> Self:
        self.snap(routes=(*self.snapshot.routes, *routes))
        return self

    def facts(self) -> Facts:
        links = assumed(self.snapshot.links, self.devices, self.chosen)
        return Facts(
            host=self.host,
            snapshot=self.snapshot,
            tables=compile_tables(replace(self.snapshot, links=links), self.chosen, self.options),
            interfaces=tuple(links[ifindex] for ifindex in self.chosen),
            devices=self.devices,
            **self.other,
        )


def run(**changes: Any) -> Callable[[World], object]:
    """A change of Facts itself."""
    return lambda world: world.other.update(changes)


def host(**changes: Any) -> Callable[[World], object]:
    """A change of Facts.host."""

    def change(world: World) -> None:
        world.host = replace(world.host, **changes)

    return change


def ipv6_multipath(world: World) -> World:
    hops = [NextHop(bytes(15) + bytes([i]), OUT) for i in (2, 3)]
    return world.routes(route("2001:db8::/32", *hops))


def one_armed(world: World) -> World:
    return world.choose(OUT)


STATUS = Status(interfaces=(InterfaceState("eth1", "native", 1),), agent_pid=42, lease_s=2.5)
"""Attached to eth1."""


class Case(NamedTuple):
    """What is out of order, and what is said of it."""

    change: Callable[[World], Any]
    verdict: str
    check: str
    found: str
    """Part of the sentence."""
    fix: str
    """Part of the command; "" for none."""


def check_case(case: Case) -> None:
    """It is said, and nobody is alarmed by what does not stop anything."""
    world = World()
    case.change(world)
    findings = examine(world.facts())
    assert any(
        finding.check == case.check
        and finding.verdict.value == case.verdict
        and case.found in finding.found
        and (case.fix in finding.fix if case.fix else not finding.fix)
        for finding in findings
    ), findings
    problems = {finding.check for finding in findings if finding.verdict is Verdict.PROBLEM}
    assert problems == ({case.check} if case.verdict == "problem" else set())


def bad_checks(change: Callable[[World], Any]) -> set[str]:
    """The checks that have something to say after a change."""
    world = World()
    change(world)
    return {f.check for f in examine(world.facts()) if f.verdict is not Verdict.OK}
