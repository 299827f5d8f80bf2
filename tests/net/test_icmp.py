"""ICMP errors reach the server whose packet they are about, so that path MTU discovery works.

A hop with a narrow link answers the servers' large TCP segments with "fragmentation needed" or
"packet too big". Under hash policy 1 Linux alone sends those to whichever server the hop's own
address hashes to.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.waiting import wait_until
from tests.net.tcp import Stream, Streams, reflects_labels, streams, too_big_errors
from tests.net.topology import DEADLINE, Anycast

pytestmark = pytest.mark.root

BODY = bytes(range(256)) * 400
COUNTER = {4: "V4_FRAG_NEEDED", 6: "V6_PACKET_TOO_BIG"}
CASES = [(family, policy) for policy in (0, 1) for family in (4, 6)]


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 1), hop=True) as made:
        yield made


@pytest.fixture(scope="module", params=["native", "generic"])
def mode(request: pytest.FixtureRequest, net: Anycast) -> str:
    net.attach("c0", "--mode", request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def fresh() -> Iterator[int]:
    """Numbers for addresses of the client's that nobody used: a server remembers a path MTU."""
    return iter(range(1, 0xFFFF))


def connect(connections: Streams, fresh: Iterator[int]) -> Stream:
    """A stream from a new address; chance decides from which server."""
    number = next(fresh)
    ipv4 = f"198.18.{16 + number // 250}.{1 + number % 250}"
    return connections.connect(ipv4 if connections.family == 4 else f"2001:db8:c::3:{number:x}")


def errors(net: Anycast, family: int) -> list[int]:
    """Received by each server so far."""
    return [too_big_errors(server, family) for server in net.servers]


def received_since(net: Anycast, family: int, before: list[int]) -> dict[int, int]:
    """Errors by server, where there were any."""
    now = errors(net, family)
    return {i: n - b for i, (n, b) in enumerate(zip(now, before, strict=True), 1) if n != b}


MOST = 64
"""Streams within which both servers have their turn, except one time in 2^63."""


@pytest.mark.parametrize("family", [4, 6])
def test_linux_alone_sends_them_astray(net: Anycast, fresh: Iterator[int], family: int) -> None:
    """The control: this is what the test below would see if nothing were done about it."""
    net.policy(1)
    reached: set[int] = set()
    owners: set[int] = set()
    with streams(net, family, BODY) as connections:
        while len(owners) < 2:
            before = errors(net, family)
            owners.add(connect(connections, fresh).server)
            wait_until(
                lambda b=before: bool(received_since(net, family, b)), "an ICMP error", DEADLINE
            )
            reached |= received_since(net, family, before).keys()
            assert len(connections.opened) < MOST
    assert len(reached) == 1


@pytest.mark.parametrize(("family", "policy"), CASES)
def test_they_follow_their_flow(
    net: Anycast, mode: str, fresh: Iterator[int], family: int, policy: int
) -> None:
    if (family, policy) == (6, 0) and not reflects_labels(net.servers[0]):
        pytest.skip("this kernel's servers begin with a label of their own: Linux errs likewise")
    net.policy(policy)
    counted = net.json("stats")["icmp_errors"]
    start = errors(net, family)
    owners: set[int] = set()
    with streams(net, family, BODY) as connections:
        while len(owners) < 2:
            before = errors(net, family)
            stream = connect(connections, fresh)
            owners.add(stream.server)
            assert stream.read() == BODY
            assert received_since(net, family, before).keys() == {stream.server}
            assert len(connections.opened) < MOST
    total = sum(errors(net, family)) - sum(start)
    after = net.json("stats")["icmp_errors"]
    moved = {name: after[name] - counted[name] for name in after if after[name] != counted[name]}
    assert moved == {COUNTER[family]: total}
