"""The run: build, attach, ask, transfer, judge, clean up, and say what is going on."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter

from rich.console import Console

from ..errors import NotPermitted
from . import fastpath
from .interrupts import Interrupts
from .narrator import Narrator
from .report import Report, Transfer, shares
from .topology import FAMILIES, INGRESS, NARROW_MTU, WEIGHTS, Family, Topology
from .traffic import BODY_SIZE, fetch, fetch_from_all, servers

# A fair 1:2 hash leaves one server out of this many draws once in ten million runs.
_MOST_TRANSFERS = 40


def run(
    console: Console,
    *,
    requests: int = 300,
    policy: int = 0,
    attach: bool = True,
    keep: bool = False,
) -> Report:
    """Run the demo and return its figures; everything made is removed whatever happens.

    `attach=False` leaves the forwarding to Linux, whose answers must be the same under hash policy
    0; under policy 1 it sends ICMP errors astray. `keep` waits for Ctrl-C before cleaning up. A
    signal ends the run with SystemExit, cleaned up.
    """
    if os.geteuid() != 0:
        raise NotPermitted("making network namespaces for the demo")
    report = Report(requests, policy)
    say = Narrator(console)
    interrupts = Interrupts()
    with interrupts.handled(), contextlib.ExitStack() as cleanup:
        say.heading("Two servers, one address, weights " + ":".join(map(str, WEIGHTS.values())))
        net = cleanup.enter_context(Topology(policy))
        say.topology(net)
        cleanup.enter_context(servers(net, list(WEIGHTS)))
        if attach:
            say.command("xdpecmp", "-n", net.names["router"], "attach", INGRESS)
            started = time.monotonic()
            cleanup.enter_context(fastpath.attached(net.names["router"], INGRESS))
            say.line(f"In sync after {time.monotonic() - started:.1f} s.")
            report.left_to_linux = fastpath.multipath_passes(net.names["router"])
            say.left_to_linux(report)
        else:
            say.line("Not attached: Linux forwards alone.")
        cleanup.callback(say.line, "Cleaning up: the agent, the servers, the namespaces.")
        with interrupts.allowed():
            _split(net, say, report)
            _path_mtu(net, say, report)
            if attach:
                report.counters = fastpath.counters(net.names["router"])
                say.counters(report)
            say.verdict(report)
        if keep:
            say.kept(net)
            interrupts.wait()
    return report


def _split(net: Topology, say: Narrator, report: Report) -> None:
    """Act 1: do the weights hold?"""
    say.heading("1. Do the weights hold?")
    say.line(
        f"{report.requests} HTTP requests for each family, each from a client address of its own."
    )
    for family in FAMILIES:
        seen = dict.fromkeys(WEIGHTS, 0)
        answers = fetch_from_all(net, family, family.sources[: report.requests])
        errors = Counter[str]()
        with contextlib.closing(answers), say.progress(family.name, report.requests) as advance:
            for answer in answers:
                advance()
                if answer.error is None and answer.server in seen:
                    seen[answer.server] += 1
                else:
                    errors[answer.error or "an answer from elsewhere"] += 1
        report.shares += shares(family.name, seen)
        report.unanswered[family.name] = report.requests - sum(seen.values())
        for error, count in errors.items():
            say.line(f"{family.name}: {count} failed: {error}")
    say.split(report)


def _path_mtu(net: Topology, say: Narrator, report: Report) -> None:
    """Act 2: does an ICMP error find the server that must see it?"""
    say.heading("2. Does a Packet Too Big find its server?")
    say.line(
        f"{BODY_SIZE:,} bytes in packets of 1500 towards a link with MTU {NARROW_MTU}. The hop "
        "sends its errors to the shared address, so the router has to pick the right server by "
        "the packet that the error quotes. A transfer whose error goes astray would hang."
    )
    for family in FAMILIES:
        missing = set(WEIGHTS)
        for source in family.sources[:_MOST_TRANSFERS]:
            transfer = _transfer(net, family, source)
            report.transfers.append(transfer)
            missing.discard(transfer.server or "")
            # An error that reached nobody means a wait for each: one such transfer says it all.
            if not missing or not transfer.complete:
                break
    say.transfers(report)


def _transfer(net: Topology, family: Family, source: str) -> Transfer:
    before = {server: net.icmp_errors(server, family) for server in WEIGHTS}
    with net.inside("client"):
        answer = fetch(family, source, "/big")
    after = {server: net.icmp_errors(server, family) for server in WEIGHTS}
    return Transfer(
        family=family.name,
        client=source,
        server=answer.server,
        received=answer.received,
        complete=answer.error is None and answer.received == BODY_SIZE,
        path_mtu=net.path_mtu(answer.server, family, source) if answer.server in WEIGHTS else None,
        icmp_errors={server: after[server] - before[server] for server in WEIGHTS},
        problem=answer.error,
    )
