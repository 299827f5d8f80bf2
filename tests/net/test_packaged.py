"""What works at all works with the libraries that the supported distributions package."""

from __future__ import annotations

import pytest

from testbed.waiting import wait_until
from tests.net.small import Small
from tests.net.topology import DEADLINE
from tests.packaged import DISTRIBUTIONS, install


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_attach_show_and_detach(name: str) -> None:
    environment = install(name)
    with Small() as router:
        router.ns.ip("addr add 10.5.0.1/24 dev in0")
        router.peer.ip("addr add 10.5.0.2/24 dev in0")
        router.ns.ip("route add 203.0.113.0/24 via 10.5.0.2")
        router.ns.run("nft", "add table inet t")
        router.ns.run("nft", "add chain inet t c { type filter hook forward priority 0 ; }")
        router.run("attach", "in0", "in1", env=environment)
        wait_until(lambda: "managed" in router.ns.ip("neigh show dev in0"), "managed", DEADLINE)
        for command in ("status", "routes", "stats", "verify -j"):
            assert router.run(*command.split(), env=environment).stdout
        asked = "explain 203.0.113.7 from 10.6.0.1 iif in1"
        assert "203.0.113.0/24" in router.run(*asked.split(), env=environment).stdout
        assert "agent" in router.run("doctor", "in0", env=environment).stdout
        router.run("detach", "--all", env=environment)
        assert router.remains() == []
