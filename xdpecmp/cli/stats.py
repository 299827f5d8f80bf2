"""`xdpecmp stats`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import click

from ..instance.instance import Instance
from ..netlink import Kernel
from ..observe import losses
from ..observe.columns import Columns, lines
from ..observe.state import Stats
from ..observe.view import View
from ..program.abi import ICMP_ERROR_TEXT, REASON_TEXT
from . import asjson, output
from .common import json_option

INTERVAL = 1.0

_DEVICE_COLUMNS = Columns(
    {
        "ifname": "DEVICE",
        "lost": "LOST",
        "xdp_drops": "XDP DROPS",
        "tx_dropped": "TX DROPPED",
        "tx_errors": "TX ERRORS",
    }
)


@click.command("stats")
@click.option("--watch", is_flag=True, help="Show them with rates, every second, until Ctrl-C.")
@json_option
def command(watch: bool, as_json: bool) -> None:
    """Show packets and bytes by next hop, and packets by verdict and by type of ICMP error.

    Reasons other than FORWARDED count packets passed to Linux. Bytes are those of frames as they
    leave. Counters start with the first attach, outlive the agent and upgrades, and never go back:
    FORWARDED keeps what went by next hops that have gone since. Their rows go; one that comes back
    goes on counting, or begins at 0 if its place in the maps was needed for another meanwhile.

    Devices that lost something since the first attach are listed: LOST is what was forwarded to
    one and not sent (known of veths in native mode), XDP DROPS what its driver counts of that, TX
    DROPPED and TX ERRORS include Linux's own packets.
    """
    if watch:
        _watch(as_json)
        return
    stats = _read()
    if as_json:
        output.print_json(asjson.stats(stats))
    else:
        output.print_line(_render(stats))


def _read() -> Stats:
    instance = Instance()
    with Kernel() as kernel, instance.open_maps() as maps:
        stats = View(maps, kernel.links()).stats()
        devices = losses.report(kernel, maps, instance.program_ids(), instance.run)
        return replace(stats, devices=tuple(devices))


def _watch(as_json: bool) -> None:
    """Until Ctrl-C; as JSON, one document a line."""
    if as_json:
        while True:
            output.print_line(json.dumps(asjson.stats(_read())))
            time.sleep(INTERVAL)
    before = _read()
    if not output.is_terminal():  # where nothing can be drawn over
        while True:
            output.print_line(_render(before))
            time.sleep(INTERVAL)
            before = _read()
    from rich.live import Live  # takes its time, which who looks once need not wait for
    from rich.text import Text

    with Live(Text(_render(before)), console=output.console(), auto_refresh=False) as live:
        while True:
            started = time.monotonic()
            time.sleep(INTERVAL)
            now = _read()
            text = _render(now, before, time.monotonic() - started)
            live.update(Text(text), refresh=True)
            before = now


def _render(stats: Stats, before: Stats | None = None, seconds: float = 1.0) -> str:
    """Four tables; what never happened is left out of all but the first."""
    width = output.width()
    parts = [_nexthops(stats, before, seconds)]
    for heading, counted, earlier, texts in (
        ("VERDICT", stats.reasons, before.reasons if before else None, REASON_TEXT),
        ("ICMP ERROR", stats.icmp_errors, before.icmp_errors if before else None, ICMP_ERROR_TEXT),
    ):
        rows = _counter_rows(counted, earlier, seconds, texts)
        if rows:
            headings = {"name": heading, "packets": "PACKETS", "text": "MEANING"}
            if before is not None:
                headings = {"name": heading, "packets": "PACKETS", "rate": "/S", "text": "MEANING"}
            parts.append(lines(rows, Columns(headings, optional=("text",), folds="text"), width))
    losing = [asdict(device) for device in stats.devices if device]
    if losing:
        parts.append(lines(losing, _DEVICE_COLUMNS, width))
    return "\n\n".join("\n".join(part) for part in parts)


def _nexthops(stats: Stats, before: Stats | None, seconds: float) -> Iterator[str]:
    headings = {"via": "VIA", "dev": "DEV", "packets": "PACKETS", "bytes": "BYTES"}
    rows = [asdict(hop) for hop in stats.nexthops]
    if before is not None:
        headings["rate"] = "PACKETS/S"
        earlier = {(hop.via, hop.dev): hop.packets for hop in before.nexthops}
        for row, hop in zip(rows, stats.nexthops, strict=True):
            row["rate"] = _rate(hop.packets, earlier.get((hop.via, hop.dev), 0), seconds)
    return lines(rows, Columns(headings), output.width())


def _counter_rows(
    counters: Mapping[str, int],
    before: Mapping[str, int] | None,
    seconds: float,
    texts: Mapping[str, str],
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "packets": packets,
            "rate": _rate(packets, before[name] if before else packets, seconds),
            "text": texts[name],
        }
        for name, packets in counters.items()
        if packets
    ]


def _rate(now: int, before: int, seconds: float) -> int:
    return round((now - before) / seconds)
