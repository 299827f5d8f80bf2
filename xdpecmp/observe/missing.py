"""Interfaces that were asked for and do not run our program, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..model.options import Wanted
from ..model.values import Link
from .devices import our_links


@dataclass(frozen=True, slots=True)
class Missing:
    """An interface that was asked for and does not run our program."""

    ifname: str
    mode: str
    why: str
    returns: bool
    """Whether the agent attaches to it when it can."""


def missing(
    wanted: Mapping[str, Wanted], links: Collection[Link], ours: Collection[int]
) -> list[Missing]:
    """Those that were asked for and do not run a program of ours, and why."""
    by_name = {link.name: link for link in links}
    attached = {link.ifindex for link in our_links(links, ours)}
    found = []
    for name, each in wanted.items():
        link = by_name.get(name)
        if each.ifindex in attached or (link is not None and link.ifindex in attached):
            continue  # under another name, perhaps
        if link is None:
            why, returns = "there is no such interface now: attached again when it is back", True
        elif link.xdp_prog_id:
            again = f"remove that, then: xdpecmp attach {name}"
            why, returns = f"it has another XDP program (id {link.xdp_prog_id}); {again}", False
        elif link.ifindex == each.ifindex:
            why = f"somebody has taken the program off; attach it again: xdpecmp attach {name}"
            returns = False
        else:
            why, returns = "it is back and being attached again", True
        found.append(Missing(name, each.mode, why, returns))
    return found
