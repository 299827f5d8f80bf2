"""Which devices systemd-networkd configures: it does not say so in the routes that it makes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..model.values import Link

STATE = Path("/run/systemd/netif/links")
"""A file for each device of the namespace that networkd runs in, by index: networkctl(1)."""


def networkd_devices(links: Mapping[int, Link], state: Path = STATE) -> set[str]:
    """Names of those of `links`, the devices of this process's namespace. None if networkd does
    not run, or in another namespace."""
    if not _is_first_namespace():
        return set()
    return set(_managed(links, state))


def _managed(links: Mapping[int, Link], state: Path) -> Iterable[str]:
    for ifindex, link in links.items():
        try:
            text = (state / str(ifindex)).read_text()
        except OSError:
            continue
        if "NETWORK_FILE=" in text and "ADMIN_STATE=unmanaged" not in text:
            yield link.name


def _is_first_namespace() -> bool:
    """Whether it is that of the first process, where services run."""
    try:
        return os.stat("/proc/thread-self/ns/net").st_ino == os.stat("/proc/1/ns/net").st_ino
    except OSError:
        return False
