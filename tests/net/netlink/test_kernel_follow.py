"""Nexthop objects and neighbours, followed event by event, are what a dump says."""

from __future__ import annotations

import random
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from testbed.netns import Namespace
from tests.net.netlink.helpers import expect
from xdpecmp.model.nexthoptable import BucketUpdate, NexthopTable
from xdpecmp.model.values import Neighbour
from xdpecmp.netlink import Changes, Kernel, Monitor

pytestmark = pytest.mark.root

SINGLES, GROUPS, RESILIENT = range(1, 6), range(10, 14), range(20, 22)
LAST = "neigh replace 10.0.0.99 lladdr 02:00:00:00:00:{:02x} nud permanent dev eth0"


def heard(router: Namespace, monitor: Monitor, number: int) -> Changes:
    """All up to a neighbour that comes last."""
    router.ip(LAST.format(number % 250))
    mac = bytes([2, 0, 0, 0, 0, number % 250])

    def ended(changes: Changes) -> bool:
        return any(each.mac == mac for each, _ in changes.neighbour_updates)

    return expect(monitor, ended)


def some_command(rng: random.Random) -> str:
    def group(ids: range) -> str:
        members = rng.sample(SINGLES, rng.randint(1, 3))
        return "/".join(f"{nhid},{rng.randint(1, 9)}" for nhid in members)

    single, kind = rng.choice(SINGLES), rng.randint(0, 5)
    if kind == 0:
        return f"nexthop del id {rng.choice([*SINGLES, *GROUPS, *RESILIENT])}"
    if kind == 1:
        return f"nexthop replace id {rng.choice(GROUPS)} group {group(SINGLES)}"
    if kind == 2:
        buckets = "type resilient buckets 8 idle_timer 0"
        return f"nexthop replace id {rng.choice(RESILIENT)} group {group(SINGLES)} {buckets}"
    device = rng.randint(0, 1)
    return f"nexthop replace id {single} via 10.0.{device}.{rng.randint(2, 9)} dev eth{device}"


@pytest.mark.parametrize("seed", range(3))
def test_nexthop_objects(router: Namespace, kernel: Kernel, seed: int) -> None:
    """Those that the kernel refuses too: they come to nothing."""
    rng = random.Random(seed)
    with kernel.monitor() as monitor:
        table = NexthopTable()
        for number in range(30):
            commands = "\n".join(some_command(rng) for _ in range(rng.randint(1, 6)))
            router.run("ip", "-force", "-batch", "-", input=commands, check=False)
            changes = heard(router, monitor, number)
            assert not changes.nexthops
            table.apply(changes.nexthop_updates)
            for group in list(table.unread):
                table.set_buckets(group, kernel.buckets(group))
            assert dict(table) == dict(kernel.nexthops()), commands


def test_buckets(router: Namespace, kernel: Kernel) -> None:
    """Of a group that changes, those that were used lately move one by one, when they are idle."""
    for i in (0, 1):
        router.ip(f"nexthop add id {i + 1} via 10.0.{i}.2 dev eth{i}")
    router.ip("nexthop add id 20 group 1/2 type resilient buckets 8 idle_timer 1")
    router.ip("route add 20.0.0.0/8 nhid 20")
    router.sysctl("net/ipv4/ip_forward", 1)
    for source in range(64):
        router.ip(f"route get 20.0.0.1 from 10.0.0.{source + 100} iif eth0")
    with kernel.monitor() as monitor:
        router.ip("nexthop replace id 20 group 1,3/2,1 type resilient buckets 8 idle_timer 1")
        table = kernel.nexthops()
        moved = 0
        # looked up once, some buckets wait for their second of idleness, others moved at once
        for number in range(250):
            changes = heard(router, monitor, number)
            buckets = [u for u in changes.nexthop_updates if isinstance(u, BucketUpdate)]
            moved += len(buckets)
            table.apply(buckets)
            if moved:
                break
        assert dict(table) == dict(kernel.nexthops())
    assert kernel.buckets(999) == {}


@pytest.mark.parametrize("seed", range(2))
def test_neighbours(router: Namespace, kernel: Kernel, seed: int) -> None:
    rng = random.Random(seed)
    known: dict[tuple[bytes, int], Neighbour] = {}
    with kernel.monitor() as monitor:
        known.update(kernel.neighbours())
        for number in range(30):
            commands = []
            for _ in range(rng.randint(1, 6)):
                to = rng.choice(["10.0.0", "fd00:"]) + (f".{rng.randint(2, 5)}")
                to = to.replace(":.", "::")
                state = rng.choice(["stale", "reachable", "permanent", "failed", "noarp"])
                lladdr = f"lladdr 02:00:00:00:01:{rng.randint(1, 9):02x}"
                action = rng.choice(["replace", "replace", "del"])
                rest = f"{lladdr} nud {state}" if action == "replace" else ""
                commands.append(f"neigh {action} {to} dev eth0 {rest}")
            router.run("ip", "-force", "-batch", "-", input="\n".join(commands), check=False)
            changes = heard(router, monitor, number)
            assert not changes.neighbours
            for each, gone in changes.neighbour_updates:
                if gone:
                    known.pop((each.address, each.ifindex), None)
                else:
                    known[each.address, each.ifindex] = each
            assert valid(known) == valid(kernel.neighbours()), commands


def valid(known: Mapping[tuple[bytes, int], Neighbour]) -> dict[tuple[bytes, int], Neighbour]:
    """An entry that is made without a MAC is not announced (__neigh_update(): notify). It is no
    reason to send anything there, so whoever doesn't know of it passes."""
    return {key: each for key, each in known.items() if each.valid}


def test_a_proxy_entry_is_no_neighbour(router: Namespace, kernel: Kernel) -> None:
    with kernel.monitor() as monitor:
        router.ip("neigh add proxy 10.0.0.77 dev eth0")
        changes = heard(router, monitor, 1)
    address = ip_address("10.0.0.77").packed
    assert all(each.address != address for each, _ in changes.neighbour_updates)
