"""IPv6 routes over the same nexthop objects, one of which was asked for and then withdrawn: from
then on RTM_GETROUTE may say "unreachable" of the other, which Linux forwards."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.net.objects import GROUP, over_objects
from tests.net.topology import VIP_PREFIX, Anycast
from xdpecmp.model.values import Prefix
from xdpecmp.netlink import Kernel, Query
from xdpecmp.observe.verify import random_flow

pytestmark = pytest.mark.root

WITHDRAWN = "2001:db8:77::/48"


@pytest.fixture
def net() -> Iterator[Anycast]:
    with over_objects() as made:
        made.ns.ip(f"-6 route add {WITHDRAWN} nhid {GROUP[6]}")
        yield made


def ask_on(net: Anycast, cpus: set[int]) -> None:
    """So that those CPUs' copies of the next hops are made for the route that goes."""
    with net.ns.enter(), Kernel() as kernel:
        iif, allowed, rng = net.ns.ifindex("c0"), os.sched_getaffinity(0), random.Random(1)
        try:
            for cpu in cpus:
                os.sched_setaffinity(0, {cpu})
                for _ in range(60):
                    flow = random_flow(rng, Prefix.parse(WITHDRAWN), [], False)
                    kernel.route_get(Query(replace(flow, proto=socket.IPPROTO_UDP), iif))
        finally:
            os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("how_many", ["one CPU", "every CPU"])
def test_verify_does_not_cry_wolf(net: Anycast, how_many: str) -> None:
    allowed = os.sched_getaffinity(0)
    net.attach("c0", "--mode", "native")
    net.wait_for_route(
        VIP_PREFIX[6],
        lambda route: route and all(path.state == "up" for path in route.paths),
        "all next hops up",
    )
    # voids the copies that attach made (rt_genid_bump_ipv6()), so that others can be first
    net.ns.ip("-6 addr add 2001:db8:ff::1/128 dev lo")
    ask_on(net, {min(allowed)} if how_many == "one CPU" else allowed)
    net.ns.ip(f"-6 route del {WITHDRAWN}")
    for cpu in sorted(allowed):
        os.sched_setaffinity(0, {cpu})
        try:
            done = net.run("verify", "--flows", "40")
            said = json.loads(net.run("verify", "--flows", "40", "-j").stdout)
            again = net.attach("c0", "--mode", "native")
        finally:
            os.sched_setaffinity(0, allowed)
        (route,) = [each for each in said["routes"] if each["prefix"] == VIP_PREFIX[6]]
        assert route["differ"] == 0
        assert route["agree"] + sum(route["without_linux"].values()) == 40
        assert all("wrongly" in why for why in route["without_linux"])
        assert "detach" not in done.stdout + again.stderr
        if said["wrong_cpus"]:
            assert "It forwards right" in done.stdout
