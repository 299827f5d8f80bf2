"""Kinds of devices, and whether this kernel has them."""

from __future__ import annotations

from functools import cache

from testbed.netns import Namespace
from tests.capabilities import require_stock_kernel


@cache
def _has_kind(kind: str) -> bool:
    with Namespace("kind") as namespace:
        done = namespace.run("ip", "link", "add", "probe", "type", kind, check=False)
    return "Unknown device type" not in done.stderr


def require_kind(kind: str) -> None:
    """Skip where the kernel has no such devices."""
    require_stock_kernel(_has_kind(kind), f"{kind} devices")


@cache
def _has_netem() -> bool:
    with Namespace("netem") as namespace:
        command = "tc qdisc add dev lo root netem delay 1ms"
        return namespace.run(*command.split(), check=False).returncode == 0


def require_netem() -> None:
    """Skip where the kernel cannot delay packets."""
    require_stock_kernel(_has_netem(), "the qdisc netem")
