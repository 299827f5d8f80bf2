"""Our program on interfaces: where it may go, in which mode, and how it gets there and off again
without a packet missing it.

The kernel changes no program of a device, nor takes one off, while a device that stands on it has
one (dev_xdp_attach() in net/core/dev.c). So programs get on from below and off from above, and one
that is in the way is taken off for the moment: what comes in there then passes to Linux.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import ForeignProgram, KernelRefused, NoSuchInterface, XdpecmpError
from ..model.values import Link
from ..netlink import Kernel
from ..observe.devices import our_links
from ..program import libbpf

MODES = ("auto", "native", "generic")

Links = Mapping[int, Link]


def is_better_generic(link: Link) -> bool:
    """Unfinished checksums survive a redirect in generic mode only."""
    return link.leaves_checksums


@dataclass
class Attached:
    """What `attach` did, and what its user should know."""

    modes: dict[str, str] = field(default_factory=dict)
    """Interface name → "native" or "generic"."""
    notes: list[str] = field(default_factory=list)


# --- which ones ----------------------------------------------------------------------------------


def check_interfaces(links: Links, ours: Collection[int], names: Sequence[str]) -> list[Link]:
    """The links to attach to: the named ones and those that are attached already. For a bond that
    is each of its links, where VLAN tags can still be seen."""
    by_name = {link.name: link for link in links.values()}
    for name in names:
        if name not in by_name:
            raise NoSuchInterface(name)
    attached = our_links(links.values(), ours)
    chosen = [*expanded([by_name[name] for name in names], links), *expanded(attached, links)]
    chosen = list(dict.fromkeys(chosen))
    for link in chosen:
        check_interface(link, links, ours)
    return chosen


def expanded(chosen: Iterable[Link], links: Links) -> list[Link]:
    """These, with the links of a bond in place of the bond. Raises XdpecmpError for a bond without
    links."""
    result: list[Link] = []
    for link in chosen:
        below = [each for each in links.values() if each.master == link.ifindex]
        if link.kind != "bond":
            result.append(link)
        elif below:
            result += below
        else:
            raise XdpecmpError(
                f"{link.name} is a bond without links",
                f"give it one: ip link set IFACE master {link.name}",
            )
    return list(dict.fromkeys(result))


def check_interface(link: Link, links: Links, ours: Collection[int]) -> None:
    """Raises XdpecmpError if a program of ours cannot be attached; `ours`: ids of those."""
    if len(link.mac) != 6 or link.name == "lo":
        raise XdpecmpError(
            f"{link.name} has no Ethernet header to forward by",
            "choose an Ethernet device: ip -br link show",
        )
    if link.kind == "vlan" and link.lower in links:
        below = links[link.lower].name
        raise XdpecmpError(
            f"{link.name} is a VLAN device",
            f"attach to the device below it, which covers it: xdpecmp attach {below}",
        )
    if link.xdp_prog_id and link.xdp_prog_id not in ours:
        raise ForeignProgram(
            f"{link.name} already has an XDP program that is not ours (id {link.xdp_prog_id}), and "
            "two cannot share an interface",
            f"see whose it is: bpftool prog show id {link.xdp_prog_id}",
        )
    check_above(link, links, ours)


def check_above(link: Link, links: Links, ours: Collection[int]) -> None:
    """Raises ForeignProgram if another's program, on top of it, is in the way."""
    for upper in above(link, links):
        if upper.xdp_prog_id and upper.xdp_prog_id not in ours:
            raise ForeignProgram(
                f"the kernel changes no XDP program of {link.name} while {upper.name}, on top of "
                f"it, has one, which is not ours (id {upper.xdp_prog_id})",
                f"see whose it is: bpftool prog show id {upper.xdp_prog_id}",
            )


# --- what stands on what -------------------------------------------------------------------------


def above(link: Link, links: Links) -> list[Link]:
    """The devices that stand on it directly: its master, VLANs, macvlans ..."""
    return [
        each
        for each in links.values()
        if each.ifindex == link.master or each.lower == link.ifindex or link.ifindex in each.ports
    ]


def bottom_up(chosen: Collection[Link], links: Links) -> list[Link]:
    """These, each before what stands on it."""
    heights: dict[int, int] = {}

    def depth(link: Link) -> int:
        """How many devices stand above each other on it."""
        if link.ifindex not in heights:
            heights[link.ifindex] = 0  # whatever a loop would come to
            heights[link.ifindex] = max((1 + depth(each) for each in above(link, links)), default=0)
        return heights[link.ifindex]

    return sorted(chosen, key=depth, reverse=True)


def in_the_way(chosen: Collection[Link], links: Links) -> list[Link]:
    """What has a program and stands on one of these, the topmost first."""
    found = {each.ifindex: each for link in chosen for each in above(link, links)}
    return bottom_up([each for each in found.values() if each.xdp_prog_id], links)[::-1]


# --- on ------------------------------------------------------------------------------------------


def attach_all(
    kernel: Kernel, links: Sequence[Link], program: int, mode: str, every: Links
) -> Attached:
    """On all of them or, if one refuses, on none that had no program of ours before. `every`:
    all devices. A bond that runs our program has it taken off: its links do now."""
    result = Attached()
    links = bottom_up(links, every)
    lifted: list[Link] = []
    try:
        for link in in_the_way(links, every):
            detach_one(kernel, link)
            lifted.append(link)
        for link in links:
            wish = link.xdp_mode if link in lifted and mode == "auto" else mode
            now = _bare(link) if link in lifted else link
            result.modes[link.name] = _attach_one(kernel, now, program, wish, result.notes)
        if mode == "auto":
            _same_mode_for_bonds(kernel, links, program, result)
    except BaseException:
        _undo(kernel, links, lifted, program, result.modes, every)
        raise
    return result


def _bare(link: Link) -> Link:
    return replace(link, xdp_prog_id=0, xdp_mode="")


def _same_mode_for_bonds(
    kernel: Kernel, links: Sequence[Link], program: int, result: Attached
) -> None:
    """What VLAN devices of a bond receive is treated alike by whichever link it came: if one of
    them has no native XDP all take generic mode."""
    for link in links:
        modes = {result.modes[each.name] for each in links if each.master == link.master}
        if link.delivers and len(modes) > 1 and result.modes[link.name] == "native":
            kernel.detach_xdp(link.ifindex, "native", program)
            del result.modes[link.name]
            kernel.attach_xdp(link.ifindex, program, "generic")
            result.modes[link.name] = "generic"


def _undo(
    kernel: Kernel,
    links: Sequence[Link],
    lifted: Sequence[Link],
    program: int,
    modes: Mapping[str, str],
    every: Links,
) -> None:
    """The interfaces get back what they had: `links` is how they were, `modes` how our program runs
    on those that have it by now."""
    for link in reversed(links):
        if link.name in modes and (link in lifted or not link.xdp_prog_id):
            kernel.detach_xdp(link.ifindex, modes[link.name], program)
    for link in bottom_up([*links, *(each for each in lifted if each not in links)], every):
        if link in lifted:
            _put_back(kernel, link)
        elif link.xdp_prog_id and link.name in modes:
            _undo_one(kernel, link, program, modes[link.name])


def _put_back(kernel: Kernel, link: Link) -> None:
    """The program that it had, in the mode that it had."""
    before = libbpf.program_by_id(link.xdp_prog_id)
    try:
        kernel.attach_xdp(link.ifindex, before, link.xdp_mode)
    finally:
        os.close(before)


def _undo_one(kernel: Kernel, link: Link, program: int, mode: str) -> None:
    before = libbpf.program_by_id(link.xdp_prog_id)
    try:
        if mode == link.xdp_mode:
            kernel.attach_xdp(link.ifindex, before, mode, program)
        else:
            kernel.detach_xdp(link.ifindex, mode, program)
            kernel.attach_xdp(link.ifindex, before, link.xdp_mode)
    finally:
        os.close(before)


def _attach_one(kernel: Kernel, link: Link, program: int, mode: str, notes: list[str]) -> str:
    """The mode it ended in. A program of ours is replaced in one step, so that no packet misses it;
    only a change of mode takes two."""
    current = libbpf.program_by_id(link.xdp_prog_id) if link.xdp_prog_id else None
    try:
        if current is not None and mode in ("auto", link.xdp_mode):
            kernel.attach_xdp(link.ifindex, program, link.xdp_mode, current)
            return link.xdp_mode
        if current is not None:
            _change_mode(kernel, link, current, program, mode)
            return mode
    finally:
        if current is not None:
            os.close(current)
    if mode == "auto" and is_better_generic(link):
        mode = "generic"
    if mode == "auto":
        try:
            kernel.attach_xdp(link.ifindex, program, "native")
            return "native"
        except KernelRefused as error:
            notes.append(f"{link.name}: no native XDP ({error.why}); generic mode")
            mode = "generic"
    kernel.attach_xdp(link.ifindex, program, mode)
    return mode


def _change_mode(kernel: Kernel, link: Link, current: int, program: int, mode: str) -> None:
    """If the new mode is refused, the earlier program is back in its mode."""
    kernel.detach_xdp(link.ifindex, link.xdp_mode, current)
    try:
        kernel.attach_xdp(link.ifindex, program, mode)
    except BaseException:
        kernel.attach_xdp(link.ifindex, current, link.xdp_mode)
        raise


# --- off -----------------------------------------------------------------------------------------


def detach_all(
    kernel: Kernel, chosen: Collection[Link], every: Links, ours: Collection[int]
) -> None:
    """Off these, from above; what is in the way gets its program back. Raises ForeignProgram if
    that is not ours; then nothing has changed."""
    for link in chosen:
        check_above(link, every, ours)
    ordered = bottom_up([*chosen, *in_the_way(chosen, every)], every)
    ordered = list(dict.fromkeys(ordered))[::-1]
    for link in ordered:
        detach_one(kernel, link)
    for link in reversed(ordered):
        if link not in chosen:
            _put_back(kernel, link)


def detach_one(kernel: Kernel, link: Link) -> None:
    current = libbpf.program_by_id(link.xdp_prog_id)
    try:
        kernel.detach_xdp(link.ifindex, link.xdp_mode, current)
    finally:
        os.close(current)
