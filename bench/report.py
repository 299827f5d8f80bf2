"""What was measured, as one table and one JSON file."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .programs import Weight
from .timing import Run, percentile

OUT = Path(__file__).parent / "out" / "bench.json"


def machine() -> dict[str, Any]:
    """When and where."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def packet_rows(
    runs: Mapping[str, Run], floor: str, references: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row a case; `references`: case → the case it is compared with."""
    return [
        {
            "name": name,
            "ns": run.median,
            "ns_p5": run.fifth,
            "over_floor_ns": round(run.over(runs[floor]), 1),
            "to_floor": round(run.ratio(runs[floor]), 2),
            "to_reference": (
                round(run.ratio(runs[references[name]]), 3) if name in references else None
            ),
        }
        for name, run in runs.items()
    ]


def program_row(name: str, weight: Weight) -> dict[str, Any]:
    return {"name": name, **asdict(weight)}


def seconds_row(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """Times of the control plane, in milliseconds."""
    return {
        "name": name,
        "count": len(seconds),
        "ms_p50": round(statistics.median(seconds) * 1000, 2),
        "ms_p99": round(percentile(seconds, 99) * 1000, 2),
    }


_TABLES = {
    "packets": {
        "name": "PACKET",
        "ns": "NS",
        "ns_p5": "NS (P5)",
        "over_floor_ns": "OVER FLOOR",
        "to_floor": "/ FLOOR",
        "to_reference": "/ REFERENCE",
    },
    "programs": {
        "name": "PROGRAM",
        "instructions": "INSTRUCTIONS",
        "jited_bytes": "JITED BYTES",
        "verified": "VERIFIED",
    },
    "control": {"name": "CONTROL PLANE", "count": "TIMES", "ms_p50": "MS (P50)", "ms_p99": "P99"},
}


def show(data: Mapping[str, Any], console: Console) -> None:
    """One table, its three parts under each other."""
    about = data["machine"]
    table = Table(box=None, pad_edge=False, show_header=False)
    for part, columns in _TABLES.items():
        if not data.get(part):
            continue
        if table.row_count:
            table.add_row()
        table.add_row(*columns.values(), style="bold")
        for row in data[part]:
            table.add_row(*(_cell(row[key]) for key in columns))
    for i in range(len(table.columns)):
        table.columns[i].justify = "right" if i else "left"
        table.columns[i].no_wrap = True
    console.print(table)
    console.print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}"


def save(data: Mapping[str, Any], path: Path = OUT) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")
