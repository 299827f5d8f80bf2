"""`xdpecmp weights` where a nexthop group has them: it changes, nothing else of it does, and all
routes that use it are named. Groups that somebody looks after are left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.capabilities import Since, since
from tests.net.objects import (
    FAMILIES,
    FLOWS,
    GROUP,
    WEIGHTS,
    linux_says,
    member,
    over_objects,
    restored,
    wait_for_weights,
    xdp_says,
)
from tests.net.topology import VIP_PREFIX, Anycast, gateway
from tests.net.traffic import Servers

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with over_objects() as made:
        made.attach("c0", "--mode", "native")
        yield made


def group(net: Anycast, nhid: int) -> Any:
    """As `ip` shows it, without weights."""
    (found,) = json.loads(net.ns.ip(f"-d -j nexthop show id {nhid}"))
    for each in found["group"]:
        each.pop("weight", None)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_group_changes_and_nothing_else(net: Anycast, family: int) -> None:
    change = (VIP_PREFIX[family], f"{gateway(1, family)}=4")
    with restored(net), Servers(net) as servers, servers.flows(family, FLOWS) as flows:
        before = group(net, GROUP[family])
        announced = net.json("weights", *change, "--dry-run")
        wait_for_weights(net, family, WEIGHTS)
        assert net.json("weights", *change) == announced
        assert group(net, GROUP[family]) == before
        wait_for_weights(net, family, {**WEIGHTS, 1: 4})
        assert xdp_says(net, servers, flows) == linux_says(net, flows)
    assert announced["owner"] is None
    assert announced["nexthop_group"] == {
        "id": GROUP[family],
        "resilient": False,
        "routes": 1,
        "first_routes": [VIP_PREFIX[family]],
    }


def test_all_routes_that_use_it_are_named(net: Anycast) -> None:
    more = [f"203.0.113.{i}/32" for i in range(7)]
    for prefix in more:
        net.ns.ip(f"route add {prefix} nhid {GROUP[4]}")
    net.ns.ip(f"route add 203.0.113.9/32 nhid {GROUP[4]} table 77")
    net.ns.ip("route add 203.0.113.99/32 nhid 1")
    try:
        done = net.run("weights", VIP_PREFIX[4], f"{gateway(1, 4)}=4", "--dry-run")
        assert f"nexthop group {GROUP[4]} would change, and with it 9 routes: " in done.stdout
        assert "and 4 more" in done.stdout
        told = net.json("weights", VIP_PREFIX[4], f"{gateway(1, 4)}=4", "--dry-run")
        assert told["nexthop_group"]["routes"] == 9
        assert set(told["nexthop_group"]["first_routes"]) < {*more, VIP_PREFIX[4], "203.0.113.9/32"}
    finally:
        for prefix in (*more, "203.0.113.99/32"):
            net.ns.ip(f"route del {prefix}")
        net.ns.ip("route del 203.0.113.9/32 table 77")


def test_a_resilient_group_keeps_its_buckets_and_timers(net: Anycast) -> None:
    members = "/".join(str(member(4, server)) for server in (1, 2))
    net.ns.ip(
        f"nexthop add id 50 group {members} type resilient buckets 16 idle_timer 77 "
        "unbalanced_timer 99"
    )
    net.ns.ip("route add 203.0.113.50/32 nhid 50")
    try:
        before = group(net, 50)
        done = net.run("weights", "203.0.113.50", f"{gateway(1, 4)}=3")
        assert "25.00% of the buckets move, each once it has been idle for 77 s" in done.stdout
        after = group(net, 50)
        for found in (before, after):
            found["resilient_args"].pop("unbalanced_time", None)
        assert after == before
        (shown,) = json.loads(net.ns.ip("-j nexthop show id 50"))
        assert [each.get("weight", 1) for each in shown["group"]] == [3, 1]
    finally:
        net.ns.ip("route del 203.0.113.50/32")
        net.ns.ip("nexthop del id 50")


@since(Since.WIDE_WEIGHTS)
def test_wide_weights(net: Anycast) -> None:
    with restored(net):
        net.run("weights", VIP_PREFIX[4], f"{gateway(1, 4)}=65535", f"{gateway(2, 4)}=1000")
        wait_for_weights(net, 4, {1: 65535, 2: 1000, 3: 5})
    done = net.run("weights", VIP_PREFIX[4], f"{gateway(1, 4)}=65536", status=2)
    assert "1 to 65535" in done.stderr


def test_the_same_next_hop_twice(net: Anycast) -> None:
    twice = (f"{gateway(1, 4)}=4", f"{gateway(1, 4)}%e1=5")
    done = net.run("weights", VIP_PREFIX[4], *twice, status=2)
    assert len(done.lines) == 1
    assert "same next hop: 10.0.1.2 and 10.0.1.2%e1" in done.stderr


@pytest.mark.parametrize(
    ("group_protocol", "route_protocol", "name", "advice"),
    [
        ("zebra", "bgp", "FRR's zebra", "set extcommunity bandwidth"),
        ("zebra", "196", "FRR's zebra", "static routes know no weights"),
        ("bird", "bird", "BIRD", "weight 4"),
        ("dhcp", "dhcp", "the DHCP client", "lower metric"),
    ],
)
def test_a_group_that_somebody_looks_after(
    net: Anycast, group_protocol: str, route_protocol: str, name: str, advice: str
) -> None:
    """It is said who, and what to type there; --dry-run answers all the same, --force insists."""
    members = "/".join(str(member(4, server)) for server in (1, 2))
    net.ns.ip(f"nexthop add id 60 group {members} proto {group_protocol}")
    net.ns.ip(f"route add 203.0.113.60/32 nhid 60 proto {route_protocol}")
    change = ("weights", "203.0.113.60", f"{gateway(1, 4)}=4")
    try:
        before = net.ns.ip("-d nexthop show")
        done = net.run(*change, status=2)
        assert len(done.lines) == 1
        for words in ("group 60", f"belongs to {name}", advice, "--force"):
            assert words in done.stderr
        assert "ip nexthop replace" not in done.stderr
        done = net.run(*change, "--dry-run")
        assert f"belongs to {name}" in done.stderr
        assert "would move" in done.stdout
        assert net.json(*change, "--dry-run")["owner"] == name
        assert net.ns.ip("-d nexthop show") == before
        done = net.run(*change, "--force")
        assert done.stderr.startswith("note: nexthop group 60")
        (shown,) = json.loads(net.ns.ip("-d -j nexthop show id 60"))
        assert [each.get("weight", 1) for each in shown["group"]] == [4, 1]
        assert shown["protocol"] == group_protocol
    finally:
        net.ns.ip("route del 203.0.113.60/32")
        net.ns.ip("nexthop del id 60")


def test_an_object_alone(net: Anycast) -> None:
    net.ns.ip(f"route add 203.0.113.70/32 nhid {member(4, 1)}")
    try:
        done = net.run("weights", "203.0.113.70", f"{gateway(1, 4)}=4", status=2)
        assert "no group with weights" in done.stderr
    finally:
        net.ns.ip("route del 203.0.113.70/32")
