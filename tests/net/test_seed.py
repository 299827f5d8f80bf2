"""A hash seed that Linux keeps to itself: multipath passes to Linux, or goes by one of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.capabilities import Since, since
from tests.net.topology import Anycast
from tests.net.traffic import Flow, Servers, by_server
from xdpecmp.hashing import bounds, select
from xdpecmp.instance import machine_seed

pytestmark = pytest.mark.root

WEIGHTS = (1, 2)
FLOWS = 60


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    """Its Linux hashes with a random seed that it does not tell."""
    with Anycast(WEIGHTS, seed=None) as made:
        made.policy(0)
        yield made


@pytest.fixture(scope="module")
def servers(net: Anycast) -> Iterator[Servers]:
    with Servers(net) as made:
        yield made


@pytest.fixture(scope="module")
def flows(servers: Servers) -> Iterator[dict[int, list[Flow]]]:
    with servers.flows(4, FLOWS) as ipv4, servers.flows(6, FLOWS) as ipv6:
        yield {4: ipv4, 6: ipv6}


@contextmanager
def attached(net: Anycast, *options: str) -> Iterator[str]:
    """Attached for a `with` block; gives what `attach` said."""
    yield net.attach("c0", *options).stderr
    net.detach()
    assert not net.remains()


def reasons(net: Anycast) -> Counter[str]:
    return Counter(net.json("stats")["reasons"])


@pytest.mark.parametrize("family", [4, 6])
def test_without_being_told_so_linux_decides(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int
) -> None:
    """Which moves no flow, and is counted and said."""
    linux = servers.all_answers(flows[family])
    with attached(net) as said:
        assert "multipath routes pass to Linux, since it keeps its hash seed to itself" in said
        assert servers.all_answers(flows[family]) == linux
        moved = reasons(net)
        assert moved["SEED_UNKNOWN"] == FLOWS
        status = net.status()
        assert (status["seed"], status["seed_known"], status["own_seed"]) == (None, False, False)
    assert servers.all_answers(flows[family]) == linux


@pytest.mark.parametrize("family", [4, 6])
def test_a_seed_of_our_own(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]], family: int
) -> None:
    """Each flow goes by that seed, again after another attach, upgrade and detach; Linux's answers
    are not held against it."""
    seed = machine_seed()
    predicted = [1 + select(bounds(WEIGHTS), flow.key(0).hash(seed)) for flow in flows[family]]
    for _ in range(2):
        with attached(net, "--own-seed") as said:
            assert "a hash seed of xdpecmp's own" in said
            assert "chooses other next hops" not in said
            net.attach("c0")  # an upgrade keeps to it
            answers = servers.all_answers(flows[family])
            assert [answer.server for answer in answers] == predicted
            assert reasons(net)["FORWARDED"] == FLOWS
            status = net.status()
            assert (status["seed"], status["seed_known"], status["own_seed"]) == (seed, False, True)
            verified = net.run("verify", "-j", "--flows", "10")
            assert "Linux keeps its hash seed to itself" in verified.stdout
            net.attach("c0", "--no-own-seed")
            assert net.status()["own_seed"] is False
    assert len(by_server(answers)) == len(WEIGHTS)


def test_the_agent_keeps_to_it(
    net: Anycast, servers: Servers, flows: dict[int, list[Flow]]
) -> None:
    """When it reads the settings again, too."""
    with attached(net, "--own-seed"):
        net.policy(1)
        net.wait_for_status(policy4=1, policy6=1, own_seed=True, seed=machine_seed())
        predicted = [
            1 + select(bounds(WEIGHTS), flow.key(1).hash(machine_seed())) for flow in flows[4]
        ]
        assert [answer.server for answer in servers.all_answers(flows[4])] == predicted
    net.policy(0)


@since(Since.HASH_SEED)
def test_linuxs_own_is_better(net: Anycast) -> None:
    """Where it becomes known, it is what counts."""
    with attached(net, "--own-seed"):
        net.sysctl("net.ipv4.fib_multipath_hash_seed", 77)
        net.wait_for_status(seed=77, seed_known=True, own_seed=False)
    net.sysctl("net.ipv4.fib_multipath_hash_seed", 0)
