"""`xdpecmp verify`, and the short one that `attach` makes: they agree, and see when not to."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from testbed.waiting import wait_until
from tests.capabilities import Since, kernel_has
from tests.net.sabotage import rotated, sabotaged, set_policy
from tests.net.topology import SEED, VIP_PREFIX, Anycast
from xdpecmp.compile import compile_tables
from xdpecmp.model.hashkey import HashKey
from xdpecmp.netlink import Kernel
from xdpecmp.observe.quickcheck import first_disagreement

pytestmark = pytest.mark.root

FLOWS = 1500


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 2, 3)) as made:
        made.ns.ip("route add 203.0.113.1/32 via 10.0.1.2")
        made.attach("c0", "--mode", "native")
        yield made


@pytest.fixture(autouse=True)
def as_it_was(net: Anycast) -> Iterator[None]:
    yield
    net.policy(0)
    for family in ("ipv4", "ipv6"):
        net.sysctl(f"net.{family}.fib_multipath_hash_fields", 7)
    net.sysctl("net.ipv4.fib_multipath_hash_seed", SEED)
    net.wait_for_status(seed=SEED)


def verify(net: Anycast, *arguments: str, status: int = 0) -> Any:
    return json.loads(net.run("verify", *arguments, "-j", status=status).stdout)


def by_prefix(said: Any) -> dict[str, Any]:
    return {route["prefix"]: route for route in said["routes"]}


@pytest.mark.parametrize("fields", [0x7, 0x3F, 0x31, 0x1])
def test_agreement_under_policy_3(net: Anycast, fields: int) -> None:
    for family in ("ipv4", "ipv6"):
        net.sysctl(f"net.{family}.fib_multipath_hash_fields", fields)
    set_policy(net, 3)
    wait_until(
        lambda: by_prefix(verify(net, "--flows", "1"))[VIP_PREFIX[4]]["agree"] == 1,
        "the new fields at work",
    )
    routes = by_prefix(verify(net, "--flows", str(FLOWS)))
    assert routes[VIP_PREFIX[4]]["agree"] == FLOWS
    (why,) = routes[VIP_PREFIX[6]]["without_linux"]
    assert "policy 3" in why
    assert routes[VIP_PREFIX[6]]["without_linux"][why] == FLOWS


@pytest.mark.parametrize("policy", [0, 1, 2])
def test_agreement(net: Anycast, policy: int) -> None:
    set_policy(net, policy)
    said = verify(net, "--flows", str(FLOWS))
    routes = by_prefix(said)
    assert routes.keys() == set(VIP_PREFIX.values())
    for route in routes.values():
        assert (route["agree"], route["differ"]) == (FLOWS, 0)
        assert route["without_linux"] == route["no_choice"] == {}
    assert said["differences"] == []


def test_nothing_is_counted(net: Anycast) -> None:
    before = net.json("stats")["nexthops"]
    verify(net)
    assert net.json("stats")["nexthops"] == before


def test_one_route(net: Anycast) -> None:
    assert by_prefix(verify(net, VIP_PREFIX[6], "--flows", "5")).keys() == {VIP_PREFIX[6]}
    for prefix in ("203.0.113.1/32", "8.8.8.0/24"):
        done = net.run("verify", prefix, status=2)
        assert f"{prefix} is no multipath route" in done.stderr


def test_text(net: Anycast) -> None:
    done = net.run("verify", "--flows", "20")
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [
        ["PREFIX", "AGREE", "DIFFER"],
        [VIP_PREFIX[4], "20", "0"],
        [VIP_PREFIX[6], "20", "0"],
    ]


@pytest.mark.parametrize("strict", [1, 2])
def test_reverse_path_check(net: Anycast, strict: int) -> None:
    """Then only sources that lead back where they come from are drawn."""
    net.sysctl("net.ipv4.conf.c0.rp_filter", strict)
    try:
        wait_until(
            lambda: _rp_filter(net) == strict,
            "the check in the data path",
        )
        said = verify(net, VIP_PREFIX[4])
    finally:
        net.sysctl("net.ipv4.conf.c0.rp_filter", 0)
        wait_until(lambda: _rp_filter(net) == 0, "no check in the data path")
    assert by_prefix(said)[VIP_PREFIX[4]]["agree"] == 100


def _rp_filter(net: Anycast) -> int:
    ifindex = net.ns.ifindex("c0")
    with net.instance.open_maps() as maps:
        found: int = maps["interfaces"].entries[ifindex].rp_filter
        return found


@pytest.mark.parametrize("kind", ["mpath", "resilient buckets 64"])
def test_nexthop_groups(net: Anycast, kind: str) -> None:
    for i in (1, 2, 3):
        net.ns.ip(f"nexthop add id {i} via 10.0.{i}.2 dev e{i}")
    net.ns.ip(f"nexthop add id 9 group 1,5/2,7/3,200 type {kind}")
    net.ns.ip("route add 198.51.100.0/24 nhid 9")
    try:
        net.wait_for_route("198.51.100.0/24", lambda route: route and route.paths, "the group")
        said = verify(net, "198.51.100.0/24", "--flows", "300")
    finally:
        net.ns.ip("route del 198.51.100.0/24")
        for i in (9, 1, 2, 3):
            net.ns.ip(f"nexthop del id {i}")
    assert by_prefix(said)["198.51.100.0/24"]["agree"] == 300


def test_a_longer_prefix_is_left_alone(net: Anycast) -> None:
    """Half of 198.51.100.0/24 leads elsewhere, and wrongly so: that does not count against it."""
    net.ns.ip(f"route add 198.51.100.0/24 {net.nexthops(4, (1, 1, 1))}")
    net.ns.ip(f"route add 198.51.100.0/25 {net.nexthops(4, (1, 2, 1))}")
    try:
        net.wait_for_route("198.51.100.0/24", lambda route: route and route.paths, "the whole")
        net.wait_for_route(
            "198.51.100.0/25", lambda route: route and route.paths[1].weight == 2, "the half"
        )
        with rotated(net, "198.51.100.0/25"):
            whole = verify(net, "198.51.100.0/24", "--flows", "200")
            half = verify(net, "198.51.100.0/25", "--flows", "200", status=1)
    finally:
        net.ns.ip("route del 198.51.100.0/25")
        net.ns.ip("route del 198.51.100.0/24")
    assert by_prefix(whole)["198.51.100.0/24"]["agree"] == 200
    assert by_prefix(half)["198.51.100.0/25"]["differ"] == 200


# --- what it sees --------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["sip_start", "sip_after_zero"])
def test_a_wrong_seed_is_seen(net: Anycast, field: str) -> None:
    """In the map, by whatever accident: IPv4 policy 0 begins at one state, IPv6 at the other."""
    family = 6 if field == "sip_start" else 4
    with sabotaged(net, field):
        said = verify(net, status=1)
        text = net.run("verify", status=1).stdout
    routes = by_prefix(said)
    if family == 4 or kernel_has(Since.GETROUTE_FLOWLABEL):
        assert routes[VIP_PREFIX[family]]["differ"] == 100
    else:  # then flows have no label, and those of TCP and UDP begin at other states
        assert 0 < routes[VIP_PREFIX[family]]["differ"] < 100
    assert routes[VIP_PREFIX[10 - family]]["agree"] == 100
    assert 0 < len(said["differences"]) <= 10
    for each in said["differences"]:
        assert each["prefix"] == VIP_PREFIX[family]
        assert each["twin_agrees"] is False
        assert each["hash"] is not None
    assert "The first differences (again: --seed " in text
    assert text.count("\nverdict") == 3
    assert verify(net)["differences"] == []


def test_wrong_next_hops_are_seen_and_seen_again(net: Anycast) -> None:
    """With the same seed, the very same flows."""
    with rotated(net):
        first = verify(net, "--seed", "5", status=1)
        again = verify(net, "--seed", "5", status=1)
    assert first == again
    assert first["seed"] == 5
    for route in by_prefix(first).values():
        assert route["differ"] == 100
    for each in first["differences"]:
        assert each["agrees"] is False
        assert each["twin_agrees"] is True


def test_an_unknown_seed(net: Anycast) -> None:
    """Nothing could be compared: that is not what was asked for."""
    net.sysctl("net.ipv4.fib_multipath_hash_seed", 0)
    net.wait_for_status(seed_known=False)
    for route in by_prefix(verify(net, "--flows", "10", status=1)).values():
        assert (route["agree"], route["no_choice"]) == (0, {"SEED_UNKNOWN": 10})


def test_no_multipath_route(net: Anycast) -> None:
    for family in (4, 6):
        net.ns.ip(f"route del {VIP_PREFIX[family]}")
    net.wait_for_status(groups=0)
    done = net.run("verify")
    net.replace_routes((1, 2, 3))
    net.wait_for_status(groups=2)
    assert done.stdout == ""
    assert "no multipath route" in done.stderr


# --- the short one of attach ---------------------------------------------------------------------


@contextmanager
def kernel_in(net: Anycast) -> Iterator[Kernel]:
    with net.ns.enter():
        kernel = Kernel()
    with kernel:
        yield kernel


@pytest.mark.parametrize("policy", [0, 1, 2, 3])
def test_the_short_check(net: Anycast, policy: int) -> None:
    """It finds nothing wrong, and a wrong seed in either family."""
    net.policy(policy)
    ifindex = net.ns.ifindex("c0")
    with kernel_in(net) as kernel:
        snapshot = kernel.snapshot()
        tables = compile_tables(snapshot, [ifindex])
        assert first_disagreement(kernel, tables, ifindex) is None
        wrong = compile_tables(snapshot, [ifindex])
        object.__setattr__(wrong, "config", wrong.config._replace(key=HashKey.of_seed(SEED + 1)))
        found = first_disagreement(kernel, wrong, ifindex, random.Random(1))
        assert found is not None
        assert str(found) in VIP_PREFIX.values()


def test_attach_is_content(net: Anycast) -> None:
    done = net.attach("c0")
    assert "chooses other next hops" not in done.stderr
