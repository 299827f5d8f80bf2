"""Being in a network namespace for a moment.

A `Kernel` belongs to the namespace that it was opened in, though the thread that uses it may have
moved on. Its sockets stay behind; /proc/sys/net and sockets made later do not.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EPERM

from ..errors import KernelRefused, NotPermitted, XdpecmpError

_CURRENT = "/proc/thread-self/ns/net"
CLONE_NEWNET = 0x40000000
"""include/uapi/linux/sched.h."""
_libc = ctypes.CDLL(None, use_errno=True)


def current_namespace() -> int:
    """A new file descriptor for the calling thread's network namespace; close it after use."""
    return os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Be in the namespace behind a file descriptor; costs 10 µs if the thread is there already."""
    there, here = os.fstat(namespace), os.stat(_CURRENT)
    if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
        yield
        return
    home = current_namespace()
    try:
        _setns(namespace)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


@contextmanager
def fresh() -> Iterator[None]:
    """Be in a new namespace, which goes with the last file that was opened in it."""
    home = current_namespace()
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            raise _refused("making a network namespace", ctypes.get_errno())
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(descriptor: int) -> None:
    """Move the calling thread; nothing but its network namespace changes."""
    if _libc.setns(descriptor, CLONE_NEWNET) == 0:
        return
    raise _refused("changing the network namespace", ctypes.get_errno())


def _refused(what: str, errno: int) -> XdpecmpError:
    if errno == EPERM:
        return NotPermitted(what)
    return KernelRefused(f"{what}: {os.strerror(errno)}", errno)
