"""Network namespaces: by name, as `ip netns` keeps them, by path, or by a process in them.

Only the network namespace is entered: the mounts stay, and with them the pins in /sys/fs/bpf.
`ip netns exec` would mount a fresh /sys and hide them.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from contextlib import suppress
from errno import EINVAL
from pathlib import Path

from ..errors import NoSuchNamespace, NotPermitted
from .namespace import CLONE_NEWNET

NAMED = Path("/run/netns")
_SO_NETNS_COOKIE = 71


def enter(name: str) -> None:
    """Move the calling thread into the namespace of that name or path, or of the process of that
    number (if nothing has that name). Raises NoSuchNamespace, NotPermitted."""
    if not name or name in (".", "..") or "\0" in name:
        raise NoSuchNamespace(name)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with file_of(name).open() as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) == 0:
                return
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NoSuchNamespace(name) from None
    except PermissionError:
        raise NotPermitted(f"entering the network namespace {name}") from None
    errno = ctypes.get_errno()
    if errno == EINVAL:  # a plain file: what is left of a namespace whose mount is gone
        raise NoSuchNamespace(name)
    raise NotPermitted(f"entering the network namespace {name} ({os.strerror(errno)})")


def file_of(name: str) -> Path:
    """What stands for the namespace of that name, path or process id."""
    if "/" in name:
        return Path(name)
    named = NAMED / name
    if not named.exists() and name.isascii() and name.isdecimal():
        return Path(f"/proc/{name}/ns/net")
    return named


def current_id() -> int:
    """The inode number by which the kernel knows the current namespace (`lsns -t net`)."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def current_cookie() -> int:
    """A number that no other namespace has had since the machine was booted; inode numbers are used
    again. 0 before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, suppress(OSError):
        return int.from_bytes(
            any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder
        )
    return 0


def boot_id() -> str:
    """Of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def names(nsid: int) -> list[str]:
    """What the namespace of that number is called: it may have several names, or none."""
    try:
        found = os.listdir(NAMED)
    except OSError:
        return []
    return [name for name in found if has_name(name, nsid)]


def is_in_use(nsid: int) -> bool:
    """Whether the namespace has a name, something keeps it by a mount (as container engines do), or
    a process besides this one lives in it."""
    if names(nsid) or _is_mounted(nsid):
        return True
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.stat(f"{entry.path}/ns/net").st_ino == nsid:
                    return True
    return False


def _is_mounted(nsid: int) -> bool:
    for process in ("self", "1"):
        with suppress(OSError):
            if f" net:[{nsid}] " in Path(f"/proc/{process}/mountinfo").read_text():
                return True
    return False


def has_name(name: str, nsid: int) -> bool:
    """Whether the namespace of that number still goes by that name."""
    try:
        found, own = os.stat(NAMED / name), os.stat("/proc/self/ns/net")
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, nsid)
