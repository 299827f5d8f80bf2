"""The JSON keys that other programs may rely on: a contract. More may be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.waiting import PATIENCE
from tests.net.topology import SEED, VIP_PREFIX, Anycast, gateway
from xdpecmp.program.abi import ICMP_ERROR_INDEX, Reason

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 3)) as made:
        made.ns.ip("route add blackhole 203.0.113.0/24")
        made.ns.ip("route add 203.0.113.1/32 via 10.0.1.2")
        made.attach("c0", "--mode", "native")
        yield made


def test_status(net: Anycast) -> None:
    status = net.json("status")
    assert status["interfaces"] == [
        {"ifname": "c0", "mode": "native", "prog_id": net.program_id("c0")}
    ]
    assert status["policy4"] == status["policy6"] == 0
    assert (status["seed"], status["seed_known"]) == (SEED, True)
    assert 0 < status["lease_s"] <= 3
    assert status["agent_pid"] == net.instance.agent_pid()
    routes = net.json("routes")
    for family, key in ((".", "routes4"), (":", "routes6")):
        assert status[key] == sum(family in route["prefix"] for route in routes)
    assert status["groups"] == sum(route["kind"] == "threshold" for route in routes)
    assert status["nexthops"] >= 5


def test_stats(net: Anycast) -> None:
    stats = net.json("stats")
    assert stats.keys() >= {"nexthops", "reasons", "icmp_errors"}
    assert stats["nexthops"]
    for row in stats["nexthops"]:
        assert row.keys() >= {"via", "dev", "packets", "bytes"}
    assert stats["reasons"].keys() == {reason.name for reason in Reason}
    assert stats["icmp_errors"].keys() == ICMP_ERROR_INDEX.keys()


def test_routes(net: Anycast) -> None:
    routes = {route["prefix"]: route for route in net.json("routes")}
    for route in routes.values():
        assert route.keys() >= {"prefix", "kind", "nexthops"}
        assert route["kind"] in {"pass", "single", "threshold", "resilient"}
        for path in route["nexthops"]:
            assert path.keys() >= {"via", "dev", "weight", "share", "state", "lladdr"}
        assert bool(route["nexthops"]) == (route["kind"] != "pass")
    for family in (4, 6):
        (shown,) = net.json("routes", VIP_PREFIX[family])
        assert shown == routes[VIP_PREFIX[family]]
        assert shown["kind"] == "threshold"
        assert [(path["dev"], path["weight"], path["share"]) for path in shown["nexthops"]] == [
            ("e1", 1, 0.25),
            ("e2", 3, 0.75),
        ]
        assert {path["state"] for path in shown["nexthops"]} == {"up"}
    assert routes["203.0.113.0/24"]["kind"] == "pass"
    assert routes["203.0.113.1/32"]["kind"] == "single"


@pytest.mark.parametrize(
    ("asked", "prefix"),
    [
        ("203.0.113.1", "203.0.113.1/32"),
        ("203.0.113.2", "203.0.113.0/24"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("198.18.7.7", "198.18.0.0/15"),
        ("2001:db8:80::80", "2001:db8:80::80/128"),
    ],
)
def test_one_route(net: Anycast, asked: str, prefix: str) -> None:
    """An address finds the route that its packets take, a prefix itself alone."""
    (route,) = net.json("routes", asked)
    assert route["prefix"] == prefix


@pytest.mark.parametrize("asked", ["203.0.113.0/25", "8.8.8.8", "2001:db8:ffff::/64"])
def test_no_such_route(net: Anycast, asked: str) -> None:
    done = net.run("routes", asked, status=2)
    assert len(done.lines) == 1
    assert asked in done.stderr
    assert "xdpecmp routes" in done.stderr


def test_weights(net: Anycast) -> None:
    change = net.json("weights", VIP_PREFIX[4], "10.0.1.2=3", "--dry-run")
    assert change.keys() >= {"prefix", "moved_share", "nexthops"}
    for row in change["nexthops"]:
        assert row.keys() >= {"via", "old_weight", "new_weight", "old_share", "new_share"}
    assert change["prefix"] == VIP_PREFIX[4]
    assert change["moved_share"] == 0.25


@pytest.mark.parametrize("command", ["status", "routes", "stats"])
def test_tables_are_for_people(net: Anycast, command: str) -> None:
    """And nothing of it is cut in a pipe."""
    done = net.run(command)
    assert done.stderr == ""
    assert "…" not in done.stdout
    wanted = {"status": "c0", "routes": "2001:db8:80::80/128", "stats": "2001:db8:2::2"}
    assert wanted[command] in done.stdout


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("arguments", ["status", "routes", "stats", "verify", "weights"])
def test_a_narrow_terminal(net: Anycast, arguments: str, width: int) -> None:
    """Whatever the width, no next hop, weight, share or count is missing, and nothing is cut."""
    if arguments == "weights":
        arguments = f"weights {VIP_PREFIX[6]} {gateway(1, 6)}=2 --dry-run"
    status, text = in_terminal(width, "-n", net.ns.name, *arguments.split())
    assert status == 0, text
    assert "…" not in text
    words = set(text.split())
    wanted = {
        "status": {"c0", "native", str(net.program_id("c0"))},
        "routes": {gateway(2, 6), "e2", "3", "75.00%", VIP_PREFIX[6]},
        "stats": {gateway(2, 6), "e2", "0"},
        "verify": {VIP_PREFIX[6], "AGREE"},
        "weights": {gateway(2, 6), "e2", "75.00%"},
    }
    assert wanted[arguments.split()[0]] <= words


def in_terminal(width: int, *arguments: str) -> tuple[int, str]:
    """Exit status and output of `xdpecmp ARGUMENTS` in a terminal of so many columns."""
    ours, theirs = os.openpty()
    environment = os.environ | {"COLUMNS": str(width), "TERM": "dumb"}
    process = subprocess.Popen(
        (sys.executable, "-m", "xdpecmp", *arguments),
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    text = b""
    with suppress(OSError):  # EIO, once the other end is closed
        while part := os.read(ours, 1 << 16):
            text += part
    os.close(ours)
    return process.wait(timeout=60 * PATIENCE), text.decode()


def test_the_state_is_what_the_attached_interfaces_meet(net: Anycast) -> None:
    """A bridge takes no redirected frames in native mode and does in generic mode. Last in this
    file except for pipes: it attaches to more."""
    net.ns.ip("link add br1 type bridge")
    net.ns.ip("addr add 10.77.0.1/24 dev br1")
    net.ns.ip("link set br1 up")
    net.ns.ip("neigh add 10.77.0.2 dev br1 lladdr 02:00:00:00:00:77 nud permanent")
    net.ns.ip("route add 203.0.113.9/32 via 10.77.0.2")
    try:
        net.wait_for_route(
            "203.0.113.9/32",
            lambda route: route and route.paths and route.paths[0].state == "egress_no_xdp",
            "native: no XDP transmit",
        )
        net.run("attach", "e1")  # auto: generic on a veth, and c0 stays as it is
        (route,) = net.json("routes", "203.0.113.9")
        assert route["nexthops"][0]["state"] == "up (generic), egress_no_xdp (native)"
        net.run("attach", "c0", "--mode", "generic")  # and e1
        (route,) = net.json("routes", "203.0.113.9")
        assert route["nexthops"][0]["state"] == "up"
    finally:
        net.detach("e1")
        net.run("attach", "c0", "--mode", "native")
        net.ns.ip("link del br1")


def test_long_tables_are_written_as_they_are_read(net: Anycast) -> None:
    """JSON stays one document, one route a line."""
    text = net.run("routes", "-j").stdout
    assert len(json.loads(text)) == len(text.splitlines()) - 2
    assert all(json.loads(line.rstrip(",")) for line in text.splitlines()[1:-1])


def test_a_reader_that_stops_reading(net: Anycast) -> None:
    """As in `xdpecmp routes | head -n 1`: no traceback, no message."""
    pipe = ("sh", "-c", '"$@" | head -n 1', "sh")
    done = net.run("routes", "-j", prefix=pipe)
    assert done.stdout == "[\n"
    assert done.stderr == ""


@pytest.mark.parametrize("option", ["", "-j"])
def test_watching_into_a_pipe(net: Anycast, option: str) -> None:
    """It goes on for as long as somebody reads, and ends as quietly as `yes | head` does."""
    command = f"{sys.executable} -m xdpecmp -n {net.ns.name} stats --watch {option} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
