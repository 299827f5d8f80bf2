"""What was measured, as rows, and as tables on the terminal, JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .programs import Weight
from .timing import Series, percentile

OUT = Path(__file__).parent / "out"


def machine() -> dict[str, Any]:
    """When and where, and how busy it was before we came."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} logical",
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# --- rows -----------------------------------------------------------------------------------------


def packet_rows(
    runs: Mapping[str, Series], floor: Series, references: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row a case; `references`: case → the case it is compared with, as a whole and in what
    both take over the floor."""
    rows = []
    for name, run in runs.items():
        row = {
            "name": name,
            "ns": run.median,
            "ns_p5": run.fifth,
            "over_floor_ns": round(run.over(floor), 1),
            "to_floor": round(run.ratio(floor), 2),
            "to_reference": None,
            "net_to_reference": None,
        }
        if name in references:
            reference = runs[references[name]]
            row["to_reference"] = round(run.ratio(reference), 3)
            row["net_to_reference"] = round((run - floor).ratio(reference - floor), 3)
        rows.append(row)
    return rows


def program_row(name: str, weight: Weight) -> dict[str, Any]:
    return {"name": name, **asdict(weight)}


def seconds_row(
    key: str, name: str, seconds: Sequence[float | None], size: int | None = None
) -> dict[str, Any]:
    """Times of the control plane, in milliseconds; None: it took too long to wait for."""
    known = [value for value in seconds if value is not None]
    done = len(known) == len(seconds)
    return {
        "key": key,
        "size": size,
        "name": name,
        "unit": "ms",
        "count": len(seconds),
        "p50": round(statistics.median(known) * 1000, 2) if done else None,
        "p99": round(percentile(known, 99) * 1000, 2) if done and len(known) > 1 else None,
    }


def value_row(key: str, name: str, unit: str, value: float, size: int | None) -> dict[str, Any]:
    """One number about the control plane."""
    row = {"key": key, "size": size, "name": name, "unit": unit, "count": 1}
    return row | {"p50": round(value, 2), "p99": None}


# --- out ------------------------------------------------------------------------------------------

_TABLES = {
    "packets": {
        "name": "PACKET",
        "ns": "NS",
        "ns_p5": "NS (P5)",
        "over_floor_ns": "OVER FLOOR",
        "to_floor": "/ FLOOR",
        "to_reference": "/ REFERENCE",
        "net_to_reference": "BOTH LESS FLOOR",
    },
    "traffic": {
        "name": "END TO END",
        "pps": "PACKETS/S",
        "ns": "NS",
        "router_ns": "ROUTER'S NS",
        "to_linux": "/ LINUX",
    },
    "programs": {
        "name": "PROGRAM",
        "instructions": "INSTRUCTIONS",
        "jited_bytes": "JITED BYTES",
        "verified": "VERIFIED",
    },
    "control": {
        "name": "CONTROL PLANE",
        "count": "TIMES",
        "p50": "P50",
        "p99": "P99",
        "unit": "UNIT",
    },
    "targets": {
        "name": "TARGET",
        "limit": "AT MOST",
        "value": "MEASURED",
        "minimum": "MINIMUM",
        "unit": "UNIT",
        "reached": "REACHED",
    },
}


def show(data: Mapping[str, Any], console: Console) -> None:
    """The parts as tables under each other."""
    for part, columns in _TABLES.items():
        if not data.get(part):
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, heading in enumerate(columns.values()):
            table.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for row in data[part]:
            table.add_row(*(_cell(row[key]) for key in columns))
        console.print(table)
        console.print()
    for note in data["notes"]:
        console.print(note)
    console.print(", ".join(f"{key} {value}" for key, value in data["machine"].items()))
    console.print("seconds: " + ", ".join(f"{k} {v}" for k, v in data["seconds"].items()))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}"


def save(data: Mapping[str, Any], folder: Path = OUT) -> None:
    """bench.json, and bench.md for docs/benchmarks.md."""
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(data, indent=2) + "\n")
    (folder / "bench.md").write_text("\n".join(markdown(data)) + "\n")


def markdown(data: Mapping[str, Any]) -> Iterator[str]:
    """The rows that tell most."""
    about = data["machine"]
    yield f"`make bench` on {about['date'][:10]}, Linux {about['kernel']}, {about['cpu']}:"
    if data.get("packets"):
        yield from _packets_in_markdown({row["name"]: row for row in data["packets"]})
    if data.get("traffic"):
        yield from ("", "| end to end, two paths | packets/s | router's ns | to Linux |")
        yield "|---|--:|--:|--:|"
        for row in data["traffic"]:
            cells = (row["name"], row["pps"], row["router_ns"], row["to_linux"])
            yield f"| {' | '.join(map(_cell, cells))} |"
    if data.get("targets"):
        yield from ("", "| target | at most | measured | minimum | |", "|---|--:|--:|--:|---|")
        for row in data["targets"]:
            values = " | ".join(_cell(row[key]) for key in ("limit", "value", "minimum"))
            reached = "reached" if row["reached"] else "**not reached**"
            yield f"| {row['name']}, {row['unit']} | {values} | {reached} |"


def _packets_in_markdown(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """xdpecmp beside the reference on the same routes."""
    yield from ("", "| ns per packet | bpf_fib_lookup() | xdpecmp | ratio |", "|---|--:|--:|--:|")
    for name, row in rows.items():
        family = name[:4]
        if not name.startswith(("IPv4 policy 0", "IPv6 policy 0")):
            continue
        rest = name.removeprefix(f"{family} policy 0")
        reference = rows.get(f"reference {family}{rest}")
        if reference is None:
            continue
        cells = (f"{family}{rest or ', 2 paths'}", reference["ns"], row["ns"], row["to_reference"])
        yield f"| {' | '.join(map(_cell, cells))} |"
    alone = ("floor", "kernel-exact minimum IPv4", "kernel-exact minimum IPv6")
    yield ""
    yield "; ".join(f"{name}: {_cell(rows[name]['ns'])} ns" for name in alone if name in rows) + "."
