"""Many changes at once, and an agent that is stopped for a while: no packet goes the old way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from testbed.waiting import wait_until
from tests.net.topology import DEADLINE, VIP_PREFIX, Anycast, gateway
from tests.net.traffic import Load, Servers

pytestmark = pytest.mark.root

FLOWS = 60
MANY = 20_000
"""Routes. Following them one by one takes some tenths of a second."""
BOTH = (1, 1)
FIRST_ALONE = (1, 0)


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast(BOTH) as made:
        replace_all(made, BOTH)
        made.attach("c0", "--mode", "native")
        yield made


@pytest.fixture
def load(net: Anycast, servers: Servers) -> Iterator[Load]:
    """Requests over both families, while both servers are next hops and all is followed."""
    replace_all(net, BOTH)
    wait_until(lambda: is_level(net), "all followed", 4 * DEADLINE)
    with (
        servers.flows(4, FLOWS) as ipv4,
        servers.flows(6, FLOWS) as ipv6,
        Load(servers, [*ipv4, *ipv6]) as load,
    ):
        yield load


def replace_all(net: Anycast, weights: Sequence[int]) -> None:
    """Have many routes lead to these servers, the anycast routes last, as a routing daemon does
    when a server comes or goes."""
    for family in (4, 6):
        hops = " ".join(
            f"nexthop via {gateway(i, family)} dev e{i} weight {weight}"
            for i, weight in enumerate(weights, 1)
            if weight
        )
        net_of = "20.{}.{}.0/24" if family == 4 else "2a00:0:{:x}:{:x}::/64"
        prefixes = [net_of.format(i >> 8, i & 0xFF) for i in range(MANY if family == 4 else 100)]
        lines = [f"route replace {prefix} {hops}" for prefix in (*prefixes, VIP_PREFIX[family])]
        net.ns.run("ip", f"-{family}", "-batch", "-", input="\n".join(lines))


def is_level(net: Anycast) -> bool:
    """Whether the data path goes by what the kernel says now."""
    status = net.status()
    return bool(
        status["lease_s"] > 0
        and status["behind_s"] == {"4": 0, "6": 0}
        and status["passed"] == []
        and status["groups"] < 3  # the old group is let go last
    )


def test_what_is_behind_passes_to_linux(net: Anycast, load: Load) -> None:
    """And is forwarded again once it is followed."""

    def passed() -> int:
        """On a slow machine the lease may run out meanwhile."""
        return net.reason("BEHIND") + net.reason("LEASE_EXPIRED")

    before, agent = passed(), net.instance.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)  # so that all changes wait at once
    try:
        replace_all(net, FIRST_ALONE)
    finally:
        os.kill(agent, signal.SIGCONT)
    wait_until(lambda: passed() > before, "some passed to Linux", DEADLINE)
    wait_until(lambda: is_level(net), "all followed", 4 * DEADLINE)
    load.wait_for_rounds()
    assert set(load.servers(-1)) == {1}
    before, forwarded = passed(), net.reason("FORWARDED")
    load.wait_for_rounds()
    assert passed() == before
    assert net.reason("FORWARDED") > forwarded
    assert load.lost == 0


@contextmanager
def stopped(net: Anycast) -> Iterator[None]:
    """The agent stands still; its lease has run out."""
    agent, expired = net.instance.agent_pid(), net.reason("LEASE_EXPIRED")
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)
    try:
        wait_until(lambda: net.reason("LEASE_EXPIRED") > expired, "lease ran out", DEADLINE)
        yield
    finally:
        os.kill(agent, signal.SIGCONT)


def test_after_a_pause_nothing_goes_the_old_way(net: Anycast, load: Load) -> None:
    """There is no lease before all that was missed is followed."""
    with stopped(net):
        replace_all(net, FIRST_ALONE)
        load.wait_for_rounds()
        begin = len(load.rounds)
    wait_until(lambda: is_level(net), "all followed", 4 * DEADLINE)
    load.wait_for_rounds()
    assert {server for i in range(begin, len(load.rounds)) for server in load.servers(i)} == {1}
    assert load.lost == 0


def test_an_upgrade_while_it_stands_still(net: Anycast) -> None:
    """It is told to end, and to go on so that it can."""
    agent = net.instance.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)
    net.attach("c0")
    assert net.instance.agent_pid() not in (None, agent)


def test_a_sysctl_that_changed_during_a_pause(net: Anycast, load: Load) -> None:
    """Of which there is no event: no packet is hashed by the old seed."""
    with stopped(net):
        net.sysctl("net.ipv4.fib_multipath_hash_seed", 99)
        load.wait_for_rounds()
        begin = len(load.rounds)
    net.wait_for_status(seed=99)
    wait_until(lambda: is_level(net), "all followed", 4 * DEADLINE)
    load.wait_for_rounds()
    assert len({tuple(load.servers(i)) for i in range(begin, len(load.rounds))}) == 1
    assert load.lost == 0
