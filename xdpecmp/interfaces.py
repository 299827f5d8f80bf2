"""Our program on interfaces: where it may go, in which mode, and how it gets there and off again
without a packet missing it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from . import libbpf
from .errors import ForeignProgram, KernelRefused, NoSuchInterface, XdpecmpError
from .model import Link
from .netlink import Kernel

MODES = ("auto", "native", "generic")


def is_better_generic(link: Link) -> bool:
    """Unfinished checksums survive a redirect in generic mode only; on a bond a native program runs
    on each of its links, where nothing is the bond's yet."""
    return link.leaves_checksums or link.kind == "bond"


@dataclass
class Attached:
    """What `attach` did, and what its user should know."""

    modes: dict[str, str] = field(default_factory=dict)
    """Interface name → "native" or "generic"."""
    notes: list[str] = field(default_factory=list)


def check_interfaces(
    links: Mapping[int, Link], ours: Collection[int], names: Sequence[str]
) -> list[Link]:
    """The links to attach to: the named ones and those that are attached already."""
    by_name = {link.name: link for link in links.values()}
    for name in names:
        if name not in by_name:
            raise NoSuchInterface(name)
        check_interface(by_name[name], links, ours)
    attached = [link.name for link in links.values() if link.xdp_prog_id in ours]
    return [by_name[name] for name in dict.fromkeys([*names, *attached])]


def check_interface(link: Link, links: Mapping[int, Link], ours: Collection[int]) -> None:
    """Raises XdpecmpError where a program of ours cannot be attached; `ours`: ids of those."""
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


def attach_all(kernel: Kernel, links: Sequence[Link], program: int, mode: str) -> Attached:
    """On all of them or, where one refuses, on none that had no program of ours before."""
    result = Attached()
    try:
        for link in links:
            result.modes[link.name] = _attach_one(kernel, link, program, mode, result.notes)
    except BaseException:
        for link in links:
            if link.name in result.modes:
                _undo_one(kernel, link, program, result.modes[link.name])
        raise
    return result


def _undo_one(kernel: Kernel, link: Link, program: int, mode: str) -> None:
    """The interface gets back what it had: `link` is how it was, `mode` how our program runs."""
    if not link.xdp_prog_id:
        kernel.detach_xdp(link.ifindex, mode, program)
        return
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
    """Where the new mode is refused, the program of before is back in its own."""
    kernel.detach_xdp(link.ifindex, link.xdp_mode, current)
    try:
        kernel.attach_xdp(link.ifindex, program, mode)
    except BaseException:
        kernel.attach_xdp(link.ifindex, current, link.xdp_mode)
        raise


def detach_one(kernel: Kernel, link: Link) -> None:
    current = libbpf.program_by_id(link.xdp_prog_id)
    try:
        kernel.detach_xdp(link.ifindex, link.xdp_mode, current)
    finally:
        os.close(current)
