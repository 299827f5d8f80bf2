"""Detaching: the program off the interfaces and, with the last one, all of the instance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..errors import NoSuchInterface, NotPermitted, XdpecmpError
from ..instance.instance import Instance, NotAttached
from ..model.values import Link
from ..netlink import Kernel, netns
from ..observe.missing import missing
from .astray import take_off
from .attachment import bottom_up, check_above, detach_all, detach_one, expanded
from .leftovers import sweep


def detach(names: Sequence[str]) -> list[str]:
    """Detach from the named interfaces, or from all if none is named; returns their names.

    With the last one the agent ends and everything is unpinned. Raises NotAttached if there is
    nothing of ours, XdpecmpError for an interface without our program.
    """
    if os.geteuid() != 0:
        raise NotPermitted("detaching an XDP program")
    instance = Instance()
    sweep(instance.nsid)
    with instance.changing(), Kernel() as kernel:
        links = kernel.links()
        ours, wanted = instance.program_ids(), instance.wanted()
        attached = {link.name: link for link in links.values() if link.xdp_prog_id in ours}
        by_name = {link.name: link for link in links.values()}
        chosen = list(attached) + list(wanted.keys() - attached.keys())
        if names:
            chosen = []
        for name in names:
            found = expanded([by_name[name]], links) if name in by_name else []
            mine = [link.name for link in found if link.name in attached or link.name in wanted]
            if name in attached or name in wanted:  # a bond that an earlier version attached to
                mine.append(name)
            if not mine:
                _explain_not_attached(name, links)
            chosen += mine
        if not instance.present():
            raise NotAttached
        chosen = list(dict.fromkeys(chosen))
        leaving = [attached[name] for name in chosen if name in attached]
        for link in leaving:
            check_above(link, links, ours)
        left = {name: each for name, each in wanted.items() if name not in chosen}
        waiting = [each for each in missing(left, links.values(), ours) if each.returns]
        if not wanted.keys() & set(chosen) <= by_name.keys():
            take_off(instance.nsid, ours)  # which an agent has done, if there was one
        if attached.keys() <= set(chosen) and not waiting:
            instance.stop_agent()
            tear_down(instance, kernel)
        else:
            instance.record_wanted(left)  # first, so that the agent attaches nothing again
            detach_all(kernel, leaving, links, ours)
        return chosen


def _explain_not_attached(name: str, links: Mapping[int, Link]) -> None:
    if all(link.name != name for link in links.values()):
        raise NoSuchInterface(name)
    raise XdpecmpError(
        f"{name} does not run our program", "see which interfaces do: xdpecmp status"
    )


def _is_attached(instance: Instance, kernel: Kernel) -> bool:
    """Whether an interface runs a program of ours."""
    ours = instance.program_ids()
    return any(link.xdp_prog_id in ours for link in kernel.links().values() if link.xdp_prog_id)


def stays(instance: Instance, kernel: Kernel) -> bool:
    """Whether an interface runs a program of ours, or one that did may come back."""
    if _is_attached(instance, kernel):
        return True
    ours, links = instance.program_ids(), kernel.links().values()
    waiting = any(each.returns for each in missing(instance.wanted(), links, ours))
    return waiting and netns.is_in_use(instance.nsid)


def tear_down(instance: Instance, kernel: Kernel) -> None:
    """Take everything of the instance away: programs, managed neighbours, pins, files."""
    ours, links = instance.program_ids(), kernel.links()
    attached = [link for link in links.values() if link.xdp_prog_id in ours]
    failed: list[Exception] = []
    for link in reversed(bottom_up(attached, links)):
        try:
            detach_one(kernel, link)
        except (XdpecmpError, OSError) as error:  # perhaps the device has just gone
            failed.append(error)
    if failed and _is_attached(instance, kernel):
        raise failed[0]
    managed = {key for key, entry in kernel.neighbours().items() if entry.managed}
    for nexthop in instance.managed():
        if (nexthop.via, nexthop.ifindex) in managed:
            with suppress(XdpecmpError):  # one that has just gone is no reason to leave the rest
                kernel.release_neighbour(nexthop.via, nexthop.ifindex)
    instance.remove()
