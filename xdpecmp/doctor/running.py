"""Checks of what is attached already."""

from __future__ import annotations

from collections.abc import Iterator

from ..observe import losses
from ..observe.state import Status
from ..places import Untrusted
from .facts import Facts
from .finding import Finding, note, ok, problem


def check_running(facts: Facts) -> Iterator[Finding]:
    """The agent and its lease, and whose version runs."""
    running = facts.running
    if running.error:
        if isinstance(running.error, Untrusted):  # `attach` would be refused, too
            yield problem("instance", running.error.message, running.error.hint)
        else:
            yield note("instance", running.error.message, running.error.hint)
    status = running.status
    if status is None:
        if running.seen and not running.error:
            yield ok("instance", "nothing attached in this network namespace")
        return
    for missing in status.missing:
        yield note("missing", f"{missing.ifname} does not run our program: {missing.why}")
    names = [each.ifname for each in status.interfaces]
    again = f"xdpecmp attach {' '.join(names) or 'IFACE'}"
    if not status.agent_pid:
        what = "all passes to Linux" if not status.lease_s else "soon all passes to Linux"
        yield problem("agent", f"the agent is not running: {what}", again)
    elif not status.lease_s:
        yield problem(
            "agent",
            f"the agent (pid {status.agent_pid}) does not renew its lease: all passes to Linux",
            again,
        )
    else:
        yield ok("agent", f"agent {status.agent_pid} keeps {', '.join(names)} in sync")
    yield from _losses(status)


def _losses(status: Status) -> Iterator[Finding]:
    """What was lost behind a redirect; what Linux may have lost itself is for `stats` to show."""
    for row in status.losses:
        if row.lost or row.xdp_drops:
            yield note("losses", losses.sentence(row), f"ethtool -S {row.ifname}", row.ifname)
