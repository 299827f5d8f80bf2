"""What agents left that were killed, of namespaces that are gone: 65 MiB of kernel memory each.

An agent takes its instance along when its namespace goes. One that was killed does not, so every
`attach` and `detach` looks whether there is such an instance: recorded since this boot by a process
of our process namespace, without an agent, and of a network namespace that nothing refers to.
Removing one by mistake would change nothing for packets: without an agent everything passes to
Linux, with pins or without.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from .. import places
from ..errors import XdpecmpError
from ..instance.instance import Instance
from ..netlink import netns

_NETWORK = re.compile(r"net:\[(\d+)\]")


def sweep(own: int) -> None:
    """Remove them. `own`: the number of our namespace, which is somebody else's business."""
    candidates = [number for number in _recorded() if number != own and _without_agent(number)]
    if not candidates:
        return
    alive = set(_referred_to())
    for number in candidates:
        if number not in alive:
            with suppress(OSError, XdpecmpError):  # Busy: somebody is looking after it
                instance = Instance(number)
                with instance.changing():
                    if instance.agent_pid() is None:
                        instance.remove()


def _recorded() -> list[int]:
    try:
        return [int(name) for name in os.listdir(places.root().run) if name.isdecimal()]
    except OSError:
        return []


def _without_agent(number: int) -> bool:
    instance = Instance(number)
    try:
        told = json.loads(places.read_file(instance.run / "namespace"))
        boot, where = told["boot"], told["pid_namespace"]
        if instance.agent_pid() is not None:
            return False
    except (OSError, XdpecmpError, ValueError, KeyError, TypeError):
        return False  # an earlier version's, or nothing that we could judge
    return bool(boot == netns.boot_id() and where == os.stat("/proc/self/ns/pid").st_ino)


def _referred_to() -> Iterator[int]:
    """Numbers of network namespaces with a process, a name or an open descriptor."""
    for process in os.scandir("/proc"):
        if not process.name.isdecimal():
            continue
        for task in _entries(f"{process.path}/task"):
            with suppress(OSError):
                yield os.stat(f"{task}/ns/net").st_ino
        for descriptor in _entries(f"{process.path}/fd"):
            with suppress(OSError):
                if match := _NETWORK.fullmatch(os.readlink(descriptor)):
                    yield int(match[1])
        with suppress(OSError), open(f"{process.path}/mountinfo") as mounts:
            for line in mounts:
                if match := _NETWORK.fullmatch(line.split()[3]):
                    yield int(match[1])


def _entries(directory: str) -> list[str]:
    with suppress(OSError):
        return [entry.path for entry in os.scandir(directory)]
    return []
