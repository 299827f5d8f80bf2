"""Named network namespaces, as `ip netns` keeps them.

Only the network namespace is entered: the mounts stay, and with them the pins in /sys/fs/bpf.
`ip netns exec` would mount a fresh /sys and hide them.
"""

from __future__ import annotations

import ctypes
import os
from errno import EINVAL
from pathlib import Path

from .errors import NoSuchNamespace, NotPermitted

NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def enter(name: str) -> None:
    """Move the calling thread into the namespace of that name. Raises NoSuchNamespace,
    NotPermitted."""
    if not name or "/" in name or name in (".", ".."):
        raise NoSuchNamespace(name)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with (NAMED / name).open() as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0:
                return
    except FileNotFoundError:
        raise NoSuchNamespace(name) from None
    except PermissionError:
        raise NotPermitted(f"entering the network namespace {name}") from None
    errno = ctypes.get_errno()
    if errno == EINVAL:  # a plain file: what is left of a namespace whose mount is gone
        raise NoSuchNamespace(name)
    raise NotPermitted(f"entering the network namespace {name} ({os.strerror(errno)})")


def current_id() -> int:
    """The inode number by which the kernel knows the current namespace (`lsns -t net`)."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def has_name(name: str, nsid: int) -> bool:
    """Whether the namespace of that number still goes by that name."""
    try:
        return (NAMED / name).stat().st_ino == nsid
    except FileNotFoundError:
        return False
