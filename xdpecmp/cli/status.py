"""`xdpecmp status`."""

from __future__ import annotations

from typing import Any

import click

from ..compile import Findings
from ..compile.ownseed import IN_WORDS
from ..instance.instance import FLOW_LABEL_TEXT, Instance
from ..netlink import Kernel
from ..observe import losses
from ..observe.bypass import sentences
from ..observe.columns import Columns
from ..observe.view import View
from . import output
from .common import json_option


@click.command("status")
@json_option
def command(as_json: bool) -> None:
    """Show what is attached and how it is doing."""
    instance = Instance()
    with Kernel() as kernel, instance.open_maps() as maps:
        links = kernel.links()
        status = View(maps, links).status(instance, kernel.filters(links.values()))
        rows = losses.report(kernel, maps, instance.program_ids(), instance.run)
        status["losses"] = losses.losing(rows)
    if as_json:
        output.print_json(status)
        return
    output.print_table(
        status["interfaces"],
        Columns({"ifname": "INTERFACE", "mode": "MODE", "prog_id": "PROGRAM"}),
    )
    click.echo()
    for name, text in _lines(status):
        click.echo(f"{name:<10}{text}")


def _lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    seed = status["seed"] or "not known"
    if status["own_seed"]:
        seed = f"{seed} of its own (Linux keeps its to itself)"
    own = [("seed", IN_WORDS)] if status["own_seed_in_force"] and status["groups"] else []
    agent = f"pid {status['agent_pid']}" if status["agent_pid"] else "not running"
    lease = (
        f"{status['lease_s']:.1f} s left" if status["lease_s"] else "ran out: all passes to Linux"
    )
    behind = max(status["behind_s"].values())
    if behind:
        lease += f"; {behind:.1f} s behind the kernel"
    firewall = status["firewall"]
    found = Findings(tuple(firewall["ipv4"]), tuple(firewall["ipv6"]))
    label = []
    if status["flow_label_matters"]:
        label.append(("label", FLOW_LABEL_TEXT[status["flow_label"]]))
    return [
        *(("missing", f"{row['ifname']}: {row['why']}") for row in status["missing"]),
        ("agent", f"{agent}, lease {lease}"),
        ("hash", f"policy {status['policy4']} (IPv4), {status['policy6']} (IPv6); seed {seed}"),
        *own,
        *label,
        (
            "held",
            f"{status['routes4']:,} IPv4 routes, {status['routes6']:,} IPv6 routes, "
            f"{status['groups']:,} multipath groups, {status['nexthops']:,} next hops",
        ),
        *(("firewall", text) for text, _ in sentences(found, firewall["bypassed"])),
        *(("lost", losses.sentence(row)) for row in status["losses"]),
        *(("to Linux", f"{row['what']}: {row['text']}") for row in status["passed"]),
    ]
