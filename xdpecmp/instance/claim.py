"""Who is an instance's agent: the process that holds a lock on the instance's agent.pid.

The lock ends with the process, however that ends. A process id alone says nothing: it may be
another's by now. So a process is the agent only if it has that very file open, and it is told to
end by a descriptor of it (pidfd), which never stands for another one.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from contextlib import suppress
from pathlib import Path

from .. import places
from ..errors import XdpecmpError

_STOP_SECONDS = 10
_SIZE = 64
"""The file has it before the agent starts, so that a full disk keeps no agent from starting."""


class Claim:
    """The file of one instance."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")

    def reserve(self) -> None:
        """What `take` needs space for. Raises OSError where there is none."""
        with suppress(FileNotFoundError):
            os.unlink(self._part)
        fd = places.open_file(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(fd, b" " * _SIZE)
        finally:
            os.close(fd)

    def take(self) -> int:
        """Become the agent, after `reserve`; until the descriptor is closed or the process ends.

        The file that others see is replaced by one that is locked and says whose it is: so nobody
        could have locked it before.
        """
        fd = places.open_file(self._part, os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(fd, f"{os.getpid()}\n".encode().ljust(_SIZE), 0)
        os.rename(self._part, self._path)
        return fd

    def pid(self) -> int | None:
        """Process id of the running agent, None where there is none."""
        found = self._running()
        if found is None:
            return None
        os.close(found[1])
        return found[0]

    def stop(self) -> None:
        """End the agent. Raises XdpecmpError if it won't end."""
        found = self._running()
        if found is None:
            return
        pid, descriptor = found
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # or a stopped one never heeds it
            ended, _, _ = select.select([descriptor], [], [], _STOP_SECONDS)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)
        if not ended:
            raise XdpecmpError(f"the agent (pid {pid}) does not end", f"end it: kill -9 {pid}")

    def _running(self) -> tuple[int, int] | None:
        """Process id and pidfd of the agent."""
        try:
            fd = places.open_file(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder(fd)
            return None
        finally:
            os.close(fd)


def _holder(fd: int) -> tuple[int, int] | None:
    """Process id and pidfd of the process that the file names, if it has the file open."""
    try:
        pid = int(os.pread(fd, _SIZE, 0))
        descriptor = os.pidfd_open(pid)
    except (ValueError, OverflowError, OSError):
        return None
    wanted = os.fstat(fd)
    for entry in _open_files(pid):
        with suppress(OSError):  # closed meanwhile
            if os.path.samestat(os.stat(entry), wanted):
                return pid, descriptor
    os.close(descriptor)
    return None


def _open_files(pid: int) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(f"/proc/{pid}/fd")]
    except OSError:
        return []
