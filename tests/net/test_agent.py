"""Whatever changes in the kernel is in the data path soon, and traffic goes on reaching a server.

Each test changes something with the tools of whoever runs the router, waits until the data path
says so, and undoes it.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from testbed.waiting import wait_until
from tests.net.topology import DEADLINE, VIP, VIP_PREFIX, Anycast, gateway
from tests.net.traffic import Flows, Servers, by_server
from xdpecmp.model.values import NextHop
from xdpecmp.observe.state import RouteState
from xdpecmp.program.abi import INTERFACE_FLAGS

pytestmark = pytest.mark.root

WEIGHTS = (1, 2, 1)
FLOWS = 60
PREFIX = {4: "203.0.113.0/24", 6: "2001:db8:f::/64"}


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast(WEIGHTS) as made:
        made.attach("c0", "--mode", "native")
        yield made


@pytest.fixture
def all_is_well(net: Anycast, servers: Servers, flows: Flows) -> Iterator[None]:
    """Before and after a test, every server has its flows, and XDP forwards all of them."""
    wait_for_devices(net, 4, "e1", "e2", "e3")
    wait_for_devices(net, 6, "e1", "e2", "e3")
    yield
    net.replace_routes(WEIGHTS)
    net.wait_for_status(passed=[])
    for family in (4, 6):
        wait_for_devices(net, family, "e1", "e2", "e3")
        before = net.reason("FORWARDED")
        assert len(by_server(servers.all_answers(flows[family]))) == 3
        assert net.reason("FORWARDED") - before == FLOWS


def wait_for_devices(net: Anycast, family: int, *wanted: str) -> None:
    """Until the anycast route's usable next hops are on these devices."""

    def holds(route: RouteState | None) -> bool:
        usable = [path.dev for path in route.paths if path.state == "up"] if route else []
        return usable == list(wanted)

    net.wait_for_route(VIP_PREFIX[family], holds, f"IPv{family} route on {wanted}")


def leads_to(*wanted: tuple[str, int]) -> Callable[[RouteState | None], bool]:
    """Whether a route has these next hops and weights."""
    return lambda route: (
        route is not None and [(path.via, path.weight) for path in route.paths] == list(wanted)
    )


# --- routes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_a_route_comes_changes_and_goes(net: Anycast, family: int) -> None:
    prefix, via = PREFIX[family], [gateway(i, family) for i in (1, 2, 3)]
    net.ns.ip(f"route add {prefix} via {via[0]}")
    net.wait_for_route(prefix, leads_to((via[0], 1)), "route added")
    net.ns.ip(f"route replace {prefix} nexthop via {via[1]} weight 3 nexthop via {via[2]} weight 4")
    net.wait_for_route(prefix, leads_to((via[1], 3), (via[2], 4)), "route replaced")
    (shown,) = net.json("routes", prefix)
    assert shown["kind"] == "threshold"
    assert [path["weight"] for path in shown["nexthops"]] == [3, 4]
    net.ns.ip(f"route replace blackhole {prefix}")
    net.wait_for_route(prefix, lambda r: r and r.reason == "ROUTE_SPECIAL", "blackhole")
    net.ns.ip(f"-{family} route del blackhole {prefix}")
    net.wait_for_route(prefix, lambda route: route is None, "route deleted")


@pytest.mark.usefixtures("all_is_well")
def test_a_longer_prefix_wins(net: Anycast, servers: Servers, flows: Flows) -> None:
    """Also over what was found before, in the tables that stand before the tries. Those are written
    a moment after the tries, which `routes` shows."""

    def all_go_to(server: int) -> None:
        wait_until(
            lambda: by_server(servers.all_answers(flows[family])) == {server: FLOWS},
            f"IPv{family}: all to server {server}",
            DEADLINE,
        )

    for family in (4, 6):
        longer = VIP_PREFIX[family]
        covering = "192.0.2.0/24" if family == 4 else "2001:db8:80::/64"
        net.ns.ip(f"-{family} route del {longer}")
        net.ns.ip(f"route add {covering} via {gateway(3, family)}")
        net.wait_for_route(longer, leads_to((gateway(3, family), 1)), f"{longer} gone")
        all_go_to(3)
        net.ns.ip(f"route add {longer} via {gateway(2, family)}")
        net.wait_for_route(longer, leads_to((gateway(2, family), 1)), "longer route")
        all_go_to(2)
        net.ns.ip(f"-{family} route del {covering}")


# --- links, addresses, neighbours -----------------------------------------------------------------


@pytest.mark.usefixtures("all_is_well")
def test_a_link_goes_down_and_comes_back(net: Anycast, servers: Servers, flows: Flows) -> None:
    net.ns.ip("link set e1 down")
    for family in (4, 6):
        wait_for_devices(net, family, "e2", "e3")
        assert set(by_server(servers.all_answers(flows[family]))) == {2, 3}
    net.ns.ip("link set e1 up")
    net.ns.ip("addr replace 2001:db8:1::1/64 dev e1")  # IPv6 addresses are lost with the link
    net.replace_routes(WEIGHTS)
    for family in (4, 6):
        wait_for_devices(net, family, "e1", "e2", "e3")


@pytest.mark.usefixtures("all_is_well")
def test_carrier_is_lost(net: Anycast, servers: Servers, flows: Flows) -> None:
    """Linux goes on choosing such a path unless it is told to ignore it."""
    net.servers[0].ip("link set eth0 down")
    wait_for_devices(net, 4, "e2", "e3")
    (shown,) = net.json("routes", VIP_PREFIX[4])
    assert [path["state"] for path in shown["nexthops"]] == ["egress_down", "up", "up"]
    net.sysctl("net.ipv4.conf.e1.ignore_routes_with_linkdown", 1)
    net.wait_for_route(
        VIP_PREFIX[4], leads_to((gateway(2, 4), 2), (gateway(3, 4), 1)), "path left out"
    )
    assert set(by_server(servers.all_answers(flows[4]))) == {2, 3}
    net.sysctl("net.ipv4.conf.e1.ignore_routes_with_linkdown", 0)
    server = net.servers[0]
    server.ip("link set eth0 up")
    for command in (
        "addr replace 2001:db8:1::2/64 dev eth0",
        "route replace default via 10.0.1.1",
        "-6 route replace default via 2001:db8:1::1",
    ):
        server.ip(command)


@pytest.mark.usefixtures("all_is_well")
def test_an_address_goes(net: Anycast, servers: Servers, flows: Flows) -> None:
    """With an interface's last address Linux gives up the paths through it, and says nothing."""
    net.ns.ip("addr del 10.0.1.1/24 dev e1")
    wait_for_devices(net, 4, "e2", "e3")
    assert set(by_server(servers.all_answers(flows[4]))) == {2, 3}
    net.ns.ip("addr add 10.0.1.1/24 dev e1")
    net.wait_for_route("10.0.1.1/32", lambda r: r and r.reason == "ROUTE_LOCAL", "address back")


@pytest.mark.usefixtures("all_is_well")
@pytest.mark.parametrize("family", [4, 6])
def test_a_neighbour_moves_to_another_mac(
    net: Anycast, servers: Servers, flows: Flows, family: int
) -> None:
    server = net.servers[0]
    (link,) = json.loads(server.ip("-j link show dev eth0"))
    for mac in ("02:00:00:00:aa:01", link["address"]):
        server.ip(f"link set eth0 address {mac}")
        for each in (4, 6):
            net.ns.ip(f"neigh replace {gateway(1, each)} dev e1 lladdr {mac} nud reachable")
        for prefix in VIP_PREFIX.values():
            net.wait_for_route(prefix, lambda r, m=mac: r and r.paths[0].lladdr == m, f"MAC {mac}")
        assert 1 in by_server(servers.all_answers(flows[family]))


@pytest.mark.usefixtures("all_is_well")
def test_a_neighbour_that_is_forgotten_is_resolved_again(net: Anycast) -> None:
    """Packets that XDP forwards don't ask for it, so the agent has to."""
    for i in (1, 2, 3):
        net.ns.ip(f"neigh flush dev e{i}")
    for family in (4, 6):
        wait_for_devices(net, family, "e1", "e2", "e3")


@contextmanager
def talking_to(net: Anycast, address: str) -> Iterator[None]:
    """The client sends to an address all the time; nobody answers, which would say it is there."""
    with net.client.enter():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((address, 9))
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.02):
            with suppress(ConnectionRefusedError):
                sender.send(b"x")

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sender.close()


@pytest.mark.usefixtures("all_is_well")
def test_a_stale_host_is_asked_after_while_packets_leave_for_it(net: Anycast) -> None:
    """On a connected network, where it is a host like any other that may leave for good: without
    packets nobody asks. The kernel itself hears of none that XDP forwards."""
    hosts = "10.0.1.77", "10.0.1.78"
    mac = json.loads(net.servers[0].ip("-j link show dev eth0"))[0]["address"]
    for host in hosts:
        net.servers[0].ip(f"addr add {host}/24 dev eth0")
        net.ns.ip(f"neigh replace {host} dev e1 lladdr {mac} nud stale")
        net.wait_for_route(f"{host}/32", lambda r: r and r.paths[0].lladdr == mac, host)

    def states() -> list[str]:
        known = json.loads(net.ns.ip("-4 -j neigh show dev e1"))
        return [each["state"][0] for host in hosts for each in known if each["dst"] == host]

    before = net.reason("FORWARDED")
    with talking_to(net, hosts[0]):
        wait_until(lambda: states()[0] != "STALE", f"{hosts[0]} asked after", DEADLINE)
    assert net.reason("FORWARDED") > before
    assert states()[1] == "STALE"
    for host in hosts:
        net.servers[0].ip(f"addr del {host}/24 dev eth0")
        net.ns.ip(f"neigh del {host} dev e1")


@pytest.mark.usefixtures("all_is_well")
def test_the_egress_mtu(net: Anycast, servers: Servers, flows: Flows) -> None:
    wanted = NextHop(bytes([10, 0, 1, 2]), net.ns.ifindex("e1"))

    def mtu() -> int:
        slot = next(slot for slot, nexthop in maps.nexthops() if nexthop == wanted)
        held: int = maps["nexthops"].entries[slot].mtu
        return held

    with net.instance.open_maps() as maps:
        for size in (1400, 1500):
            net.ns.ip(f"link set e1 mtu {size}")
            wait_until(lambda s=size: mtu() == s, f"MTU {size}", DEADLINE)
            servers.all_answers(flows[4])


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("all_is_well")
@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("net.ipv4.fib_multipath_hash_policy", 1, {"policy4": 1}),
        ("net.ipv6.fib_multipath_hash_policy", 1, {"policy6": 1}),
        ("net.ipv4.fib_multipath_hash_policy", 3, {"policy4": 3}),
        ("net.ipv4.fib_multipath_hash_seed", 99, {"seed": 99, "seed_known": True}),
        ("net.ipv4.fib_multipath_hash_seed", 0, {"seed": None, "seed_known": False}),
    ],
)
def test_hash_settings(
    net: Anycast, servers: Servers, flows: Flows, key: str, value: int, wanted: dict[str, object]
) -> None:
    """And from then on the data path chooses as Linux does, or leaves it to Linux."""
    before, held = net.sysctl(key), net.status()
    net.sysctl(key, value)
    net.wait_for_status(**wanted)
    for family in (4, 6):
        servers.all_answers(flows[family])
    net.sysctl(key, before)
    net.wait_for_status(**{name: held[name] for name in wanted})


@contextmanager
def interface_entry(net: Anycast) -> Iterator[Callable[[], tuple[int, int]]]:
    """Reads flags and rp_filter of c0 from the map."""
    index = net.ns.ifindex("c0")
    with net.instance.open_maps() as maps:
        array = maps["interfaces"]

        def read() -> tuple[int, int]:
            entry = array.entries[index % array.count]
            assert entry.ifindex == index
            return entry.flags, entry.rp_filter

        yield read


@pytest.mark.usefixtures("all_is_well")
@pytest.mark.parametrize(
    ("key", "flag"),
    [
        ("net.ipv4.conf.c0.forwarding", "FORWARD4"),
        ("net.ipv4.ip_forward", "FORWARD4"),
        ("net.ipv6.conf.all.forwarding", "FORWARD6"),
        ("net.ipv6.conf.c0.disable_ipv6", "FORWARD6"),
    ],
)
def test_forwarding_is_switched_off(net: Anycast, key: str, flag: str) -> None:
    before = net.sysctl(key)
    with interface_entry(net) as read:
        assert read()[0] & INTERFACE_FLAGS[flag]
        net.sysctl(key, 1 - int(before))
        wait_until(lambda: not read()[0] & INTERFACE_FLAGS[flag], f"no {flag}", DEADLINE)
        net.sysctl(key, before)
        wait_until(lambda: bool(read()[0] & INTERFACE_FLAGS[flag]), f"{flag} again", DEADLINE)
    if "disable_ipv6" in key:
        net.ns.ip("addr replace 2001:db8::1/64 dev c0")
        net.ns.ip("route replace 2001:db8:c::/64 via 2001:db8::2")


@pytest.mark.usefixtures("all_is_well")
def test_the_reverse_path_filter(net: Anycast, servers: Servers, flows: Flows) -> None:
    with interface_entry(net) as read:
        for value in (1, 2, 0):
            net.sysctl("net.ipv4.conf.c0.rp_filter", value)
            wait_until(lambda v=value: read()[1] == v, f"rp_filter {value}", DEADLINE)
            before = net.reason("FORWARDED")
            servers.all_answers(flows[4])
            assert net.reason("FORWARDED") - before == FLOWS


@pytest.mark.usefixtures("all_is_well")
@pytest.mark.parametrize("family", [4, 6])
def test_a_policy_rule(net: Anycast, servers: Servers, flows: Flows, family: int) -> None:
    """It may send a packet anywhere, so everything of its family is Linux's."""
    rule = f"-{family} rule {{}} priority 100 lookup main"

    def counted(reason: str) -> int:
        before = net.reason(reason)
        servers.all_answers(flows[family])
        return net.reason(reason) - before

    net.ns.ip(rule.format("add"))
    wait_until(lambda: counted("POLICY_RULES") == FLOWS, f"{VIP[family]} left to Linux", DEADLINE)
    net.ns.ip(rule.format("del"))
    wait_until(lambda: counted("FORWARDED") == FLOWS, f"{VIP[family]} forwarded", DEADLINE)


@pytest.mark.usefixtures("all_is_well")
def test_an_ipsec_policy(net: Anycast, servers: Servers, flows: Flows) -> None:
    """Linux asks the policies for all that it forwards, so everything is Linux's."""

    def counted(reason: str) -> int:
        before = net.reason(reason)
        for family in (4, 6):
            servers.all_answers(flows[family])
        return net.reason(reason) - before

    policy = "src 203.0.113.1/32 dst 203.0.113.2/32 dir out"
    net.ns.ip(f"xfrm policy add {policy} action allow")
    wait_until(lambda: counted("IPSEC") == 2 * FLOWS, "all left to Linux", DEADLINE)
    net.ns.ip(f"xfrm policy del {policy}")
    wait_until(lambda: counted("FORWARDED") == 2 * FLOWS, "all forwarded", DEADLINE)


@pytest.mark.usefixtures("all_is_well")
@pytest.mark.parametrize("direction", ["fwd", "out"])
def test_an_ipsec_default_that_blocks(
    net: Anycast, servers: Servers, flows: Flows, direction: str
) -> None:
    """A gateway that fails closed: what no policy allows must not leave in the clear."""
    few = flows[4][:2] + flows[6][:2]
    net.ns.ip(f"xfrm policy setdefault {direction} block")
    try:
        wait_until(lambda: not any(servers.ask(few)), "nothing forwarded", DEADLINE)
    finally:
        net.ns.ip(f"xfrm policy setdefault {direction} accept")

    def forwarded() -> bool:
        before = net.reason("FORWARDED")
        return all(servers.ask(few)) and net.reason("FORWARDED") - before == len(few)

    wait_until(forwarded, "all forwarded again", DEADLINE)


@pytest.mark.usefixtures("all_is_well")
def test_a_gateway_that_cannot_be_managed_stops_nothing(
    net: Anycast, servers: Servers, flows: Flows
) -> None:
    net.ns.ip("link add odd type veth peer name even")
    try:
        for end in ("odd", "even"):
            net.ns.ip(f"link set {end} up")
        net.ns.ip("route add 10.77.0.0/16 via inet6 fe80::77 dev odd")
        net.sysctl("net.ipv6.conf.odd.disable_ipv6", 1)
        net.run("attach", "c0")
        before = net.reason("FORWARDED")
        servers.all_answers(flows[4])
        assert net.reason("FORWARDED") - before == FLOWS
        assert net.status()["lease_s"] > 0
    finally:
        net.ns.ip("link del odd")
