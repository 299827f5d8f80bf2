"""How the demo is told: short sentences, tables, and a progress bar if there is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from ..observe.columns import Columns, lines
from .bounds import ONE_IN
from .report import Report, Transfer
from .topology import DRAWING, FAMILIES, NEXT_HOPS, SEED, WEIGHTS, Topology, nexthops

_POLICIES = {
    0: "addresses; for IPv6 also the flow label",
    1: "addresses and ports, where Linux looks at an ICMP error's own header only",
}


class Narrator:
    """Prints to one console; decides nothing."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str) -> None:
        """One sentence or a few, wrapped to the width of the terminal."""
        self._console.print(text, highlight=False)

    def heading(self, text: str) -> None:
        """The title of a part."""
        self._console.print(f"\n[bold cyan]{text}[/]\n", highlight=False)

    def topology(self, net: Topology) -> None:
        """What has been built, and the settings that matter for the hash."""
        self._console.print(DRAWING, highlight=False, markup=False, no_wrap=True)
        self.line(f"\nFive namespaces: {net.names['client']}, …-hop, …-router, …-s1, …-s2")
        for family in FAMILIES:
            self._literal(f"  ip route add {family.vip} {nexthops(family)}")
        seed = f"seed {SEED}" if net.has_seed else "a seed that Linux keeps to itself"
        self.line(f"Hash policy {net.policy} ({_POLICIES[net.policy]}), {seed}.")
        if net.policy == 0:
            self.line(
                "The servers reflect flow labels (net.ipv6.flowlabel_reflect=1): otherwise a "
                "reply, and the error that quotes it, would have another label than the request, "
                "and hash differently."
            )

    def command(self, *words: str) -> None:
        """A command line that is about to run, as one would type it."""
        self._literal("  # " + " ".join(words))

    def left_to_linux(self, report: Report) -> None:
        """That there is nothing to be seen of XDP's own choice on this kernel."""
        if report.left_to_linux:
            self.line(
                f"Multipath routes are left to Linux here: {report.left_to_linux}. It makes the "
                "split, and sends ICMP errors after their flow under hash policy 0 only."
            )

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar that calling the yielded function moves on; nothing without a terminal."""
        bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task(title, total=total)
            yield lambda: bar.advance(task)

    def split(self, report: Report) -> None:
        """How the requests were spread, beside what is fair."""
        headings = {
            "family": "family",
            "server": "server",
            "weight": "weight",
            "expected": "expected",
            "seen": "seen",
            "range": "fair range",
            "verdict": "",
        }
        rows = [
            {
                "family": share.family,
                "server": share.server,
                "weight": share.weight,
                "expected": round(share.expected, 1),
                "seen": share.seen,
                "range": f"{share.low}-{share.high}",
                "verdict": "within" if share.within else "NOT within",
            }
            for share in report.shares
        ]
        self._table(headings, rows)
        self.line("")
        self.line(
            f"The fair range is the binomial distribution's: a fair hash leaves it less than once "
            f"in {ONE_IN:,} runs."
        )

    def transfers(self, report: Report) -> None:
        """Who learnt what during each transfer."""
        headings = {
            "client": "client",
            "server": "server",
            "bytes": "bytes",
            "mtu": "path MTU",
            **{server: f"{server} got" for server in WEIGHTS},
            "verdict": "",
        }
        rows = [
            {
                "client": transfer.client,
                "server": transfer.server or "none",
                "bytes": transfer.received,
                "mtu": transfer.path_mtu or "not learnt",
                **{server: transfer.icmp_errors[server] for server in WEIGHTS},
                "verdict": _verdict(transfer),
            }
            for transfer in report.transfers
        ]
        self._table(headings, rows)
        self.line("")
        self.line(
            '"got" counts the ICMP errors (IPv4: fragmentation needed, IPv6: Packet Too Big) that '
            "reached a server; only the sender of the packets has to see them."
        )

    def counters(self, report: Report) -> None:
        """What XDP says it did."""
        if report.counters is None:
            return
        self.heading("What XDP did")
        packets = report.counters.nexthops
        for server, hops in NEXT_HOPS.items():
            total = sum(packets.get(via, 0) for via in hops)
            each = ", ".join(f"{packets.get(via, 0):,} via {via}" for via in hops)
            self.line(f"  to {server}: {total:,} packets ({each})")
        for kind, count in report.counters.icmp_errors.items():
            if count:
                self.line(f"  ICMP errors, {kind}: {count}")

    def verdict(self, report: Report) -> None:
        """The last line that matters."""
        problems = report.problems()
        self.line("")
        for problem in problems:
            self.line(f"[bold red]Not as it should be:[/] {problem}")
        if not problems:
            transfers = len(report.transfers)
            self.line(
                f"[bold green]As it should be:[/] both splits are fair and all {transfers} "
                "transfers completed."
            )

    def kept(self, net: Topology) -> None:
        """What can be tried while the demo is kept."""
        self.line("\nStill running, until you press Ctrl-C. In another terminal, for example:")
        for arguments in ("status", "routes", "stats --watch"):
            self._literal(f"  xdpecmp -n {net.names['router']} {arguments}")
        self._literal(
            f"  nsenter --net=/run/netns/{net.names['client']} "
            f"curl --interface {FAMILIES[0].sources[-1]} http://{FAMILIES[0].vip}/"
        )

    def _literal(self, text: str) -> None:
        """Something to be copied: not wrapped, not marked up."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _table(self, headings: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Folded to the terminal; what is not as it should be stands out."""
        width = self._console.width if self._console.is_terminal else None
        for line in lines(rows, Columns(headings), width):
            bad = "NOT " in line or "WRONG " in line
            style = "bold red" if bad else ""
            self._console.print(
                Text(line, style=style), highlight=False, markup=False, soft_wrap=True
            )


def _verdict(transfer: Transfer) -> str:
    if transfer.good:
        return "complete"
    return "WRONG server" if transfer.complete else "NOT complete"
