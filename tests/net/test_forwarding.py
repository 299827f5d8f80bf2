"""The same server as before: what Linux alone chose is what XDP chooses, packet by packet.

The split of the flows, their TTL and the counters are compared with real sockets at both ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from tests.net.tcp import streams
from tests.net.topology import SEED, Anycast, gateway
from tests.net.traffic import FRAME, Answer, Flows, Servers, by_server, chance
from xdpecmp.hashing import bounds, select

pytestmark = pytest.mark.root

WEIGHTS = (1, 2, 5)
FLOWS = 300
CASES = [(family, policy) for family in (4, 6) for policy in (0, 1)]
CASE_IDS = [f"IPv{family} policy {policy}" for family, policy in CASES]


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast(WEIGHTS) as made:
        yield made


Recorded = dict[tuple[int, int], list[Answer]]


@pytest.fixture(scope="module")
def recorded(net: Anycast, servers: Servers, flows: Flows) -> Recorded:
    """What Linux alone does, by family and policy."""
    answers = {}
    for family, policy in CASES:
        net.policy(policy)
        answers[family, policy] = servers.all_answers(flows[family])
    return answers


@pytest.fixture(scope="module", params=["native", "generic"])
def mode(request: pytest.FixtureRequest, net: Anycast, recorded: Recorded) -> Iterator[str]:
    net.attach("c0", "--mode", request.param)
    yield request.param
    net.detach()
    assert not net.remains()


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Counter[str]]:
    """What moved between two outputs of `stats -j`."""
    moved = {
        name: Counter(after[name]) - Counter(before[name]) for name in ("reasons", "icmp_errors")
    }
    for column in ("packets", "bytes"):
        counters = [
            Counter({row["via"]: row[column] for row in stats["nexthops"]})
            for stats in (after, before)
        ]
        moved[column] = counters[0] - counters[1]
    return moved


@pytest.mark.parametrize(("family", "policy"), CASES, ids=CASE_IDS)
def test_every_flow_keeps_its_server(
    net: Anycast,
    servers: Servers,
    flows: Flows,
    recorded: Recorded,
    mode: str,
    family: int,
    policy: int,
) -> None:
    net.policy(policy)
    before = net.json("stats")
    answers = servers.all_answers(flows[family])
    moved = difference(before, net.json("stats"))

    assert answers == recorded[family, policy]  # server, TTL and flow label
    assert {answer.ttl for answer in answers} == {63}
    assert [answer.label for answer in answers] == [flow.label for flow in flows[family]]

    by_gateway = {gateway(i, family): n for i, n in by_server(answers).items()}
    assert moved["packets"] == by_gateway
    assert moved["bytes"] == {via: n * FRAME[family] for via, n in by_gateway.items()}
    assert moved["reasons"]["FORWARDED"] == sum(moved["packets"].values()) == FLOWS
    assert not moved["icmp_errors"]


@pytest.mark.parametrize(("family", "policy"), CASES, ids=CASE_IDS)
def test_linux_goes_by_the_model(
    flows: Flows, recorded: Recorded, family: int, policy: int
) -> None:
    """The recording is no accident: xdpecmp.hashing predicts each server, and the split is fair."""
    answers = recorded[family, policy]
    predicted = [1 + select(bounds(WEIGHTS), flow.key(policy).hash(SEED)) for flow in flows[family]]
    assert [answer.server for answer in answers] == predicted
    seen = by_server(answers)
    for server, weight in enumerate(WEIGHTS, 1):
        share = Fraction(weight, sum(WEIGHTS))
        assert chance(seen[server], FLOWS, share) > Fraction(1, 10**9), (server, seen)


@pytest.mark.parametrize("family", [4, 6])
def test_a_tcp_stream_is_forwarded(net: Anycast, mode: str, family: int) -> None:
    body = bytes(range(256)) * 1000
    source = "198.18.9.9" if family == 4 else "2001:db8:c::9999"
    before = net.json("stats")
    with streams(net, family, body) as connections:
        stream = connections.connect(source)
        assert stream.read() == body
    moved = difference(before, net.json("stats"))
    # the client's side: a handshake and acknowledgements, all to one server
    assert set(moved["packets"]) == {gateway(stream.server, family)}
    assert moved["packets"].total() >= 3


def test_checksum_offload_on_a_veth_is_no_black_hole(
    net: Anycast, servers: Servers, flows: Flows, recorded: Recorded, mode: str
) -> None:
    """The default of a veth: the sender leaves its checksums to be filled in, which the skb says
    and the frame does not. Native XDP that redirects such a frame has it thrown away."""
    net.policy(0)
    before = net.json("stats")
    net.client.run("ethtool", "-K", "eth0", "tx", "on")
    try:
        for family in (4, 6):
            answers = servers.ask(flows[family][:20])
            assert answers == recorded[family, 0][:20]
            with streams(net, family, b"hello") as connections:
                assert connections.connect(flows[family][0].source).read() == b"hello"
    finally:
        net.client.run("ethtool", "-K", "eth0", "tx", "off")
    moved = difference(before, net.json("stats"))["reasons"]
    passed_or_not = "PARTIAL_CHECKSUM" if mode == "native" else "FORWARDED"
    assert moved[passed_or_not] >= 40
