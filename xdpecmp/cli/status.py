"""`xdpecmp status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from ..compile.ownseed import IN_WORDS
from ..instance.instance import FLOW_LABEL_TEXT, Instance
from ..netlink import Kernel
from ..observe import losses
from ..observe.bypass import sentences
from ..observe.columns import Columns
from ..observe.hashkey import KNOWN
from ..observe.state import KeyInForce, Status
from ..observe.view import View
from . import asjson, output
from .common import json_option


@click.command("status")
@json_option
def command(as_json: bool) -> None:
    """Show what is attached and how it is doing."""
    instance = Instance()
    with Kernel() as kernel, instance.open_maps() as maps:
        links = kernel.links()
        filters = kernel.filters(links.values())
        lost = losses.report(kernel, maps, instance.program_ids(), instance.run)
        status = View(maps, links).status(instance, filters, lost)
    if as_json:
        output.print_json(asjson.status(status))
        return
    output.print_table(
        (asdict(each) for each in status.interfaces),
        Columns({"ifname": "INTERFACE", "mode": "MODE", "prog_id": "PROGRAM"}),
    )
    click.echo()
    for name, text in _lines(status):
        click.echo(f"{name:<10}{output.placed(text)}")


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    for missing in status.missing:
        yield "missing", f"{missing.ifname}: {missing.why}"
    yield "agent", _agent(status)
    policies = f"policy {status.policy4} (IPv4), {status.policy6} (IPv6)"
    yield "hash", f"{policies}; {_key(status.key)}"
    if status.key.missing:
        search = f"; {status.key.search}" if status.key.search else ""
        yield "key", f"{status.key.missing}{search}"
    if status.key.own_in_force and status.groups:
        yield "seed", IN_WORDS
    if status.flow_label_matters:
        yield "label", FLOW_LABEL_TEXT[status.flow_label]
    yield (
        "held",
        f"{status.routes4:,} IPv4 routes, {status.routes6:,} IPv6 routes, "
        f"{status.groups:,} multipath groups, {status.nexthops:,} next hops",
    )
    for text, _ in sentences(status.firewall.findings, status.firewall.bypassed):
        yield "firewall", text
    for device in status.losses:
        yield "lost", losses.sentence(device)
    for passed in status.passed:
        yield "to Linux", f"{passed.what}: {passed.text}"


def _key(key: KeyInForce) -> str:
    if not key.origin:
        return "key not known"
    return f"{f'seed {key.seed}' if key.seed else 'key'}: {KNOWN[key.origin]}"


def _agent(status: Status) -> str:
    agent = f"pid {status.agent_pid}" if status.agent_pid else "not running"
    lease = f"{status.lease_s:.1f} s left" if status.lease_s else "ran out: all passes to Linux"
    behind = f"; {status.behind_s:.1f} s behind the kernel" if status.behind_s else ""
    return f"{agent}, lease {lease}{behind}"
