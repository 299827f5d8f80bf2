"""VLAN devices, seen as the device below them and tags."""

from __future__ import annotations

from collections.abc import Mapping

from ..model.values import Link
from .tables import Tag


def tag_stack(links: Mapping[int, Link], ifindex: int) -> tuple[int, tuple[Tag, ...]] | None:
    """The device below a stack of VLAN devices and the tags, outermost first.

    A device that is no VLAN has no tags. None if a lower device is in another namespace.
    """
    tags: list[Tag] = []
    link = links.get(ifindex)
    while link is not None and link.kind == "vlan":
        tags.append(Tag(link.vlan_protocol, link.vlan_id))
        link = links.get(link.lower)
    return None if link is None else (link.ifindex, tuple(reversed(tags)))
