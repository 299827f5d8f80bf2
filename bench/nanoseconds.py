"""Part 1: what a packet costs, by test runs.

Most rows repeat one packet, so caches are hot: what the program itself takes. Those "at random" go
through spread.py, over tables of many sizes. What the spreader takes is subtracted and the floor
put in its place, so that these rows can be read beside the others. Each of their rounds begins with
a pass over all destinations that does not count: a router runs one program, and what the others
left in the caches is not what it would find there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from xdpecmp.instance.instance import Instance

from . import report
from .cases import Case, cases, spread_name
from .programs import (
    BARE_REDIRECT,
    CHECKS,
    FLOOR,
    LOOK_UP,
    MINIMUM,
    REFERENCE,
    XDPECMP,
    Compiled,
    called_program,
    minimum,
    reference,
    versions,
    weight,
)
from .progress import Progress
from .router import Router, attached, hold, router
from .routes import add_routes, make_table
from .spread import DESTINATIONS, Spreader, Target, check, settle
from .timing import XDP_REDIRECT, XDP_TX, Run, Series, run_rounds

SPREAD_ROUNDS = 0.25
"""Rounds over the tables, as a share of those with one packet: they take longer."""


def choose(only: Sequence[str]) -> list[Case]:
    """The cases whose names hold one of these words, and what they are compared with."""
    everything = list(cases())
    wanted = [c for c in everything if not only or any(text in c.name for text in only)]
    if not wanted:
        return []
    needed = {"floor", *(case.name for case in wanted), *(case.reference for case in wanted)}
    return [case for case in everything if case.name in needed]


def measure(chosen: Sequence[Case], rounds: int, progress: Progress) -> dict[str, Any]:
    """Rows "packets" and "programs", and notes on what could not be measured."""
    with contextlib.ExitStack() as stack:
        bench = _Bench(stack, progress)
        notes = []
        if not bench.routers[0].has_vlan:
            missing = [case.name for case in chosen if case.needs_vlan]
            chosen = [case for case in chosen if not case.needs_vlan]
            notes += [f"no row {name!r}: this kernel has no VLAN devices" for name in missing]
        plain = [case for case in chosen if case.table is None]
        with progress.task("routers", len({case.policy for case in plain} - {0})) as advance:
            for policy in sorted({case.policy for case in plain} - {0}):
                bench.add_policy(policy)
                advance()
        runs = {case.name: bench.run(case) for case in plain}
        with progress.task(f"ns per packet, {len(runs)} rows", rounds) as advance:
            if left_out := run_rounds([*runs.values()], rounds, advance):
                notes.append(f"{left_out} rounds left out, xdpecmp passed packets to Linux")
        rows = report.packet_rows(runs, runs["floor"], _references(plain))
        if spread := [case for case in chosen if case.table is not None]:
            many = max(1, round(rounds * SPREAD_ROUNDS))
            rows += _measure_tables(bench, spread, many, progress, notes)
        return {
            "versions": versions(bench.reference),
            "packets": rows,
            "programs": [report.program_row(n, weight(fd)) for n, fd in bench.weighed().items()],
            "notes": notes,
        }


def _references(chosen: Sequence[Case]) -> dict[str, str]:
    return {case.name: case.reference for case in chosen if case.reference}


class _Bench:
    """The programs and a router for each hash policy, xdpecmp attached to each."""

    def __init__(self, stack: contextlib.ExitStack, progress: Progress) -> None:
        self.stack = stack
        self.routers: dict[int, Router] = {}
        self._pinned: dict[int, int] = {}
        self._deep: int | None = None
        self.add_policy(0)
        inside = self.routers[0]
        with inside.namespace.enter():
            self.reference: Compiled = reference(inside.egresses)
            self._minimum = minimum(inside.egresses)
        self._fds = {name: self.reference.fd(name) for name in (FLOOR, REFERENCE)}
        for name in (CHECKS, BARE_REDIRECT, MINIMUM, LOOK_UP):
            self._fds[name] = self._minimum.fd(name)
        for fd in self._fds.values():
            hold(inside.namespace, fd)

    def add_policy(self, policy: int) -> None:
        inside = self.stack.enter_context(router(f"policy{policy}", policy))
        self._pinned[policy] = self.attach(inside)
        self.routers[policy] = inside
        if policy > 1:  # takes a walk through the packet
            with inside.namespace.enter():
                self._deep = called_program(Instance())

    def attach(self, inside: Router) -> int:
        """xdpecmp on that router until the end; returns its program."""
        self.stack.enter_context(attached(inside.namespace))
        with inside.namespace.enter():
            instance = Instance()
            fd = instance.open_program(instance.generation())
        self.stack.callback(os.close, fd)
        return fd

    def fd(self, program: str) -> int:
        return self._fds[program]

    def run(self, case: Case) -> Run:
        fd = self._pinned[case.policy] if case.program == XDPECMP else self.fd(case.program)
        verdict = XDP_TX if case.program in (FLOOR, CHECKS) else XDP_REDIRECT
        return Run([], case.name, fd, case.frame, verdict, self.routers[case.policy])

    def weighed(self) -> dict[str, int]:
        programs = {XDPECMP: self._pinned[0], REFERENCE: self.fd(REFERENCE)}
        return programs if self._deep is None else programs | {"xdpecmp_deep": self._deep}


def _measure_tables(
    bench: _Bench, chosen: Sequence[Case], rounds: int, progress: Progress, notes: list[str]
) -> list[dict[str, Any]]:
    """The rows with destinations at random, as they would be without what spreads them."""
    floor = Run([], "floor", bench.fd(FLOOR), bytes(64), XDP_TX, bench.routers[0])
    runs = _runs_over_tables(bench, {(c.program, c.family, c.table) for c in chosen}, progress)
    for run in runs.values():
        check(run)
    with progress.task(f"ns per packet at random, {len(runs)} rows", rounds) as advance:
        left_out = run_rounds([floor, *runs.values()], rounds, advance)
    if left_out:
        notes.append(f"rows at random: {left_out} rounds left out, xdpecmp passed packets to Linux")
    alone: dict[str, Series] = {
        case.name: runs[case.program, case.family, case.table]
        - runs[FLOOR, case.family, case.table]
        + floor
        for case in chosen
    }
    return report.packet_rows(alone, floor, _references(chosen))


_Key = tuple[str, int, int | None]
"""Program, family, size of the table."""


def _runs_over_tables(bench: _Bench, wanted: set[_Key], progress: Progress) -> dict[_Key, Run]:
    """A router for each size, and what is measured there, the floor always."""
    spreader = Spreader()
    hold(bench.routers[0].namespace, spreader.fd)
    programs = FLOOR, REFERENCE, MINIMUM, LOOK_UP
    helpers = {name: spreader.add_forwarder(bench.fd(name)) for name in programs}
    runs: dict[_Key, Run] = {}
    sizes = sorted({size for *_, size in wanted if size is not None})
    with progress.task("routing tables", len(sizes)) as advance:
        for size in sizes:
            families = sorted({family for _, family, at in wanted if at == size})
            tables = [make_table(family, size) for family in families]
            inside = bench.stack.enter_context(router(f"routes{size}", 0, paths=()))
            for table in tables:
                add_routes(inside, table)
            forwarders = helpers | {XDPECMP: spreader.add_forwarder(bench.attach(inside))}
            for table in tables:
                number = spreader.add_set(table.destinations(DESTINATIONS))
                target = Target(spreader, inside, table.family, number)
                for program, forwarder in forwarders.items():
                    if program != FLOOR and (program, table.family, size) not in wanted:
                        continue
                    verdict = XDP_TX if program == FLOOR else XDP_REDIRECT
                    name = spread_name(program, table.family, size)
                    run = target.run(name, forwarder, verdict, warm_up=DESTINATIONS)
                    runs[program, table.family, size] = run
            advance()
        settle([*runs.values()])
    return runs
