"""A server's end of a veth that takes no redirected frames: its packets are Linux's, until it does.

Whoever redirects into such a device loses the frame without a trace.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.topology import VIP_PREFIX, Anycast
from tests.net.traffic import Answer, Flow, Servers, by_server

pytestmark = pytest.mark.root

FLOWS = 60
FAMILIES = (4, 6)


@pytest.fixture
def net() -> Iterator[Anycast]:
    """Server 1 has GRO off."""
    with Anycast((1, 2)) as made:
        gro(made, "off")
        yield made


@pytest.fixture
def servers(net: Anycast) -> Iterator[Servers]:
    with Servers(net) as made:
        yield made


def gro(net: Anycast, state: str) -> None:
    net.servers[0].run("ethtool", "-K", "eth0", "gro", state)


def wait_for_state(net: Anycast, state: str) -> None:
    """Until server 1's next hops are in that state."""
    for family in FAMILIES:
        net.wait_for_route(
            VIP_PREFIX[family],
            lambda route: route and [path.state for path in route.paths] == [state, "up"],
            f"next hop {state}",
        )


def test_native(net: Anycast, servers: Servers) -> None:
    with servers.flows(4, FLOWS) as ipv4, servers.flows(6, FLOWS) as ipv6:
        flows = [*ipv4, *ipv6]
        recorded = servers.all_answers(flows)
        share = by_server(recorded)
        done = net.attach("c0", "--mode", "native")
        (note,) = [line for line in done.lines if "e1" in line]
        assert note.startswith("note: what leaves by e1 passes to Linux")
        assert "gro on" in note
        wait_for_state(net, "egress_no_xdp")
        assert asked(net, servers, flows, recorded) == {
            "FORWARDED": share[2],
            "EGRESS_NO_XDP": share[1],
        }

        for state, name in (("on", "up"), ("off", "egress_no_xdp"), ("on", "up")):
            gro(net, state)
            wait_for_state(net, name)
        assert asked(net, servers, flows, recorded) == {"FORWARDED": len(flows)}


def test_generic_needs_nothing_of_the_egress(net: Anycast, servers: Servers) -> None:
    with servers.flows(4, FLOWS) as ipv4, servers.flows(6, FLOWS) as ipv6:
        flows = [*ipv4, *ipv6]
        recorded = servers.all_answers(flows)
        done = net.attach("c0", "--mode", "generic")
        assert not [line for line in done.lines if "e1" in line]
        assert asked(net, servers, flows, recorded) == {"FORWARDED": len(flows)}


def asked(
    net: Anycast, servers: Servers, flows: list[Flow], recorded: list[Answer]
) -> dict[str, int]:
    """Ask on all flows, expect the recorded answers, and return which verdicts were counted."""
    names = ("FORWARDED", "EGRESS_NO_XDP", "NEIGHBOUR", "PARTIAL_CHECKSUM", "MTU")
    before = {name: net.reason(name) for name in names}
    assert servers.all_answers(flows) == recorded
    moved = {name: net.reason(name) - before[name] for name in names}
    return {name: packets for name, packets in moved.items() if packets}
