"""`xdpecmp doctor`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

import click
from rich.text import Text

from .. import output
from ..doctor import Finding, Verdict, examine
from ..doctor.gather import gather
from .common import json_option

_STYLES = {Verdict.PROBLEM: "bold red", Verdict.NOTE: "yellow", Verdict.OK: "green"}


@click.command("doctor")
@click.argument("interfaces", metavar="[IFACE]...", nargs=-1)
@json_option
@click.pass_context
def command(context: click.Context, interfaces: tuple[str, ...], as_json: bool) -> None:
    """Say what here would stop or surprise you, and the command that helps.

    Looks at this host, the network namespace and the interfaces named, or all Ethernet interfaces
    that are up and belong to no other device. As root it also builds and loads the programs for a
    trial (and keeps what was compiled for `attach`). Nothing else is changed. Exit status 1 if
    there is a problem: attaching would be refused, or what is attached does not work. A note is no
    problem: things work, but not as one might think.
    """
    # so that the trial takes its pins away
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    findings = examine(gather(interfaces))
    if as_json:
        output.print_json([finding.row() for finding in findings])
    else:
        output.print_rich(_text(findings))
    context.exit(int(any(finding.verdict is Verdict.PROBLEM for finding in findings)))


def _text(findings: Sequence[Finding]) -> Text:
    text = Text()
    for finding in findings:
        text.append(f"{finding.verdict.value:<9}", style=_STYLES[finding.verdict])
        name = finding.interface
        if name and not finding.found.startswith(f"{name} "):
            text.append(f"{name}: ", style="bold")
        text.append(f"{finding.found}\n")
        if finding.fix:
            text.append(f"{'':<9}→ {finding.fix}\n", style="cyan")
    text.rstrip()
    return text
