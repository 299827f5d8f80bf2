"""`xdpecmp explain` leaves no trace: in counters, in buckets, in what is pinned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.net.explaining import CLIENT, explain, words
from tests.net.topology import Anycast
from xdpecmp.model.values import Prefix
from xdpecmp.program.clock import read_jiffies

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 2, 3)) as made:
        made.attach("c0", "--mode", "native")
        yield made


def counted(net: Anycast) -> Any:
    """What a forwarded packet and one without a route count; the rest moves anyway (ARP, ND)."""
    stats = net.json("stats")
    return stats["nexthops"], stats["icmp_errors"], stats["reasons"]["NO_ROUTE"]


def test_nothing_is_counted(net: Anycast) -> None:
    before = counted(net)
    for family in (4, 6):
        explain(net, *words(family))
    explain(net, "8.8.8.8", "from", CLIENT[4])
    assert counted(net) == before


@contextmanager
def resilient_route(net: Anycast) -> Iterator[Any]:
    """198.51.101.0/24 leads to a resilient group of 8 buckets: their entries."""
    for i in (1, 2):
        net.ns.ip(f"nexthop add id {i} via 10.0.{i}.2 dev e{i}")
    try:
        net.ns.ip("nexthop add id 9 group 1/2 type resilient buckets 8 idle_timer 60")
        net.ns.ip("route add 198.51.101.0/24 nhid 9")
        net.wait_for_route(
            "198.51.101.0/24", lambda route: route and route.paths, "the resilient group"
        )
        with net.instance.open_maps() as maps:
            number = maps.group_of(Prefix.parse("198.51.101.0/24"))
            assert number is not None
            group = maps["groups"].entries[number]
            yield maps["buckets"].entries[group.first : group.first + group.count]
    finally:
        for i in (9, 1, 2):
            net.ns.ip(f"nexthop del id {i}")


def test_a_bucket_is_not_in_use_by_asking(net: Anycast) -> None:
    """Or Linux's move of an idle bucket would be put off."""
    with resilient_route(net) as buckets:
        before = [bucket.used_jiffies for bucket in buckets]
        said = explain(net, "198.51.101.1", "from", CLIENT[4])
        assert [bucket.used_jiffies for bucket in buckets] == before
    assert (said["verdict"], said["agrees"]) == ("forward", True)
    assert said["group"] == {"kind": "resilient", "buckets": 8, "bucket": said["hash"] % 8}


def test_a_bucket_that_linux_has_moved(net: Anycast) -> None:
    """Where buckets are our own Linux sees no packets of it and moves it; it is in use here, and
    stays. No contradiction."""
    net.attach("c0", "--flow-label", "ignore")
    try:
        with resilient_route(net) as buckets:
            clock = net.instance.open_clock()
            for bucket in buckets:
                bucket.used_jiffies = read_jiffies(clock) & 0xFFFFFFFF
            os.close(clock)
            group = "nexthop replace id 9 group 1,1/2,255 type resilient buckets 8 idle_timer 60"
            net.ns.ip(group)
            asked = (explain(net, "198.51.101.1", "from", f"198.18.3.{i}") for i in range(1, 100))
            said = next(each for each in asked if each["dev"] == "e1")
        assert said["kernel"]["dev"] == "e2"
        assert said["agrees"] is None
        assert "moved this bucket" in said["why"]
    finally:
        net.attach("c0", "--flow-label", "follow")


def explaining_pins(net: Anycast) -> set[str]:
    return {path.name for path in net.instance.directory.glob("*explain_*")}


def test_it_goes_with_an_upgrade_and_comes_again(net: Anycast) -> None:
    explain(net, *words(4))
    (before,) = explaining_pins(net)
    explain(net, *words(4))
    assert explaining_pins(net) == {before}, "built twice"
    net.attach("c0")
    assert not explaining_pins(net)
    explain(net, *words(4))
    assert explaining_pins(net)


def test_nothing_is_left(net: Anycast) -> None:
    explain(net, *words(4))
    net.detach()
    left = net.remains()
    net.attach("c0", "--mode", "native")
    assert left == []
