"""bench.png: ns per packet over the size of the table, packets per second by who forwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # there may be no display

from matplotlib import pyplot, ticker

from .cases import TABLE_SIZES, spread_name
from .pps import HARNESS
from .programs import REFERENCE, XDPECMP
from .report import OUT

_COLOURS = {4: "#1f5a96", 6: "#d2691e"}
_LABELS = {XDPECMP: "xdpecmp", REFERENCE: "bpf_fib_lookup()"}


def draw(data: Mapping[str, Any], folder: Path = OUT) -> Path | None:
    """Draws what was measured; returns the file, None where there is nothing to draw."""
    packets = {row["name"]: row["ns"] for row in data.get("packets", ())}
    traffic = {row["name"]: row["pps"] for row in data.get("traffic", ())}
    if not any("at random" in name for name in packets):
        packets = {}
    panels = [part for part in (packets, traffic) if part]
    if not panels:
        return None
    figure, found = pyplot.subplots(
        1, len(panels), figsize=(6.5 * len(panels), 5), squeeze=False, layout="constrained"
    )
    axes = list(found[0])
    if packets:
        _draw_packets(axes.pop(0), packets)
    if traffic:
        _draw_traffic(axes.pop(0), traffic)
    about = data["machine"]
    figure.suptitle(
        f"xdpecmp, one CPU, {about['date'][:10]}, Linux {about['kernel']}, {about['cpu']}",
        fontsize=9,
        color="0.35",
    )
    path = folder / "bench.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path


def _draw_packets(axes: Any, packets: Mapping[str, float]) -> None:
    for family in _COLOURS:
        for program, label in _LABELS.items():
            points = [(n, packets.get(spread_name(program, family, n))) for n in TABLE_SIZES]
            points = [(n, ns) for n, ns in points if ns is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    color=_COLOURS[family],
                    linestyle="-" if program == XDPECMP else ":",
                    label=f"IPv{family}, {label}",
                )
        minimum = packets.get(f"kernel-exact minimum IPv{family}")
        if minimum is not None:
            _level(axes, minimum, f"IPv{family}, hash and redirect alone", _COLOURS[family])
    if "floor" in packets:
        _level(axes, packets["floor"], "empty program", "0.4")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.set(xlabel="routes, destinations at random among them", title="ns per packet (test run)")
    axes.grid(axis="y", color="0.9")
    axes.legend(fontsize=8, frameon=False)


def _level(axes: Any, value: float, text: str, colour: str) -> None:
    axes.axhline(value, color=colour, linewidth=0.8, linestyle="--")
    axes.annotate(
        text,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        color=colour,
    )


def _draw_traffic(axes: Any, traffic: Mapping[str, float]) -> None:
    names = list(dict.fromkeys(name.partition(" ")[2] for name in traffic))
    for i, family in enumerate((4, 6)):
        rates = [traffic.get(f"IPv{family} {name}", 0) / 1e6 for name in names]
        places = [place + (i - 0.5) * 0.38 for place in range(len(names))]
        bars = axes.barh(places, rates, 0.36, color=_COLOURS[family], label=f"IPv{family}")
        for bar, name in zip(bars, names, strict=True):
            bar.set_alpha(0.45 if name in HARNESS else 1.0)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7, color="0.35")
    axes.set_yticks(range(len(names)), [name.replace(" with ", "\nwith ") for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="million packets per second", title="packets per second (veth to veth)")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
