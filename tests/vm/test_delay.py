"""A slow network, and addresses on dummy devices: as in a test bed or behind a routing daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.capabilities import NATIVE, Since, kernel_has
from tests.net.tcp import streams, too_big_errors
from tests.net.topology import SEED, VIP_PREFIX, Anycast, batch
from tests.vm.devices import require_kind, require_netem

BODY = bytes(range(256)) * 100
DELAY = "20ms"
STREAMS = 4
COUNTER = {4: "V4_FRAG_NEEDED", 6: "V6_PACKET_TOO_BIG"}
ROUTER = "192.0.2.1"
WEIGHTS = (1, 1) if kernel_has(Since.HASH_SEED) else (1,)


@pytest.fixture(scope="module", params=[NATIVE, "generic"])
def net(request: pytest.FixtureRequest) -> Iterator[Anycast]:
    """Everybody's anycast address is on a dummy device, and so is the router's own."""
    require_kind("dummy")
    require_netem()
    with Anycast(WEIGHTS, hop=True, seed=SEED if len(WEIGHTS) > 1 else None) as made:
        for server in made.servers:
            batch(
                server,
                *(f"addr del {prefix} dev lo" for prefix in VIP_PREFIX.values()),
                "link add anycast type dummy",
                "link set anycast up",
                *(f"addr add {prefix} dev anycast" for prefix in VIP_PREFIX.values()),
            )
            server.run(*f"tc qdisc add dev eth0 root netem delay {DELAY}".split())
        made.near.run(*f"tc qdisc add dev eth1 root netem delay {DELAY}".split())
        batch(
            made.ns,
            "link add loopback0 type dummy",
            "link set loopback0 up",
            f"addr add {ROUTER}/32 dev loopback0",
        )
        made.policy(1)
        made.attach("c0", "--mode", request.param)
        yield made


@pytest.mark.parametrize("family", [4, 6])
def test_path_mtu_discovery_over_a_slow_link(net: Anycast, family: int) -> None:
    """Under hash policy 1, where Linux alone lets the errors go astray."""
    with net.view() as view, streams(net, family, BODY) as connections:
        before = view.stats().icmp_errors[COUNTER[family]]
        for number in range(1, STREAMS + 1):
            source = f"198.18.16.{number}" if family == 4 else f"2001:db8:c::3:{number:x}"
            stream = connections.connect(source)
            assert stream.read() == BODY
            assert too_big_errors(net.servers[stream.server - 1], family)
        assert view.stats().icmp_errors[COUNTER[family]] - before >= STREAMS


def test_the_routers_own_address(net: Anycast) -> None:
    before = net.reason("ROUTE_LOCAL")
    net.near.run("ping", "-c", "1", "-W", "10", ROUTER)
    assert net.reason("ROUTE_LOCAL") == before + 1
