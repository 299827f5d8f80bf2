"""Changes of single routes, few and many: in the end the data path says what the kernel says."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Sequence

import pytest

from testbed.waiting import wait_until
from tests.net.small import Small
from tests.net.topology import DEADLINE

pytestmark = pytest.mark.root

TWO = {
    4: "nexthop via 10.0.0.2 weight {} nexthop via 10.0.1.2 weight {}",
    6: "nexthop via fd00::2 weight {} nexthop via fd01::2 weight {}",
}
NETS = {4: "20.{}.{}.0/24", 6: "fd77:{:x}:{:x}::/48"}
MANY = 3000
Paths = list[tuple[str, int]]


@pytest.fixture(scope="module")
def router() -> Iterator[Small]:
    with Small() as made:
        for i in (0, 1):
            made.ns.ip(f"addr add 10.0.{i}.1/24 dev in{i}")
            made.ns.ip(f"addr add fd0{i}::1/64 dev in{i}")
            for via in (f"10.0.{i}.2", f"fd0{i}::2"):
                made.ns.ip(f"neigh replace {via} lladdr 02:00:00:00:00:01 dev in{i}")
        made.run("attach", "in0")
        yield made


def batch(router: Small, family: int, commands: Sequence[str]) -> None:
    router.ns.run("ip", f"-{family}", "-batch", "-", input="\n".join(commands))


def kernel(router: Small, family: int) -> dict[str, Paths]:
    """Next hops and weights of all routes with a gateway, by what `ip` says."""
    found: dict[str, Paths] = {}
    for route in json.loads(router.ns.ip(f"-{family} -j route show")):
        hops = route.get("nexthops") or ([route] if "gateway" in route else [])
        if hops:
            network = "::/0" if family == 6 else "0.0.0.0/0"
            prefix = route["dst"] if route["dst"] != "default" else network
            found.setdefault(
                str(ipaddress.ip_network(prefix)),
                [(hop["gateway"], hop.get("weight", 1)) for hop in hops],
            )
    return found


def data_path(router: Small, family: int) -> dict[str, Paths]:
    """Likewise, by `xdpecmp routes`; host routes of neighbours are no routes of the kernel's."""
    found: dict[str, Paths] = {}
    for route in router.json("routes"):
        hops = [(hop["via"], hop["weight"]) for hop in route["nexthops"] if hop["via"]]
        network = ipaddress.ip_network(route["prefix"])
        if hops and network.version == family and network.num_addresses > 1:
            found[route["prefix"]] = hops
    return found


def wait_until_equal(router: Small, family: int, routes: int) -> None:
    def equal() -> bool:
        wanted = kernel(router, family)
        return len(wanted) == routes and data_path(router, family) == wanted

    wait_until(equal, f"IPv{family}: {routes} routes in the data path", 4 * DEADLINE)


@pytest.mark.parametrize("family", [4, 6])
def test_many_routes_come_change_and_go(router: Small, family: int) -> None:
    nets = [NETS[family].format(1 + i // 250, 1 + i % 250) for i in range(MANY)]
    two = TWO[family]
    batch(router, family, [f"route add {net} {two.format(1, 2)}" for net in nets])
    wait_until_equal(router, family, MANY)
    # IPv6 as by FRR: gone, and back a moment later
    again = [
        f"route del {net}\nroute add {net} {two.format(i % 250 + 1, 7)}"
        for i, net in enumerate(nets)
    ]
    batch(router, family, again)
    wait_until_equal(router, family, MANY)
    batch(router, family, [f"route replace {net} {two.format(9, 9)}" for net in nets[::3]])
    batch(router, family, [f"route del {net}" for net in nets[1::3]])
    wait_until_equal(router, family, MANY - len(nets[1::3]))
    batch(router, family, [f"route del {net}" for i, net in enumerate(nets) if i % 3 != 1])
    wait_until_equal(router, family, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_routes_that_join_others_or_leave_them(router: Small, family: int) -> None:
    """Of which the kernel's event doesn't tell all."""
    net, second = NETS[family].format(1, 1), "10.0.1.2" if family == 4 else "fd01::2"
    first = "10.0.0.2" if family == 4 else "fd00::2"
    for command in (
        f"route add {net} via {first}",
        f"route append {net} via {second}",
        f"route add {net} via {second} metric 2000",
        f"route del {net} via {first}",
        f"route replace {net} {TWO[family].format(3, 4)}",
        f"route del {net}",
    ):
        batch(router, family, [command])
        wait_until_equal(router, family, 1)
    batch(router, family, [f"route flush root {net}"])
    wait_until_equal(router, family, 0)


def test_more_groups_than_there_are_entries(router: Small) -> None:
    """Each change of weights makes one, until all is read again; none is forgotten for long."""
    weights = [(a, b) for a in range(1, 201) for b in (1, 3, 7)]
    for a, b in weights:
        batch(router, 4, [f"route replace 20.0.0.0/24 {TWO[4].format(a, b)}"])
    wait_until_equal(router, 4, 1)
    wait_until(lambda: router.json("status")["groups"] == 1, "one group", DEADLINE)
    router.ns.ip("route del 20.0.0.0/24")


def test_the_agent_is_the_one_of_the_beginning(router: Small) -> None:
    """It did all that without a complaint, and is alive."""
    status = router.status()
    assert status["lease_s"] > 0
    assert router.instance.log_file.read_text() == ""
