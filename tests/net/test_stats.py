"""`xdpecmp stats` with real traffic: counters never go back, whatever happens to next hops and
agents, and what was lost behind a redirect is shown."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.waiting import wait_until
from tests.net.topology import VIP, VIP_PREFIX, Anycast, gateway
from xdpecmp.instance.instance import BPFFS
from xdpecmp.program.abi import abi_id

pytestmark = pytest.mark.root

SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for port in range(int(sys.argv[2])):
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (sys.argv[1], 1000 + port))
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 1)) as made:
        made.policy(1)
        made.attach("c0", "--mode", "native")
        yield made


def send(net: Anycast, packets: int, family: int = 4) -> int:
    """Have the client send so many, each to another port; FORWARDED then."""
    wanted = net.reason("FORWARDED") + packets
    net.client.run(sys.executable, "-c", SEND, VIP[family], str(packets))
    wait_until(lambda: net.reason("FORWARDED") >= wanted, f"{packets} packets forwarded")
    return wanted


def rows(net: Anycast) -> dict[str, Any]:
    return {row["via"]: row for row in net.json("stats")["nexthops"]}


@pytest.mark.parametrize("family", [4, 6])
def test_a_next_hop_goes_and_comes_back(net: Anycast, family: int) -> None:
    """Its device stays, its address does not, as with BGP unnumbered."""
    via = "10.0.2.77" if family == 4 else "2001:db8:2::77"
    kept = f"nexthop via {gateway(1, family)} dev e1"
    both = f"{kept} nexthop via {via} dev e2"
    net.servers[1].ip(f"addr add {via}/{24 if family == 4 else 64} dev eth0")
    prefix = VIP_PREFIX[family]
    net.ns.ip(f"route replace {prefix} {both}")
    net.wait_for_route(
        prefix,
        lambda route: (
            {path.via for path in route.paths} == {gateway(1, family), via}
            and all(path.state == "up" for path in route.paths)
        ),
        "both in use",
    )
    total = send(net, 100, family)
    before = rows(net)[via]
    assert before["packets"]
    net.ns.ip(f"route replace {prefix} via {gateway(1, family)} dev e1")

    numbers = itertools.cycle(range(256))

    def gone() -> bool:
        """A host that nobody speaks to; while it is a gateway the agent keeps it. Its place
        is free once all routes have been read again, as they are some time after a change."""
        net.ns.run("ip", "neigh", "del", via, "dev", "e2", check=False)
        net.ns.ip(f"route replace blackhole 203.0.113.{next(numbers)}/32")
        return via not in rows(net)

    wait_until(gone, "the next hop let go of")
    assert net.reason("FORWARDED") == total
    net.kill_agent()
    net.run("attach", "c0")
    assert net.reason("FORWARDED") == total
    net.ns.ip(f"route replace {prefix} {both}")
    wait_until(lambda: via in rows(net), "the next hop back")
    assert rows(net)[via] == before
    assert net.reason("FORWARDED") == total


def test_an_upgrade_to_another_layout(net: Anycast) -> None:
    send(net, 50)
    before = net.json("stats")
    pins = BPFFS / "xdpecmp" / str(net.instance.nsid)
    (pins / abi_id()).rename(pins / "earlier")
    layout = net.instance.run / f"{abi_id()}.json"
    layout.rename(layout.with_name("earlier.json"))
    net.attach("c0")
    after = net.json("stats")
    assert [path.name for path in pins.iterdir()] == [abi_id()]
    for key in ("reasons", "icmp_errors"):
        assert all(after[key][name] >= count for name, count in before[key].items())
    assert after["reasons"]["FORWARDED"] == before["reasons"]["FORWARDED"]
    assert {row["via"]: row["packets"] for row in after["nexthops"]} == {
        row["via"]: row["packets"] for row in before["nexthops"]
    }
    send(net, 50)


# --- losses --------------------------------------------------------------------------------------


def devices(net: Anycast) -> dict[str, Any]:
    return {row["ifname"]: row for row in net.json("stats")["devices"]}


def taken(net: Anycast, device: str) -> int:
    """Redirected frames that the veth has taken, by its own count."""
    text = net.ns.run("ethtool", "-S", device).stdout
    rows = (line.split(": ") for line in text.splitlines() if "xdp_xmit:" in line)
    return sum(int(value) for _, value in rows)


def test_nothing_is_said_to_be_lost_that_is_not(net: Anycast) -> None:
    send(net, 500)
    send(net, 100, 6)
    found = devices(net)
    assert found.keys() >= {"c0", "e1", "e2"}
    assert not any(found[name]["lost"] for name in ("c0", "e1", "e2"))
    assert "DEVICE" not in net.run("stats").stdout
    assert net.json("status")["losses"] == []


def test_a_veth_whose_peer_takes_no_frames_any_more(net: Anycast) -> None:
    """Until the agent has heard of it, what is forwarded there is lost, and no device says so.

    The agent is stopped meanwhile, or it would be a matter of luck whether any packet is lost.
    """
    net.ns.ip(f"route replace {VIP_PREFIX[4]} via {gateway(1, 4)} dev e1")
    net.wait_for_route(VIP_PREFIX[4], lambda route: route.kind == "single", "by e1 alone")
    send(net, 100)
    agent = net.instance.agent_pid()
    assert agent
    before = devices(net)["e1"]["lost"], net.reason("FORWARDED"), taken(net, "e1")
    os.kill(agent, signal.SIGSTOP)
    try:
        net.servers[0].run("ethtool", "-K", "eth0", "gro", "off")
        send(net, 40)
    finally:
        os.kill(agent, signal.SIGCONT)
    sent = net.reason("FORWARDED") - before[1]
    lost = sent - (taken(net, "e1") - before[2])
    assert lost > 0
    assert devices(net)["e1"]["lost"] - before[0] == lost
    text = net.run("stats").stdout
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("e1 ")] == [
        ["e1", f"{before[0] + lost}"]
    ]
    (row,) = [row for row in net.json("status")["losses"] if row["ifname"] == "e1"]
    assert row["lost"] == before[0] + lost
    assert "packets forwarded to it were not sent" in net.run("status").stdout
    (said,) = [
        found
        for found in json.loads(net.run("doctor", "c0", "-j").stdout)
        if found["check"] == "losses" and found["interface"] == "e1"
    ]
    assert said["fix"] == "ethtool -S e1"
    # and it stays, whatever is attached next
    net.servers[0].run("ethtool", "-K", "eth0", "gro", "on")
    net.attach("c0")
    send(net, 100)
    assert devices(net)["e1"]["lost"] == before[0] + lost


def test_generic_mode_says_nothing_of_veths(net: Anycast) -> None:
    """There frames are sent as Linux's own are: what was lost before is still shown."""
    before = devices(net)
    net.run("attach", "c0", "--mode", "generic")
    net.ns.ip(f"route replace {VIP_PREFIX[4]} via {gateway(2, 4)} dev e2")
    net.wait_for_route(
        VIP_PREFIX[4],
        lambda route: route.paths[0].dev == "e2" and route.paths[0].state == "up",
        "by e2",
    )
    send(net, 200)
    now = devices(net)
    assert now["e2"]["lost"] is None
    assert now["e1"]["lost"] == before["e1"]["lost"]
    net.run("attach", "c0", "--mode", "native")
    send(net, 200)
    assert devices(net)["e2"]["lost"] == 0
