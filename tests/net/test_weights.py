"""`xdpecmp weights` while requests flow: nothing is lost, and just those flows move that must.

And what it refuses, in one line that names the thing and the remedy, having changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest

from tests.net.command import AS_NOBODY, command
from tests.net.topology import SEED, VIP, Anycast, batch, gateway
from tests.net.traffic import Flow, Load, Servers, chance
from xdpecmp.hashing import HASH_SPACE, bounds, select

pytestmark = pytest.mark.root

WEIGHTS = (1, 2, 5)
NEW = (4, 2, 5)
FLOWS = 120
POLICY = 1


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast(WEIGHTS) as made:
        made.policy(POLICY)
        batch(made.ns, *ODD_ROUTES)
        yield made


@pytest.fixture(scope="module")
def attached(net: Anycast) -> None:
    """Last in the file's order are the tests that need this."""
    net.attach("c0", "--mode", "native")


ODD_ROUTES = (
    "route add 203.0.113.1/32 via 10.0.1.2",
    "route add blackhole 203.0.113.2/32",
    "route add 203.0.113.3/32 proto bgp nexthop via 10.0.1.2 weight 1 nexthop via 10.0.2.2",
    "route add 203.0.113.4/32"
    " nexthop via 10.0.9.9 dev e1 onlink nexthop via 10.0.9.9 dev e2 onlink",
    "route add 203.0.113.5/32 proto static metric 50 src 10.0.0.1 scope global"
    " nexthop via 10.0.1.2 weight 3 nexthop via 10.0.2.2 weight 7",
    "route add 2001:db8:f::1/128 via 2001:db8:1::2",
    "route add 2001:db8:f::3/128 proto bird nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2",
    "route add 2001:db8:f::5/128 proto static metric 50 src 2001:db8::1 pref high"
    " nexthop via 2001:db8:1::2 weight 3 nexthop via 2001:db8:2::2 weight 7",
)


def kernel_route(net: Anycast, prefix: str) -> Any:
    """As `ip` shows it."""
    (route,) = json.loads(net.ns.ip(f"{'-6' if ':' in prefix else '-4'} -j -d route show {prefix}"))
    for nexthop in route.get("nexthops", []):
        del nexthop["flags"]  # of state
    return route


def weights_of(route: Any) -> list[int]:
    return [nexthop["weight"] for nexthop in route["nexthops"]]


# --- refused ------------------------------------------------------------------------------------

REFUSED = {
    "unknown prefix": ("198.51.100.0/24 10.0.1.2=2", "198.51.100.0/24", "ip route show"),
    "longer than the route": ("192.0.2.80/31 10.0.1.2=2", "192.0.2.80/31", "ip route show"),
    "unknown IPv6 prefix": ("2001:db8:99::/64 ::1=2", "2001:db8:99::/64", "ip -6 route show"),
    "no prefix": ("nonsense 10.0.1.2=2", "nonsense", "--help"),
    "host bits": ("192.0.2.1/24 10.0.1.2=2", "192.0.2.1/24", "--help"),
    "unknown next hop": ("192.0.2.80 10.0.77.2=2", "10.0.77.2", "10.0.1.2%e1"),
    "unknown device": ("192.0.2.80 10.0.1.2%e2=2", "10.0.1.2%e2", "10.0.1.2%e1"),
    "other family": ("192.0.2.80 2001:db8:1::2=2", "2001:db8:1::2", "10.0.1.2%e1"),
    "weight 0": ("192.0.2.80 10.0.1.2=0", "weight 0", "remove it"),
    "weight 257": ("192.0.2.80 10.0.1.2=257", "weight 257", "256"),
    "weight -1": ("192.0.2.80 10.0.1.2=-1", "weight -1", "1 to 256"),
    "second is wrong": ("192.0.2.80 10.0.1.2=2 10.0.2.2=0", "10.0.2.2", "1 to 256"),
    "no weight": ("192.0.2.80 10.0.1.2", "10.0.1.2", "=3"),
    "no number": ("192.0.2.80 10.0.1.2=many", "10.0.1.2=many", "=3"),
    "no address": ("192.0.2.80 s1=3", "s1=3", "--help"),
    "nothing to change": ("192.0.2.80", "VIA=W", "--help"),
    "ambiguous": ("203.0.113.4 10.0.9.9=2", "10.0.9.9 is ambiguous", "%DEV"),
    "single path": ("203.0.113.1 10.0.1.2=2", "203.0.113.1/32 has one next hop", "ip route show"),
    "single path, IPv6": ("2001:db8:f::1 2001:db8:1::2=2", "2001:db8:f::1", "ip -6 route show"),
    "blackhole": ("203.0.113.2 10.0.1.2=2", "203.0.113.2/32", "ip route show"),
    "local": ("10.0.0.1 10.0.1.2=2", "10.0.0.1/32", "ip route show"),
    "of BGP": ("203.0.113.3 10.0.1.2=2", "proto bgp", "--force"),
    "of BIRD": ("2001:db8:f::3 2001:db8:1::2=2", "proto bird", "--force"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(net: Anycast, name: str) -> None:
    arguments, thing, remedy = REFUSED[name]
    before = net.ns.ip("route show table all"), net.ns.ip("-6 route show table all")
    done = net.run("weights", *arguments.split(), status=2)
    assert (net.ns.ip("route show table all"), net.ns.ip("-6 route show table all")) == before
    assert done.stdout == ""
    assert len(done.lines) == 1
    assert thing in done.stderr
    assert remedy in done.stderr


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_refused_to_nobody(net: Anycast, force: tuple[str, ...]) -> None:
    before = kernel_route(net, VIP[4])
    inside = ("nsenter", f"--net={net.ns.path}", "--")
    change = ("weights", VIP[4], "10.0.1.2=9", *force)
    done = command(*change, prefix=inside, program=AS_NOBODY)
    assert kernel_route(net, VIP[4]) == before
    assert done.status == 2
    assert len(done.lines) == 1
    assert "not permitted" in done.stderr
    assert "sudo" in done.stderr


# --- without a data path ------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["203.0.113.5/32", "2001:db8:f::5/128"])
def test_nothing_but_the_weights_changes(net: Anycast, prefix: str) -> None:
    """And without a data path the kernel's route does, with a note."""
    before = kernel_route(net, prefix)
    via = gateway(2, 4 if "." in prefix else 6)
    done = net.run("weights", prefix, f"{via}=256")
    assert len(done.lines) == 1
    assert done.stderr.startswith("note: xdpecmp is not attached")
    after = kernel_route(net, prefix)
    assert weights_of(before) == [3, 7]
    assert weights_of(after) == [3, 256]
    after["nexthops"][1]["weight"] = 7
    assert after == before


def test_a_next_hop_by_its_device(net: Anycast) -> None:
    net.run("weights", "203.0.113.4", "10.0.9.9%e2=9")
    assert weights_of(kernel_route(net, "203.0.113.4")) == [1, 9]


@pytest.mark.parametrize(
    ("prefix", "via", "protocol"),
    [("203.0.113.3", "10.0.1.2", "bgp"), ("2001:db8:f::3", "2001:db8:1::2", "bird")],
)
def test_force_changes_a_daemons_route(net: Anycast, prefix: str, via: str, protocol: str) -> None:
    net.run("weights", prefix, f"{via}=8", "--dry-run")  # asking is free
    assert weights_of(kernel_route(net, prefix)) == [1, 1]
    net.run("weights", prefix, f"{via}=8", "--force")
    route = kernel_route(net, prefix)
    assert weights_of(route) == [8, 1]
    assert route["protocol"] == protocol


# --- under load ---------------------------------------------------------------------------------


def servers_of(flows: Sequence[Flow], weights: Sequence[int]) -> list[int]:
    """By the model."""
    limits = bounds(weights)
    return [1 + select(limits, flow.key(POLICY).hash(SEED)) for flow in flows]


def moved_by_hand(old: Sequence[int], new: Sequence[int]) -> Fraction:
    """One minus what each path keeps: where its old and its new range of hashes overlap."""
    kept = 0
    ranges = [list(zip((-1, *limits), limits, strict=False)) for limits in map(bounds, (old, new))]
    for (low1, high1), (low2, high2) in zip(*ranges, strict=True):
        kept += max(0, min(high1, high2) - max(low1, low2))
    return 1 - Fraction(kept, HASH_SPACE)


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("family", [4, 6])
def test_under_load(net: Anycast, servers: Servers, family: int) -> None:
    change = (VIP[family], f"{gateway(1, family)}={NEW[0]}")
    # a socket is for one thread: the load's flows, and some to ask on as soon as it is done
    with (
        servers.flows(family, FLOWS) as flows,
        servers.flows(family, 20, first=FLOWS) as others,
    ):
        before = kernel_route(net, VIP[family])
        announced = net.json("weights", *change, "--dry-run")
        assert kernel_route(net, VIP[family]) == before
        with Load(servers, flows) as load:
            done = net.json("weights", *change)
            after = servers.ask(others)
            load.wait_for_rounds()

    assert done == announced
    share = moved_by_hand(WEIGHTS, NEW)
    assert announced["moved_share"] == pytest.approx(float(share), abs=1e-9)
    assert [
        (row["via"], row["dev"], row["old_weight"], row["new_weight"])
        for row in announced["nexthops"]
    ] == [
        (gateway(i, family), f"e{i}", *pair)
        for i, pair in enumerate(zip(WEIGHTS, NEW, strict=True), 1)
    ]

    old, new = servers_of(flows, WEIGHTS), servers_of(flows, NEW)
    assert load.lost == 0
    assert load.servers(0) == old
    assert load.servers(-1) == new
    assert [answer and answer.server for answer in after] == servers_of(others, NEW)
    moves = load.moves
    assert moves == [int(a != b) for a, b in zip(old, new, strict=True)]
    assert chance(sum(moves), FLOWS, share) > Fraction(1, 10**9)


@pytest.mark.usefixtures("attached")
def test_routes_show_it(net: Anycast) -> None:
    for family in (4, 6):
        (route,) = net.json("routes", f"{VIP[family]}/{32 if family == 4 else 128}")
        assert [path["weight"] for path in route["nexthops"]] == list(NEW)
        assert [path["share"] for path in route["nexthops"]] == [
            pytest.approx(weight / sum(NEW), abs=1e-6) for weight in NEW
        ]


@pytest.mark.usefixtures("attached")
def test_a_next_hop_that_is_left_out_for_its_neighbour(net: Anycast) -> None:
    """With fib_multipath_use_neigh the data path has the others, with their new weights."""
    net.sysctl("net.ipv4.fib_multipath_use_neigh", 1)
    net.ns.ip("neigh replace 10.0.2.99 dev e2 nud failed")
    net.ns.ip("route add 203.0.113.6/32 nexthop via 10.0.1.2 nexthop via 10.0.2.99")
    try:
        net.run("weights", "203.0.113.6/32", "10.0.1.2=3", "10.0.2.99=7")
        assert weights_of(kernel_route(net, "203.0.113.6/32")) == [3, 7]
    finally:
        net.ns.ip("route del 203.0.113.6/32")
        net.sysctl("net.ipv4.fib_multipath_use_neigh", 0)


@pytest.mark.usefixtures("attached")
def test_when_the_agent_is_gone_it_says_so(net: Anycast) -> None:
    """The kernel has the new weights then, the data path has not: exit status 2."""
    net.kill_agent()
    done = net.run("weights", VIP[4], "10.0.1.2=7", status=2)
    assert len(done.lines) == 1
    assert "the data path not yet" in done.stderr
    assert "xdpecmp status" in done.stderr
    assert weights_of(kernel_route(net, VIP[4])) == [7, *NEW[1:]]
