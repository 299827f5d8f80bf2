"""Devices that took our program along to another network namespace.

The kernel leaves an XDP program on a device that is moved. What that device receives there is no
business of our maps, which know devices by numbers that are another namespace's: so the program is
taken off.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress

from ..errors import XdpecmpError
from ..netlink import Kernel, netns
from ..netlink.namespace import inside
from .attachment import detach_one

log = logging.getLogger("xdpecmp.agent")


def take_off(own: int, ours: Collection[int]) -> None:
    """Detach the programs of these ids from devices of all other namespaces that have a name or a
    process. `own`: the number of ours."""
    seen = {own}
    for path in _namespaces():
        with suppress(OSError, XdpecmpError):  # it has just gone
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                number = os.fstat(descriptor).st_ino
                if number not in seen:
                    seen.add(number)
                    with inside(descriptor), Kernel() as kernel:
                        _take_off_here(kernel, ours)
            finally:
                os.close(descriptor)


def take_off_meanwhile(own: int, ours: Collection[int]) -> None:
    """The same by a thread, since there may be many namespaces."""
    threading.Thread(target=take_off, args=(own, ours), name="astray", daemon=True).start()


def _take_off_here(kernel: Kernel, ours: Collection[int]) -> None:
    for link in kernel.links().values():
        if link.xdp_prog_id in ours:
            detach_one(kernel, link)
            log.info("%s was moved to another network namespace: detached there", link.name)


def _namespaces() -> Iterator[str]:
    with suppress(OSError):
        yield from (entry.path for entry in os.scandir(netns.NAMED))
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            yield f"{entry.path}/ns/net"
