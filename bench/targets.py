"""What the project wants to reach, and whether this run did.

Ratios where possible, since they say more of the program than of the machine. `limit` of a row is
what the measured value may be at most. Where a program is measured that does only what nothing can
do without that agrees with Linux (minimum.c), its value stands beside: nothing gets below that. For
a million routes what stands there is what one access to such a table would make of a single route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .cases import TABLE_SIZES, spread_name
from .pps import LINUX
from .programs import LOOK_UP, MINIMUM

Data = Mapping[str, Any]
Value = Callable[[Data], float | None]


def _cell(part: str, name: str, column: str) -> Value:
    """One cell of a table."""

    def value(data: Data) -> float | None:
        found = (row[column] for row in data.get(part, ()) if row["name"] == name)
        return next(found, None)

    return value


def _control(key: str, size: int | None = None, column: str = "p50", scale: float = 1.0) -> Value:
    """The highest of these rows of the control plane."""

    def value(data: Data) -> float | None:
        rows = [r for r in data.get("control", ()) if r["key"] == key and size in (None, r["size"])]
        found = [row[column] for row in rows]
        return max(found) * scale if found and None not in found else None

    return value


def _over(above: Value, below: Value) -> Value:
    def value(data: Data) -> float | None:
        one, other = above(data), below(data)
        return None if one is None or not other else one / other

    return value


def _greatest(*values: Value) -> Value:
    def value(data: Data) -> float | None:
        found = [v for each in values if (v := each(data)) is not None]
        return max(found) if len(found) == len(values) else None

    return value


def _ns(name: str) -> Value:
    return _cell("packets", name, "ns")


@dataclass(frozen=True)
class Target:
    """A value and what it may be at most."""

    name: str
    limit: float
    unit: str
    value: Value
    minimum: Value | None = None


def _forwarding(family: int, limit: float) -> Target:
    column = "to_reference"
    return Target(
        f"IPv{family} policy 0 against bpf_fib_lookup()",
        limit,
        "times",
        _cell("packets", f"IPv{family} policy 0", column),
        _cell("packets", f"kernel-exact minimum IPv{family}", column),
    )


def _router(family: int) -> Target:
    return Target(
        f"router cost end to end against {LINUX}, IPv{family}",
        0.2,
        "times",
        _cell("traffic", f"IPv{family} xdpecmp", "to_linux"),
        _cell("traffic", f"IPv{family} kernel-exact minimum", "to_linux"),
    )


def _one_look_up_more(value: Value) -> Value:
    """How many times this it is with one access at random to a table of all /24 networks."""
    minimum = spread_name(MINIMUM, 4, TABLE_SIZES[-1])
    with_look_up = spread_name(LOOK_UP, 4, TABLE_SIZES[-1])

    def times(data: Data) -> float | None:
        below, above, one = _ns(minimum)(data), _ns(with_look_up)(data), value(data)
        if below is None or above is None or not one:
            return None
        return 1 + (above - below) / one

    return times


TARGETS = (
    _forwarding(4, 0.25),
    _forwarding(6, 0.333),
    Target(
        "IPv4 policy 0 over the floor (45 ns where that is 15)",
        3.0,
        "floors",
        _over(_cell("packets", "IPv4 policy 0", "over_floor_ns"), _ns("floor")),
        _over(_cell("packets", "kernel-exact minimum IPv4", "over_floor_ns"), _ns("floor")),
    ),
    _router(4),
    _router(6),
    Target(
        "1,000,000 routes at random against 1 route",
        3.0,
        "times",
        _over(
            _ns("IPv4 policy 0, 1,000,000 routes at random"),
            _ns("IPv4 policy 0, 1 route at random"),
        ),
        _one_look_up_more(_ns("IPv4 policy 0, 1 route at random")),
    ),
    Target(
        "1,024 paths against 2",
        1.3,
        "times",
        _over(_ns("IPv4 policy 0, 1,024 paths"), _ns("IPv4 policy 0")),
    ),
    Target("attach to in sync, 1,000 routes", 0.6, "s", _control("attach", 1_000, scale=0.001)),
    Target("attach to in sync, 100,000 routes", 2.5, "s", _control("attach", 100_000, scale=0.001)),
    Target(
        "attach to in sync, 1,000,000 routes", 15.0, "s", _control("attach", 1_000_000, scale=0.001)
    ),
    Target(
        "peak memory, 1,000,000 routes",
        700.0,
        "MiB",
        _greatest(_control("attach_memory", 1_000_000), _control("agent_memory", 1_000_000)),
    ),
    Target("weight change to the first packet, p99", 10.0, "ms", _control("change", column="p99")),
    Target("in sync after 100,000 route changes", 3.0, "s", _control("burst", scale=0.001)),
    Target("hash key found by search, all seeds", 90.0, "s", _control("key_search_all")),
    Target("idle agent, at any size", 0.5, "% of a core", _control("idle")),
)


def rows(data: Data) -> list[dict[str, Any]]:
    """One a target whose value was measured; a control plane that never came to an end has none."""
    found = []
    for target in TARGETS:
        value = target.value(data)
        if value is None:
            continue
        minimum = target.minimum(data) if target.minimum else None
        found.append(
            {
                "name": target.name,
                "unit": target.unit,
                "limit": target.limit,
                "value": round(value, 3),
                "minimum": None if minimum is None else round(minimum, 3),
                "reached": value <= target.limit,
            }
        )
    return found
