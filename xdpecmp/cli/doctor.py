"""`xdpecmp doctor`."""

from __future__ import annotations

import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence

import click

from ..doctor import Finding, Verdict, examine
from ..doctor.gather import gather
from . import asjson, output
from .common import json_option

_STYLES = {Verdict.PROBLEM: "1;31", Verdict.NOTE: "33", Verdict.OK: "32"}
_MARGIN = 9
_NARROWEST = 20


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
        output.print_json(asjson.findings(findings))
    else:
        for line in _lines(findings, output.width()):
            output.print_line(line)
    context.exit(int(any(finding.verdict is Verdict.PROBLEM for finding in findings)))


def _lines(findings: Sequence[Finding], width: int | None) -> Iterator[str]:
    """Folded to the terminal's width, commands apart, which are there to be copied."""
    for finding in findings:
        name = finding.interface
        who = f"{name}: " if name and not finding.found.startswith(f"{name} ") else ""
        text = [output.placed(who + finding.found)]
        if width is not None:
            text = textwrap.wrap(text[0], max(_NARROWEST, width - _MARGIN)) or text
        verdict = output.styled(f"{finding.verdict.value:<{_MARGIN}}", _STYLES[finding.verdict])
        yield verdict + text[0]
        yield from (" " * _MARGIN + more for more in text[1:])
        if finding.fix:
            yield " " * _MARGIN + output.styled(f"→ {output.placed(finding.fix)}", "36")
