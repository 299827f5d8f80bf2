"""`xdpecmp explain -j` for packets from a client to the anycast address."""

from __future__ import annotations

import json
from typing import Any

from testbed.waiting import wait_until
from tests.net.topology import DEADLINE, VIP, Anycast

CLIENT = {4: "198.18.0.5", 6: "2001:db8:c::5"}


def explain(net: Anycast, *arguments: str, status: int = 0) -> Any:
    """Once the agent has followed what the test did before."""
    wait_until(lambda: not any(net.status()["behind_s"].values()), "all followed", DEADLINE)
    return json.loads(net.run("explain", *arguments, "-j", status=status).stdout)


def words(family: int, **more: object) -> list[str]:
    pairs = [word for pair in more.items() for word in map(str, pair)]
    return [VIP[family], "from", CLIENT[family], *pairs]
