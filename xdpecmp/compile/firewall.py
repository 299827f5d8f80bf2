"""What of Linux's filters bears on what our interfaces forward: see `model.Filters`.

XDP comes before netfilter and traffic control. So while there is one filter on the way of forwarded
packets, whatever its rules say, its family passes to Linux as a whole, unless the operator has
given his word that it may be bypassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ..model.values import EGRESS, INGRESS, Filters, Link


class Findings(NamedTuple):
    """What would see forwarded packets, in words, by family."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()

    def all(self) -> tuple[str, ...]:
        """Of both, each once."""
        return tuple(dict.fromkeys(self.ipv4 + self.ipv6))


def bearing(
    filters: Filters, links: Mapping[int, Link], attached: Iterable[int], egress: Iterable[int]
) -> Findings:
    """Those that bear on what comes in by `attached`, our interfaces, and leaves by `egress`, the
    devices of next hops."""
    if not filters.found and not filters.unread:
        return Findings()
    entered, left = above(links, attached), below(links, egress)
    bridged = any(_is_bridged(links, ifindex) for ifindex in entered | left)
    found = [
        each
        for each in filters.found
        if (bridged or not each.bridged)
        and (not each.ifindex or each.ifindex in {INGRESS: entered, EGRESS: left}[each.side])
    ]
    return Findings(
        (*(each.what for each in found if each.ipv4), *filters.unread),
        (*(each.what for each in found if each.ipv6), *filters.unread),
    )


def guarded(filters: Filters, links: Mapping[int, Link]) -> frozenset[int]:
    """Devices that nothing may be sent by, since it would miss a filter there."""
    watched = {each.ifindex for each in filters.found if each.side == EGRESS}
    if not watched:
        return frozenset()
    return frozenset(ifindex for ifindex in links if below(links, [ifindex]) & watched)


def above(links: Mapping[int, Link], devices: Iterable[int]) -> set[int]:
    """These, what they belong to, the VLANs over all of them, and the links that a bond or team
    among them consists of: where Linux may see a frame that one of these receives."""
    given = list(devices)
    found = {*given, *(link.ifindex for link in links.values() if link.master in given)}
    return _closure(
        found,
        lambda known: (
            *(links[ifindex].master for ifindex in known if ifindex in links),
            *(link.ifindex for link in links.values() if link.lower in known),
        ),
    )


def below(links: Mapping[int, Link], devices: Iterable[int]) -> set[int]:
    """These, what they are VLANs over, and what is enslaved to them: where Linux may see a frame
    that is sent by one of these."""
    return _closure(
        set(devices),
        lambda known: (
            *(links[ifindex].lower for ifindex in known if ifindex in links),
            *(link.ifindex for link in links.values() if link.master in known),
        ),
    )


def _closure(found: set[int], step: Callable[[set[int]], Iterable[int]]) -> set[int]:
    fresh = found - {0}
    found = set(fresh)
    while fresh:
        fresh = set(step(fresh)) - found - {0}
        found |= fresh
    return found


def _is_bridged(links: Mapping[int, Link], ifindex: int) -> bool:
    """Whether a device is a bridge or a port of one."""
    link = links.get(ifindex)
    master = links.get(link.master) if link else None
    return any(each is not None and each.kind == "bridge" for each in (link, master))
