"""The agent dies, comes back, and goes when what it serves goes; every request is answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from testbed.waiting import wait_until
from tests.net.small import Small
from tests.net.topology import DEADLINE, VIP_PREFIX, Anycast, has_ended
from tests.net.traffic import Load, Servers
from xdpecmp.netlink import wire
from xdpecmp.netlink.links import parse_link
from xdpecmp.observe.state import RouteState
from xdpecmp.program import compiler, image

pytestmark = pytest.mark.root

FLOWS = 60
RTM_NEWLINK = 16
RTMGRP_LINK = 1


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 2, 1)) as made:
        yield made


@contextmanager
def loaded(servers: Servers) -> Iterator[Load]:
    """Requests over both families."""
    with (
        servers.flows(4, FLOWS) as ipv4,
        servers.flows(6, FLOWS) as ipv6,
        Load(servers, [*ipv4, *ipv6]) as load,
    ):
        yield load


def unharmed(load: Load) -> bool:
    """Nothing lost, no flow moved."""
    return load.lost == 0 and not any(load.moves)


def counters(net: Anycast) -> dict[str, int]:
    """Packets by reason, and by next hop."""
    stats = net.json("stats")
    found: dict[str, int] = stats["reasons"]
    return found | {row["via"]: row["packets"] for row in stats["nexthops"]}


def test_attaching_and_detaching_under_load(net: Anycast, servers: Servers) -> None:
    with loaded(servers) as load:
        for mode in ("native", "generic"):
            net.attach("c0", "--mode", mode)
            load.wait_for_rounds()
            assert counters(net)["FORWARDED"] > 0
            net.detach()
            load.wait_for_rounds()
    assert unharmed(load)
    assert not net.remains()


def test_killed_and_attached_again(net: Anycast, servers: Servers) -> None:
    """Without an agent the lease runs out and Linux takes over, with the same answers; the next
    `attach` goes on where it ended. Each request of the load is counted, once."""
    net.attach("c0", "--mode", "native")
    before = counters(net)
    with loaded(servers) as load:
        net.kill_agent()
        wait_until(lambda: net.reason("LEASE_EXPIRED") > 0, "lease ran out", DEADLINE)
        load.wait_for_rounds()
        forwarded = net.reason("FORWARDED")
        load.wait_for_rounds()
        assert net.reason("FORWARDED") == forwarded
        status = net.json("status")
        assert status["agent_pid"] is None
        assert status["lease_s"] == 0
        dead = counters(net)

        net.attach("c0", "--mode", "native")
        load.wait_for_rounds()
        alive = counters(net)
    assert unharmed(load)

    assert net.json("status")["agent_pid"]
    assert all(alive[name] >= dead[name] for name in dead)
    assert alive["FORWARDED"] - dead["FORWARDED"] >= 2 * FLOWS
    after = counters(net)
    verdicts = ("FORWARDED", "LEASE_EXPIRED", "PARTIAL_CHECKSUM")
    counted = sum(after[name] - before[name] for name in verdicts)
    # ARP and neighbour discovery too are counted as LEASE_EXPIRED while it is out
    assert counted >= sum(len(answers) for answers in load.rounds)
    net.detach()


def programs_seen(events: socket.socket, ifindex: int) -> list[int]:
    """The XDP program that each link event which waits has for a device, 0 for none."""
    seen = []
    with suppress(BlockingIOError):
        while True:
            datagram = events.recv(1 << 16)
            for kind, _, start, end in wire.messages(datagram):
                if kind == RTM_NEWLINK:
                    link = parse_link(datagram[start + wire.HEADER_SIZE : end])
                    seen += [link.xdp_prog_id] if link.ifindex == ifindex else []
    return seen


def test_upgrading_under_load(net: Anycast, servers: Servers) -> None:
    """A second `attach`: another program and another agent, no packet misses either."""
    net.attach("c0", "--mode", "native")
    before, status = counters(net), net.json("status")
    with net.ns.enter():
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with events:
        events.bind((0, RTMGRP_LINK))
        events.setblocking(False)
        with loaded(servers) as load:
            for _ in range(2):
                net.attach("c0", "--mode", "native")
            load.wait_for_rounds()
        seen = programs_seen(events, net.ns.ifindex("c0"))
    assert len(set(seen)) >= 2
    assert 0 not in seen, "for a moment there was no program"
    after, now = counters(net), net.json("status")
    assert unharmed(load)
    assert now["interfaces"][0]["prog_id"] == net.program_id("c0")
    assert now["interfaces"][0]["prog_id"] != status["interfaces"][0]["prog_id"]
    assert now["agent_pid"] != status["agent_pid"]
    requests = sum(len(answers) for answers in load.rounds)
    verdicts = ("FORWARDED", "PARTIAL_CHECKSUM")
    assert sum(after[name] - before[name] for name in verdicts) == requests
    net.detach()


# --- what a hash policy needs built -------------------------------------------------------------


def forget_what_was_built() -> None:
    for path in image.CACHE.glob("deep-*.json"):
        path.unlink(missing_ok=True)


def build_deep(net: Anycast) -> int:
    """Set a policy whose program was never built here; returns the compiler's process number."""
    agent = net.instance.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)  # so that no other test builds it before this agent looks
    for family in ("ipv4", "ipv6"):
        net.sysctl(f"net.{family}.fib_multipath_hash_policy", 3)
    net.ns.ip(f"link set c0 alias {os.urandom(4).hex()}")  # an event, to be followed at once
    forget_what_was_built()
    os.kill(agent, signal.SIGCONT)
    found: list[str] = []

    def runs() -> bool:
        command = ["pgrep", "-P", str(agent), "-f", compiler.__name__]
        found[:] = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.split()
        return bool(found) and "libbcc" in Path("/proc", found[0], "maps").read_text()

    wait_until(runs, "the compiler runs", DEADLINE)
    return int(found[0])


def weights_of(route: RouteState) -> list[int]:
    return [path.weight for path in route.paths]


def test_a_build_keeps_nothing_waiting(net: Anycast, servers: Servers) -> None:
    """However long it takes the agent follows; what needs the program passes to Linux till then."""
    net.attach("c0", "--mode", "native")
    with loaded(servers) as load:
        pid = build_deep(net)
        os.kill(pid, signal.SIGSTOP)
        net.wait_for_status(policy4=3, policy6=3)
        net.replace_routes((3, 1))
        for prefix in VIP_PREFIX.values():
            net.wait_for_route(prefix, lambda r: r and weights_of(r) == [3, 1], prefix)
        load.wait_for_rounds()
        passed = net.reason("POLICY_UNSUPPORTED")
        load.wait_for_rounds()
        assert net.reason("POLICY_UNSUPPORTED") - passed >= 2 * FLOWS
        os.kill(pid, signal.SIGCONT)

        def all_is_forwarded() -> bool:
            before = net.reason("FORWARDED")
            load.wait_for_rounds()
            return net.reason("FORWARDED") - before >= 2 * FLOWS

        wait_until(all_is_forwarded, "the program in use", DEADLINE)
    assert load.lost == 0
    net.policy(0)
    net.detach()


def test_attaching_waits_for_a_build(net: Anycast, servers: Servers) -> None:
    """No packet meets a program that cannot do what the policy asks for."""
    net.policy(3)
    forget_what_was_built()
    with loaded(servers) as load:
        net.attach("c0", "--mode", "native")
        load.wait_for_rounds()
    assert net.reason("FORWARDED") >= 2 * FLOWS
    assert net.reason("POLICY_UNSUPPORTED") == 0
    assert unharmed(load)
    net.detach()
    net.policy(0)


@pytest.mark.parametrize("end", ["told", "killed"])
def test_an_agent_that_ends_leaves_no_compiler(net: Anycast, end: str) -> None:
    net.attach("c0", "--mode", "native")
    pid = build_deep(net)
    os.kill(pid, signal.SIGSTOP)
    descriptor = os.pidfd_open(pid)
    try:
        if end == "told":
            net.instance.stop_agent()
        else:
            net.kill_agent()
        wait_until(lambda: has_ended(descriptor), "the compiler ended", DEADLINE)
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
        net.detach()
        net.policy(0)


# --- the end ------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[Small]:
    with Small() as made:
        yield made


@pytest.fixture
def agent(small: Small) -> Iterator[int]:
    """The agent of an instance on both interfaces."""
    done = small.run("attach", "in0", "in1")
    assert done.stdout == ""
    descriptor = small.agent()
    yield descriptor
    os.close(descriptor)


def test_the_namespace_is_deleted(small: Small, agent: int) -> None:
    small.ns.close()
    wait_until(lambda: small.gone(agent), "everything gone", DEADLINE)


def test_the_last_interface_is_deleted(small: Small, agent: int) -> None:
    """It may come back: see test_reattach. `detach` ends the waiting."""
    for name, left in (("in0", ["in1"]), ("in1", [])):
        small.ns.ip(f"link del {name}")
        wait_until(
            lambda left=left: [each["ifname"] for each in small.status()["interfaces"]] == left,
            f"{left} left",
            DEADLINE,
        )
    assert [each["ifname"] for each in small.json("status")["missing"]] == ["in0", "in1"]
    assert not has_ended(agent)
    small.detach()
    assert small.gone(agent)


def test_the_last_program_is_removed_by_somebody(small: Small, agent: int) -> None:
    for name in ("in0", "in1"):
        small.ns.ip(f"link set dev {name} xdpgeneric off")
    wait_until(lambda: small.gone(agent), "everything gone", DEADLINE)


def test_terminated_it_leaves_the_data_path(small: Small, agent: int) -> None:
    """As for an upgrade of the package: SIGTERM to the agent, then `attach`."""
    small.instance.stop_agent()
    wait_until(lambda: has_ended(agent), "agent ended", DEADLINE)
    assert small.program_id("in0")
    assert small.json("status")["agent_pid"] is None
    small.run("attach", "in0")
    assert small.json("status")["agent_pid"]
    assert [each["ifname"] for each in small.json("status")["interfaces"]] == ["in0", "in1"]


def test_two_namespaces_do_not_disturb_one_another(
    net: Anycast, servers: Servers, small: Small, agent: int
) -> None:
    net.attach("c0", "--mode", "native")
    mine, theirs = net.json("status"), small.json("status")
    assert mine["agent_pid"] != theirs["agent_pid"]
    with loaded(servers) as load:
        small.detach()
        assert small.gone(agent)
        load.wait_for_rounds()
        small.run("attach", "in0")
        load.wait_for_rounds()
        small.kill_agent()
        load.wait_for_rounds()
    assert unharmed(load)
    after = net.json("status")
    for key in ("agent_pid", "interfaces", "routes4", "routes6", "groups"):
        assert after[key] == mine[key]
    net.detach()
    assert not net.remains()
    assert small.program_id("in0")
