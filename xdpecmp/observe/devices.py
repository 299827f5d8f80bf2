"""Devices as they are shown: what they are called, and which of them run our program."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ..model.values import Link, NextHop


class Hop(NamedTuple):
    """A next hop in words."""

    via: str | None
    """None for a host on the link."""
    dev: str

    def __str__(self) -> str:
        return f"via {self.via} dev {self.dev}" if self.via else f"on-link dev {self.dev}"


def hop(links: Mapping[int, Link], nexthop: NextHop) -> Hop:
    """A next hop in words."""
    via = str(ipaddress.ip_address(nexthop.via)) if nexthop.via else None
    return Hop(via, device_name(links, nexthop.ifindex))


def device_name(links: Mapping[int, Link], ifindex: int) -> str:
    """Of a device that has gone: "if" and its index."""
    link = links.get(ifindex)
    return link.name if link else f"if{ifindex}"


def our_links(links: Iterable[Link], ours: Collection[int]) -> list[Link]:
    """Those that run one of our programs, whose ids `ours` are."""
    return [link for link in links if link.xdp_prog_id in ours]
