"""What the user of a fresh data path should know about how it chooses next hops."""

from __future__ import annotations

from contextlib import suppress

from .agent import EVERYTHING, Mirror
from .errors import XdpecmpError
from .instance import FLOW_LABEL_TEXT
from .model import NextHop, Prefix
from .verify import first_disagreement


def flow_label_notes(mirror: Mirror, choice: str) -> list[str]:
    """When servers have to reflect flow labels."""
    tables = mirror.tables
    if tables is None or tables.config.policy6 != 0 or not tables.groups:
        return []
    for prefix, target in tables.routes.items():
        if prefix.family == 6 and not isinstance(target, int | NextHop):
            return [FLOW_LABEL_TEXT[choice]]
    return []


def check_choice(mirror: Mirror) -> list[str]:
    """Whether this very kernel chooses as we reckon, tried with some flows: the kernel promises no
    stability of its hash."""
    prefix = _disagreement(mirror)
    if prefix is not None:  # unless something has just changed
        mirror.pull(EVERYTHING)
        mirror.push()
        prefix = _disagreement(mirror)
    if prefix is None:
        return []
    return [
        f"Linux chooses other next hops for {prefix} than xdpecmp does, so flows move; see how: "
        "xdpecmp verify; leave it to Linux again: xdpecmp detach --all"
    ]


def _disagreement(mirror: Mirror) -> Prefix | None:
    tables = mirror.tables
    if tables is None:
        return None
    with suppress(XdpecmpError):  # an interface that has just gone: not for `attach` to fail by
        for ifindex in sorted(mirror.attached() & tables.interfaces.keys()):
            prefix = first_disagreement(mirror.kernel, tables, ifindex)
            if prefix is not None:
                return prefix
    return None
