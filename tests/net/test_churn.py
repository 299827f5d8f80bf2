"""Things come and go by the hundred a second that have nothing to do with what is forwarded: it
goes on, and no packet is left to Linux by an expired lease."""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.netns import Namespace, veth
from testbed.waiting import wait_until
from tests.net.objects import WEIGHTS, member, over_objects, set_group, wait_for_weights
from tests.net.topology import DEADLINE, Anycast, gateway, unresolved
from tests.net.traffic import Load, Servers
from xdpecmp.agent.lease import LEASE_SECONDS

pytestmark = pytest.mark.root

CHURN_SECONDS = LEASE_SECONDS + 1.5
PACE_SECONDS = 0.0005
HELD = 5000


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with over_objects() as made, Namespace("apart") as apart:
        veth(apart, "eth0", made.ns, "x0")
        made.ns.ip("addr add 10.99.0.1/16 dev x0")
        made.attach("c0", "--mode", "native")
        held = [f"nexthop add id {1000 + i} blackhole" for i in range(HELD)]
        made.ns.run("ip", "-batch", "-", input="\n".join(held))
        yield made


def objects(i: int) -> list[str]:
    nhid = 900_000 + i % 7
    return [f"nexthop replace id {nhid} blackhole", f"nexthop del id {nhid}"]


def groups(i: int) -> list[str]:
    """That share members with those in use."""
    kind = "" if i % 2 else " type resilient buckets 8"
    return [
        f"nexthop add id 900100 group {member(4, 1)}/{member(4, 2)}{kind}",
        f"nexthop replace id 900100 group {member(4, 1)}{kind}",
        "nexthop del id 900100",
    ]


def links(_: int) -> list[str]:
    return ["link add y0 type veth peer name y1", "link del y0"]


def addresses(i: int) -> list[str]:
    return [f"addr add 10.98.{i % 250}.1/24 dev x0", f"addr del 10.98.{i % 250}.1/24 dev x0"]


def neighbours(i: int) -> list[str]:
    """Hosts of a network that is in use for nothing else."""
    to = f"10.99.{i % 200}.{1 + i % 199} dev x0"
    return [
        f"neigh replace {to} lladdr 02:00:00:00:00:{1 + i % 200:02x} nud reachable",
        f"neigh replace {to} nud failed",
        f"neigh del {to}",
    ]


def rules(_: int) -> list[str]:
    """While there is one its family passes, for that reason alone."""
    return ["rule add pref 9 from 10.97.0.0/16 table 100", "rule del pref 9"]


def churn(net: Anycast, commands: Callable[[int], list[str]]) -> None:
    """One after the other, as a routing daemon's, so that reading them meets them everywhere."""
    end, pace = time.monotonic() + CHURN_SECONDS, threading.Event()
    with net.ns.start(
        "ip",
        "-force",
        "-batch",
        "-",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=1,
    ) as batch:
        assert batch.stdin
        for number in itertools.count():
            for line in commands(number):
                batch.stdin.write(f"{line}\n")
                pace.wait(PACE_SECONDS)
            if time.monotonic() > end:
                break


@pytest.mark.parametrize("what", [objects, groups, links, addresses, neighbours, rules])
def test_forwarding_goes_on(
    net: Anycast, servers: Servers, what: Callable[[int], list[str]]
) -> None:
    before = {name: net.reason(name) for name in ("LEASE_EXPIRED", "FORWARDED")}
    agent = net.instance.agent_pid()
    with servers.flows(4, 30) as ipv4, servers.flows(6, 30) as ipv6:
        with Load(servers, [*ipv4, *ipv6]) as load:
            churn(net, what)
        assert load.lost == 0
        assert not any(load.moves)
    assert net.reason("LEASE_EXPIRED") == before["LEASE_EXPIRED"]
    assert net.reason("FORWARDED") > before["FORWARDED"]
    assert net.instance.agent_pid() == agent
    assert "cannot follow" not in Path(net.instance.log_file).read_text()


def test_what_is_in_use_is_followed_meanwhile(net: Anycast) -> None:
    """A server leaves its group while others flap, and comes back."""
    left = {server: weight for server, weight in WEIGHTS.items() if server != 2}
    for number in range(5):
        net.ns.run("ip", "-force", "-batch", "-", input="\n".join(objects(number) * 200))
        for wanted in (left, WEIGHTS):
            set_group(net, 4, wanted)
            net.ns.run("ip", "-force", "-batch", "-", input="\n".join(objects(number) * 50))
            wait_for_weights(net, 4, wanted)


def test_a_group_in_use_that_goes_takes_its_routes_along(net: Anycast) -> None:
    """IPv4's without an event: the shorter prefix is what counts then."""
    net.ns.ip(f"nexthop add id 900200 group {member(4, 1)}/{member(4, 2)}")
    net.ns.ip("route add 198.51.100.0/24 nhid 900200")
    net.ns.ip(f"route add 198.51.0.0/16 via {gateway(3, 4)}")
    try:
        net.wait_for_route("198.51.100.0/24", lambda route: route and len(route.paths) == 2, "both")
        net.ns.ip("nexthop del id 900200")
        net.wait_for_route(
            "198.51.100.0/24",  # by the longest prefix that there is
            lambda route: route and [path.via for path in route.paths] == [gateway(3, 4)],
            "the shorter prefix",
        )
    finally:
        net.ns.ip("route del 198.51.0.0/16")


def test_a_full_neighbour_table_costs_what_does_not_fit(net: Anycast) -> None:
    """Each entry of the last five seconds holds its place: neigh_forced_gc(). The table is that of
    all namespaces, so it is full for a moment only."""
    net.detach()
    entries = [
        f"neigh add 10.99.{i >> 8}.{i & 255} lladdr 02:00:00:00:00:01 nud reachable dev x0"
        for i in range(256, 256 + 1500)
    ]
    for server in WEIGHTS:
        net.ns.ip(f"neigh flush to {gateway(server, 4)}")
    try:
        net.ns.run("ip", "-force", "-batch", "-", input="\n".join(entries), check=False)
        done = net.run("attach", "c0", "--mode", "native")
    finally:
        net.ns.ip("neigh flush dev x0")
    assert "None" not in done.stderr
    with net.view() as view:
        wait_until(lambda: not unresolved(view), "all next hops resolved", DEADLINE)
