"""The agent's process: forked off `attach`, or `attach --foreground` itself."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import places
from ..agent import journal
from ..errors import XdpecmpError
from ..instance.instance import Busy, Instance
from ..netlink import Monitor, netns
from .detach import stays, tear_down
from .keykeeper import KeyKeeper
from .reattach import Reattacher

if TYPE_CHECKING:
    from ..agent.mirror import Mirror

NICE = -10
"""Of the agent: if the machine is busy and it falls behind, more packets take the slow path."""

_ALONE_SECONDS = 10.0
"""How often the agent of a namespace without a name looks whether anybody else is there."""


class Running(NamedTuple):
    """What an agent works with; all of it outlives a fork."""

    instance: Instance
    mirror: Mirror
    """In step with the kernel."""
    monitor: Monitor
    """Has heard all that has changed since the mirror was brought up to date."""
    namespace: str | None
    """The name that the user gave, if any: the agent ends with it."""

    def descriptors(self) -> set[int]:
        """The open files that a forked agent needs."""
        root = places.root().descriptor
        own = set() if root is None else {root}
        return own | self.mirror.descriptors() | self.monitor.descriptors()


def leave_agent(running: Running) -> None:
    """Leave an agent behind, detached from the terminal; returns once it has taken over."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            if os.fork() == 0:
                _become_daemon({write, *running.descriptors()})
                journal.to_file(running.instance.log_file)
                _be_agent(running, started=lambda: os.write(write, b"1"))
            status = 0
        except Exception:
            logging.getLogger("xdpecmp.agent").exception("the agent cannot go on")
        finally:
            os._exit(status)
    os.close(write)
    os.waitpid(pid, 0)
    started = os.read(read, 1)
    os.close(read)
    if not started:
        words = _last_words(running.instance)
        raise XdpecmpError(f"the agent did not start: {words}", "try again")


def run_agent(running: Running) -> None:
    """Be the agent in this process, which somebody keeps."""
    journal.to_stderr()
    _be_agent(running, in_front=True)


def _last_words(instance: Instance) -> str:
    """The last line that an agent logged; the file goes with a fresh instance."""
    try:
        lines = places.read_file(instance.log_file).split("\n")
    except (OSError, XdpecmpError):
        lines = []
    return next((line for line in reversed(lines) if line), "it says nothing")


def _become_daemon(keep: Collection[int]) -> None:
    """Let go of the caller's terminal, pipes and folder, and run before what can wait."""
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with suppress(OSError):  # if sessions share the CPU evenly (sched(7), autogroup)
        Path("/proc/self/autogroup").write_text(str(NICE))
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            with suppress(OSError):
                os.close(fd)


def _be_agent(
    running: Running, started: Callable[[], object] = lambda: None, in_front: bool = False
) -> None:
    """Follow the kernel until told to end. If the namespace or the last interface goes, so does the
    instance. `in_front`: somebody keeps this process, so it is reason enough for its namespace to
    be."""
    from ..agent.loop import Agent

    instance, mirror, kernel = running.instance, running.mirror, running.mirror.kernel
    claim = instance.claim_agent()
    namespace_gone = _Namespace(instance.nsid, running.namespace, in_front).is_gone
    started()
    reattacher, keeper = Reattacher(instance, kernel), KeyKeeper(instance, mirror)

    def tend() -> tuple[bool, bool]:
        """See `Reattacher.tend`. A key that was found is followed as an interface that is back."""
        found = keeper.tend()
        stays_on, attached = reattacher.tend(mirror.snapshot.links, mirror.attached())
        return stays_on, attached or found

    agent = Agent(mirror, running.monitor, namespace_gone, tend)
    try:
        while agent.run():
            # unless a command is at it: then that goes first, and may have attached again
            with suppress(Busy), instance.changing():
                if namespace_gone() or not stays(instance, kernel):
                    tear_down(instance, kernel)
                    break
    finally:
        keeper.close()
        mirror.deep.abandon()
    os.close(claim)


class _Namespace:
    """Tells when the agent's network namespace has gone."""

    def __init__(self, nsid: int, name: str | None, in_front: bool) -> None:
        self._nsid, self._in_front = nsid, in_front
        self._names = [name] if name else netns.names(nsid)
        self._look_again, self._is_alone = time.monotonic() + _ALONE_SECONDS, False

    def is_gone(self) -> bool:
        """Whether it has lost its name or, if it had none, all else that was in it: then only the
        agent itself keeps it."""
        if not self._names:
            if not self._in_front and time.monotonic() >= self._look_again:
                self._look_again = time.monotonic() + _ALONE_SECONDS
                self._is_alone = not netns.is_in_use(self._nsid)
            return self._is_alone
        still = any(netns.has_name(name, self._nsid) for name in self._names)
        return not still and not netns.names(self._nsid)
