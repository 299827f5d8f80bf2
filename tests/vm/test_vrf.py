"""A router's interfaces in a VRF: Linux routes by the VRF's table, and everything is left to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.topology import SOURCES, VIP_PREFIX, Anycast, batch
from tests.vm.asking import asked, flows_and_answers
from tests.vm.devices import require_kind


@pytest.fixture
def net() -> Iterator[Anycast]:
    """One server; the router's devices are in the VRF "blue", and so are its routes."""
    require_kind("vrf")
    with Anycast((1,), seed=None) as made:
        batch(
            made.ns,
            "link add blue type vrf table 10",
            "link set blue up",
            "link set c0 master blue",
            "link set e1 master blue",
            "addr replace 2001:db8::1/64 dev c0",  # IPv6 addresses go on the way into a VRF
            "addr replace 2001:db8:1::1/64 dev e1",
            f"route replace {SOURCES[4]} via 10.0.0.2 vrf blue",
            f"route replace {SOURCES[6]} via 2001:db8::2 vrf blue",
            f"route replace {VIP_PREFIX[4]} via 10.0.1.2 vrf blue",
            f"route replace {VIP_PREFIX[6]} via 2001:db8:1::2 vrf blue",
        )
        yield made


def test_all_passes_to_linux(net: Anycast) -> None:
    with flows_and_answers(net) as (servers, flows, recorded):
        done = net.run("attach", "c0")
        assert [line for line in done.lines if "c0 belongs to another device" in line]
        counted = asked(net, servers, flows, recorded)
        assert counted.keys() == {"INTERFACE"}
        assert counted["INTERFACE"] >= len(flows)  # neighbour discovery comes in there too
