"""Before 6.3 Linux does not tell which devices take redirected frames. What others lose without a
trace is left to Linux there, so nothing gets lost; generic mode needs no such thing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.capabilities import Since, kernel_has
from tests.net.topology import Anycast
from tests.net.traffic import Servers
from tests.vm.asking import FLOWS, asked, flows_and_answers


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    """The server does not take redirected frames."""
    with Anycast((1,), seed=None) as made:
        made.servers[0].run("ethtool", "-K", "eth0", "gro", "off")
        yield made


@pytest.mark.parametrize(
    ("mode", "verdict"), [("native", "EGRESS_NO_XDP"), ("generic", "FORWARDED")]
)
def test_nothing_is_lost(net: Anycast, mode: str, verdict: str) -> None:
    with flows_and_answers(net) as (servers, flows, recorded):
        net.attach("c0", "--mode", mode)
        assert asked(net, servers, flows, recorded) == {verdict: len(flows)}


def test_a_veth_that_would_take_them(net: Anycast) -> None:
    """Where Linux tells, it is sent frames; else it is not trusted."""
    net.servers[0].run("ethtool", "-K", "eth0", "gro", "on")
    told = kernel_has(Since.XDP_FEATURES)
    with Servers(net) as servers, servers.flows(4, FLOWS) as flows:
        recorded = servers.all_answers(flows)
        net.attach("c0", "--mode", "native")
        verdict = "FORWARDED" if told else "EGRESS_NO_XDP"
        assert asked(net, servers, flows, recorded) == {verdict: len(flows)}
