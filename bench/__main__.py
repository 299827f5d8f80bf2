"""`python -m bench`, run from the project's root."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, TaskID

from xdpecmp.errors import NotPermitted, XdpecmpError
from xdpecmp.instance import Instance

from . import control, report
from .cases import Case, cases
from .programs import FLOOR, REFERENCE, XDPECMP, Helpers, build_seconds, called_program, weight
from .router import BenchError, Router, attached, hold, router
from .timing import XDP_REDIRECT, XDP_TX, Run, run_rounds

ATTACHES, CHANGES, BUILDS = 5, 200, 3
_CONTROL = "control plane"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=600, show_default=True)
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help=f"Measure only rows whose name holds NAME ({_CONTROL!r} for attach and changes); "
    "the floor and what they are compared with run too.",
)
def main(rounds: int, only: tuple[str, ...]) -> None:
    """Measure xdpecmp: nanoseconds a packet beside a program that asks bpf_fib_lookup(), sizes of
    the programs, attach and route changes. Needs root. Writes bench/out/bench.json."""
    try:
        if os.geteuid() != 0:
            raise NotPermitted("measuring")
        chosen = _choose(only)
        with_control = not only or any(text in _CONTROL for text in only)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(130))  # by way of every `finally`
        with Progress(
            console=Console(stderr=True), transient=True, refresh_per_second=1
        ) as progress:
            data = _measure(chosen, rounds, with_control, progress)
    except XdpecmpError as error:
        hint = f"; {error.hint}" if error.hint else ""
        click.echo(f"bench: {error.message}{hint}", err=True)
        sys.exit(2)
    report.save(data)
    wide = None if sys.stdout.isatty() else 120
    report.show(data, Console(width=wide))


def _choose(only: tuple[str, ...]) -> list[Case]:
    """The cases whose names were asked for, and what they are compared with."""
    everything = list(cases())
    wanted = [c for c in everything if not only or any(text in c.name for text in only)]
    if not wanted and not any(text in _CONTROL for text in only):
        names = ", ".join(case.name for case in everything)
        raise BenchError(f"no row is named like {' or '.join(only)}", f"rows: {names}")
    needed = {"floor", *(case.name for case in wanted), *(case.reference for case in wanted)}
    return [case for case in everything if case.name in needed]


def _measure(
    chosen: list[Case], rounds: int, with_control: bool, progress: Progress
) -> dict[str, Any]:
    helpers = Helpers()
    about = report.machine()
    about |= {"bcc": helpers.bcc_version(), "clang": helpers.clang_version()}
    data: dict[str, Any] = {"machine": about, "rounds": rounds}
    data |= _measure_packets(chosen, rounds, helpers, progress)
    compiling, loading = zip(*(build_seconds() for _ in range(BUILDS)), strict=True)
    data["control"] = [
        report.seconds_row("compile, without starting Python", compiling),
        report.seconds_row("load", loading),
    ]
    if with_control:
        task = _task(progress, "attach and route changes", ATTACHES + CHANGES)
        attaches, changes = control.measure(ATTACHES, CHANGES, lambda: progress.advance(task))
        routes = f"{control.ROUTES:,} routes"
        data["control"] += [
            report.seconds_row(f"attach to in sync, {routes}", attaches),
            report.seconds_row(f"route change to data path, {routes}", changes),
        ]
    return data


def _measure_packets(
    chosen: list[Case], rounds: int, helpers: Helpers, progress: Progress
) -> dict[str, Any]:
    """One router for each hash policy that is needed, each with xdpecmp attached."""
    with contextlib.ExitStack() as stack:
        task = _task(progress, "routers", len({0} | {case.policy for case in chosen}))
        routers: dict[int, Router] = {}
        pinned: dict[int, int] = {}
        for policy in sorted({0} | {case.policy for case in chosen}):
            inside = stack.enter_context(router(f"policy{policy}", policy))
            stack.enter_context(attached(inside.namespace))
            routers[policy] = inside
            with inside.namespace.enter():
                instance = Instance()
                pinned[policy] = instance.open_program(instance.generation())
            stack.callback(os.close, pinned[policy])
            progress.advance(task)
        for ifindex in routers[0].egresses:
            helpers.transmit(ifindex)
        for name in (FLOOR, REFERENCE):
            hold(routers[0].namespace, helpers.fd(name))
        runs = {case.name: _run(case, helpers, pinned, routers) for case in chosen}
        task = _task(progress, f"{len(runs)} rows", rounds)
        run_rounds(runs, rounds, lambda: progress.advance(task))
        programs = {XDPECMP: pinned[0], REFERENCE: helpers.fd(REFERENCE)}
        if max(routers) > 1:  # the last one's policy takes a walk through the packet
            programs["xdpecmp_deep"] = called_program(instance)
        return {
            "packets": report.packet_rows(runs, "floor", _references(chosen)),
            "programs": [report.program_row(n, weight(fd)) for n, fd in programs.items()],
        }


def _references(chosen: list[Case]) -> dict[str, str]:
    return {case.name: case.reference for case in chosen if case.program != FLOOR}


def _run(case: Case, helpers: Helpers, pinned: dict[int, int], routers: dict[int, Router]) -> Run:
    fd = pinned[case.policy] if case.program == XDPECMP else helpers.fd(case.program)
    verdict = XDP_TX if case.program == FLOOR else XDP_REDIRECT
    return Run(case.name, fd, case.frame, verdict, routers[case.policy])


def _task(progress: Progress, text: str, total: int) -> TaskID:
    return progress.add_task(text, total=total)


main()
