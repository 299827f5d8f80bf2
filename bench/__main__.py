"""`python -m bench`, run from the project's root."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from xdpecmp.errors import NotPermitted, XdpecmpError

from . import cases, control, nanoseconds, pps, report, targets
from .programs import build_seconds
from .progress import Progress
from .router import BenchError

BUILDS = 3
WIDTH = 120
"""Of the tables where there is no terminal."""
PARTS = NANOSECONDS, PPS, CONTROL = ("ns", "pps", "control")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    help="Rounds of the first part.",
)
@click.option(
    "--only",
    metavar="PART|NAME",
    multiple=True,
    help=f"Measure only a part ({', '.join(PARTS)}), or of the first part only the rows whose name "
    "holds NAME; what they are compared with runs too. May be given several times.",
)
def main(rounds: int, only: tuple[str, ...]) -> None:
    """Measure xdpecmp: nanoseconds a packet beside a program that asks bpf_fib_lookup(), packets
    per second beside Linux, attach, memory and route changes. Needs root; takes some six minutes.
    Writes bench.json, bench.md and bench.png in bench/out."""
    try:
        if os.geteuid() != 0:
            raise NotPermitted("measuring")
        chosen = _choose(only)
        from . import plot  # matplotlib has its say about other users' home directories

        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(130))  # by way of every `finally`
        with Progress() as progress:
            data = _measure(chosen, rounds, only, progress)
    except XdpecmpError as error:
        hint = f"; {error.hint}" if error.hint else ""
        click.echo(f"bench: {error.message}{hint}", err=True)
        sys.exit(2)
    report.save(data)
    plot.draw(data)
    report.show(data, Console(width=None if sys.stdout.isatty() else WIDTH))


def _choose(only: Sequence[str]) -> list[cases.Case]:
    """The rows of the first part to measure."""
    names = [text for text in only if text not in PARTS]
    if only and not names:
        return nanoseconds.choose([]) if NANOSECONDS in only else []
    chosen = nanoseconds.choose([] if NANOSECONDS in only else names)
    if not chosen:
        known = "; ".join(case.name for case in cases.cases())
        raise BenchError(f"no row is named like {' or '.join(names)}", f"rows: {known}")
    return chosen


def _measure(
    chosen: Sequence[cases.Case], rounds: int, only: Sequence[str], progress: Progress
) -> dict[str, Any]:
    data: dict[str, Any] = {"machine": report.machine(), "rounds": rounds, "notes": []}
    seconds: dict[str, int] = {}

    def took(part: str) -> None:
        seconds[part] = round(time.monotonic() - begin) - sum(seconds.values())

    begin = time.monotonic()
    if chosen:
        found = nanoseconds.measure(chosen, rounds, progress)
        data["machine"] |= found.pop("versions")
        data["notes"] += found.pop("notes")
        data |= found
        took(NANOSECONDS)
    if not only or PPS in only:
        found = pps.measure(progress)
        data["notes"] += found.pop("notes")
        data |= found
        took(PPS)
    if not only or CONTROL in only:
        compiling, loading = zip(*(build_seconds() for _ in range(BUILDS)), strict=True)
        data["control"] = [
            report.seconds_row("compile", "compile, nothing in the cache", compiling),
            report.seconds_row("load", "load", loading),
            *control.measure(progress),
        ]
        took(CONTROL)
    data["targets"] = targets.rows(data)
    data["seconds"] = seconds
    return data


main()
