"""Attaching and detaching an XDP program, without ever touching somebody else's.

Every change names what has to be there before it, for the kernel to compare (XDP_FLAGS_REPLACE with
a descriptor, or XDP_FLAGS_UPDATE_IF_NOEXIST), and what is there afterwards is read back: detaching
in the wrong mode is answered with success and does nothing.

Source: dev_xdp_attach() in net/core/dev.c.
"""

from __future__ import annotations

import os
import socket
import struct
from errno import EBUSY, EEXIST, EOPNOTSUPP
from pathlib import Path

from ..errors import ForeignProgram, KernelRefused, NoSuchInterface, XdpecmpError
from . import wire
from .links import IFLA_XDP, LINK_HEADER, read_link
from .rtnetlink import RTM_SETLINK

_IFLA_XDP_FD = 1
_IFLA_XDP_FLAGS = 3
_IFLA_XDP_EXPECTED_FD = 8
"""include/uapi/linux/if_link.h. Set here rather than by libbpf, which leaves what the kernel says
about a refusal (NLMSGERR_ATTR_MSG) to its log."""
_UPDATE_IF_NOEXIST = 1
_SKB_MODE = 2
_DRV_MODE = 4
_REPLACE = 16
"""XDP_FLAGS_* (include/uapi/linux/if_link.h)."""
_MODES = {"native": _DRV_MODE, "generic": _SKB_MODE}


def attach(
    connection: wire.Socket,
    ifindex: int,
    prog_fd: int,
    mode: str,
    expected_fd: int | None = None,
) -> int:
    """Attach a program in mode "native" or "generic"; returns its id.

    Without `expected_fd` no program may be there; with it (a descriptor) exactly that program, and
    it is replaced without a gap. Raises ForeignProgram if it is otherwise, NoSuchInterface,
    NotPermitted, KernelRefused (EOPNOTSUPP if the driver knows no native mode), with the
    kernel's own words if it has some.
    """
    before = _UPDATE_IF_NOEXIST if expected_fd is None else _REPLACE
    link = read_link(connection, ifindex)
    name = link.name
    try:
        _set(connection, ifindex, name, prog_fd, _MODES[mode] | before, expected_fd)
    except KernelRefused as error:
        expected = program_id(expected_fd) if expected_fd is not None else 0
        if error.errno == EEXIST and link.xdp_prog_id == expected:
            raise _blocked(name) from error
        raise _attach_error(error, name, mode) from error
    link = read_link(connection, ifindex)
    wanted = program_id(prog_fd)
    if (link.xdp_mode, link.xdp_prog_id) != (mode, wanted):
        raise ForeignProgram(
            f"{name} has program {link.xdp_prog_id} ({link.xdp_mode or 'none'})"
            f" instead of {wanted} ({mode}), just attached",
            f"look at it: ip link show dev {name}",
        )
    return wanted


def _blocked(name: str) -> ForeignProgram:
    """Nothing is on the device itself that should not be."""
    return ForeignProgram(
        f"the kernel changes no XDP program of {name} while a device on top of it, in another "
        "network namespace perhaps, has one",
        "look for it: ip -all netns exec ip -d link show",
    )


def _attach_error(error: KernelRefused, name: str, mode: str) -> XdpecmpError:
    if error.errno in (EBUSY, EEXIST):
        return ForeignProgram(
            f"{name} has another XDP program attached than expected",
            f"look at it: ip link show dev {name}",
        )
    if error.errno == EOPNOTSUPP and mode == "native" and not error.reason:
        return KernelRefused(
            f"{name}: its driver has no native XDP", error.errno, "use --mode generic"
        )
    if mode == "native":
        return KernelRefused(
            f"{name}: the kernel refuses native XDP: {error.why}",
            error.errno,
            f"use generic XDP, slower: xdpecmp attach {name} --mode generic",
            error.reason,
        )
    return KernelRefused(
        f"{name}: the kernel refuses {mode} XDP: {error.why}", error.errno, "", error.reason
    )


def detach(connection: wire.Socket, ifindex: int, mode: str, expected_fd: int) -> None:
    """Detach the program behind `expected_fd`, which is attached in that mode.

    Raises ForeignProgram if another program is there, or it is there in another mode, or none is;
    NoSuchInterface, NotPermitted, KernelRefused.
    """
    link = read_link(connection, ifindex)
    expected = program_id(expected_fd)
    foreign = ForeignProgram(
        f"program {expected} ({mode}) is not what {link.name} has attached:"
        f" {link.xdp_prog_id or 'nothing'} {link.xdp_mode}".rstrip(),
        f"look at it: ip link show dev {link.name}",
    )
    if (link.xdp_mode, link.xdp_prog_id) != (mode, expected):
        raise foreign
    try:
        _set(connection, ifindex, link.name, None, _MODES[mode] | _REPLACE, expected_fd)
    except KernelRefused as error:
        if error.errno == EEXIST and read_link(connection, ifindex).xdp_prog_id == expected:
            raise _blocked(link.name) from error
        raise (foreign if error.errno in (EBUSY, EEXIST) else error) from error
    if read_link(connection, ifindex).xdp_prog_id == expected:
        raise KernelRefused(f"{link.name}: program {expected} is still attached", 0)


def _set(
    connection: wire.Socket,
    ifindex: int,
    name: str,
    prog_fd: int | None,
    flags: int,
    expected_fd: int | None,
) -> None:
    """Set a device's program; None takes it off. Raises KernelRefused, NotPermitted,
    NoSuchInterface."""
    values = [
        (_IFLA_XDP_FD, struct.pack("=i", -1 if prog_fd is None else prog_fd)),
        (_IFLA_XDP_FLAGS, struct.pack("=I", flags)),
    ]
    if expected_fd is not None:
        values.append((_IFLA_XDP_EXPECTED_FD, struct.pack("=i", expected_fd)))
    nested = b"".join(wire.attribute(kind, value) for kind, value in values)
    request = LINK_HEADER.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
    request += wire.attribute(IFLA_XDP | wire.NLA_F_NESTED, nested)
    try:
        connection.tell(RTM_SETLINK, 0, request, f"XDP program of {name}")
    except NoSuchInterface:
        raise NoSuchInterface(name) from None


def program_id(descriptor: int) -> int:
    """The id of the BPF program behind a descriptor. Raises OSError, ValueError if it is none."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "prog_id":
            return int(value)
    raise ValueError(f"descriptor {descriptor} ({os.readlink(f'/proc/self/fd/{descriptor}')})")
