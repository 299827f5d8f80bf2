"""xdpecmp on the demo's router, by its own command line: what the reader would type."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .commands import run_apart
from .errors import DemoError

_DEADLINE = 300.0  # seconds; attaching takes under one, but a minute in an emulated machine


@dataclass(frozen=True)
class Counters:
    """What the data path forwarded itself: packets by next hop, ICMP errors by type."""

    nexthops: dict[str, int]
    icmp_errors: dict[str, int]


@contextlib.contextmanager
def attached(namespace: str, *arguments: str) -> Iterator[None]:
    """xdpecmp attached in a namespace for a `with` block; `arguments` of `attach`.

    It is detached before the namespace goes: the agent would notice that a second later only.
    """
    try:
        _xdpecmp(namespace, "attach", *arguments)
        yield
    finally:
        attach_failed = isinstance(sys.exception(), DemoError)
        try:
            _xdpecmp(namespace, "detach", "--all")
        except DemoError:
            if not attach_failed:  # else nothing may be there to detach, and why is known already
                raise


def counters(namespace: str) -> Counters:
    """`xdpecmp stats -j`."""
    stats: dict[str, Any] = json.loads(_xdpecmp(namespace, "stats", "-j"))
    return Counters(
        nexthops={row["via"]: row["packets"] for row in stats["nexthops"]},
        icmp_errors=stats["icmp_errors"],
    )


def multipath_passes(namespace: str) -> str:
    """Why multipath routes are left to Linux, by `xdpecmp status -j`; "" if they are not."""
    rows = json.loads(_xdpecmp(namespace, "status", "-j"))["passed"]
    return next((row["text"] for row in rows if row["what"].endswith("multipath")), "")


def _xdpecmp(namespace: str, *arguments: str) -> str:
    """Run a command of this very xdpecmp and return what it printed; DemoError if it fails."""
    command = ("xdpecmp", "-n", namespace, *arguments)
    try:
        done = run_apart(sys.executable, "-m", *command, timeout=_DEADLINE)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{' '.join(command)}: not done after {_DEADLINE:.0f} s") from error
    if done.returncode != 0:
        message = done.stderr.strip().removeprefix("xdpecmp: ").replace("\n", "; ")
        raise DemoError(f"{' '.join(command)}: {message or f'exit status {done.returncode}'}")
    return done.stdout
