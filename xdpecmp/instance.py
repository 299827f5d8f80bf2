"""One network namespace's instance: where its pins and files are, and who may change it.

Pins are in /sys/fs/bpf/xdpecmp/NSID, files in /run/xdpecmp/NSID; NSID is the inode number of the
namespace, by which the kernel knows it (`lsns -t net`), whatever names it has.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import libbpf, netns
from .abi import abi_id, source_id
from .errors import NotPermitted, XdpecmpError
from .maps import Layout, Maps
from .model import NextHop
from .options import FOLLOW, IGNORE, Options
from .program import ANY_GENERATION, CLOCK, PROGRAM, pin_name

BPFFS = Path("/sys/fs/bpf")
RUN = Path("/run/xdpecmp")
_STOP_SECONDS = 10

FLOW_LABEL_TEXT = {
    FOLLOW: "IPv6 flow label followed, as by Linux: servers must reflect it for ICMPv6 errors to "
    "reach them (sysctl net.ipv6.flowlabel_reflect=1), or: xdpecmp attach IFACE --flow-label "
    "ignore",
    IGNORE: "IPv6 flow label ignored, unlike Linux: what passes to Linux may go another way",
}
"""Of interest where there are IPv6 multipath routes under hash policy 0."""


class NotAttached(XdpecmpError):
    """The command needs a running instance, and there is none."""

    def __init__(self) -> None:
        super().__init__(
            "xdpecmp is not attached in this network namespace", "attach it: xdpecmp attach IFACE"
        )


class Busy(XdpecmpError):
    """Another command is changing the same instance."""


class Instance:
    """The instance of the namespace that the calling process is in."""

    def __init__(self) -> None:
        self.nsid = netns.current_id()
        self._pins = BPFFS / "xdpecmp" / str(self.nsid)
        self.run = RUN / str(self.nsid)

    # --- pins -----------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where this version's maps and programs are pinned. Another layout, another directory."""
        return self._pins / abi_id()

    def present(self) -> bool:
        """Whether something is pinned, by this version or another."""
        return self._pins.is_dir()

    def prepare(self) -> None:
        """Make the directories. Raises XdpecmpError where bpffs is missing."""
        check_bpffs()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.run.mkdir(parents=True, exist_ok=True)
        except PermissionError as error:
            raise NotPermitted(f"pinning maps in {BPFFS}") from error

    def open_maps(self) -> Maps:
        """The maps of a running instance. Raises NotAttached, NotPermitted."""
        try:
            layout = Layout.load(self.run / f"{abi_id()}.json")
            return Maps(self.directory, layout)
        except PermissionError as error:
            raise NotPermitted("reading the data path's maps") from error
        except FileNotFoundError as error:
            if self.present() and not self.directory.is_dir():
                raise XdpecmpError(
                    "the attached program is of another version of xdpecmp",
                    "upgrade it in place: xdpecmp attach IFACE",
                ) from error
            raise NotAttached from error

    def save_layout(self, layout: Layout) -> None:
        """Keep what the maps look like."""
        layout.save(self.run / f"{abi_id()}.json")

    def record_source(self) -> None:
        """Keep of which sources the attached program is."""
        (self.run / "source").write_text(source_id())

    def check_source(self) -> None:
        """Raises XdpecmpError where the attached program may decide otherwise than our sources."""
        path = self.run / "source"
        if not path.exists() or path.read_text() != source_id():
            raise XdpecmpError(
                "the attached program is of another version of xdpecmp",
                "upgrade it in place: xdpecmp attach IFACE",
            )

    def program_ids(self) -> set[int]:
        """Ids of our pinned XDP programs, of every version and generation."""
        ids: set[int] = set()
        for path in self._pins.glob(f"*/{pin_name(PROGRAM, ANY_GENERATION)}"):
            fd = libbpf.get_pinned(path)
            ids.add(libbpf.prog_id(fd))
            os.close(fd)
        return ids

    def generation(self) -> str:
        """The generation that is pinned, "" where there is none."""
        for path in self.directory.glob(pin_name(PROGRAM, ANY_GENERATION)):
            return path.name.rpartition("_")[2]
        return ""

    def open_program(self, generation: str) -> int:
        """File descriptor of this version's XDP program of that generation."""
        return libbpf.get_pinned(self.directory / pin_name(PROGRAM, generation))

    def open_clock(self) -> int:
        """File descriptor of the program that tells the time; any generation tells the same.
        Raises NotAttached."""
        for path in self.directory.glob(pin_name(CLOCK, ANY_GENERATION)):
            return libbpf.get_pinned(path)
        raise NotAttached

    def forget_generation(self, generation: str) -> None:
        """Unpin what came with a generation that did not make it."""
        for path in self.directory.glob(pin_name("*", generation)):
            path.unlink()

    def forget_version(self) -> None:
        """Unpin everything of this version, of which nothing got attached."""
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.run / f"{abi_id()}.json").unlink(missing_ok=True)

    def other_versions(self) -> list[tuple[Path, Path]]:
        """Where maps of other layouts are pinned, and the files that say what they look like."""
        return [
            (path, self.run / f"{path.name}.json")
            for path in self._pins.iterdir()
            if path != self.directory
        ]

    def remove_other_versions(self, generation: str) -> None:
        """Unpin what other versions and other generations of this one left, once none of it is
        attached any more."""
        for path in self.directory.glob(pin_name("*", ANY_GENERATION)):
            if not path.name.endswith(generation):
                path.unlink()
        for path in self._pins.iterdir():
            if path != self.directory:
                shutil.rmtree(path)

    def remove(self) -> None:
        """Unpin everything and delete the files."""
        for directory in (self._pins, self.run):
            if directory.is_dir():
                shutil.rmtree(directory)
            with suppress(OSError):
                directory.parent.rmdir()  # where nothing else is in it

    # --- what attach was asked for ----------------------------------------------------------------

    def options(self) -> Options:
        """What it was last attached with; the defaults where it is not, or cannot be read."""
        try:
            return Options.parse((self.run / "options.json").read_text())
        except (FileNotFoundError, ValueError):
            return Options()

    def record_options(self, options: Options) -> None:
        """Keep them for attaching again."""
        part = self.run / "options.part"
        part.write_text(options.dump())
        part.rename(self.run / "options.json")  # nobody reads half of it

    # --- neighbours that we made managed ---------------------------------------------------------

    def record_managed(self, nexthop: NextHop) -> None:
        """Remember that the kernel keeps this neighbour resolved because of us."""
        with (self.run / "managed").open("a") as file:
            file.write(f"{nexthop.via.hex()} {nexthop.ifindex}\n")

    def managed(self) -> set[NextHop]:
        """All that were recorded."""
        path = self.run / "managed"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return {NextHop(bytes.fromhex(via), int(ifindex)) for via, ifindex in rows}

    # --- who may change it ----------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps other commands from changing the instance at the same time. Raises Busy."""
        path = RUN / f"{self.nsid}.lock"
        lock = _lock(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # a forked agent has the file open too
            os.close(lock)
            with suppress(OSError):
                RUN.rmdir()  # where nothing else is in it

    # --- the agent ------------------------------------------------------------------------------

    @property
    def _pid_file(self) -> Path:
        return self.run / "agent.pid"

    @property
    def log_file(self) -> Path:
        """What the agent had to say."""
        return self.run / "agent.log"

    def claim_agent(self) -> int:
        """Become the instance's agent: a lock on the pid file, held until the process ends."""
        fd = os.open(self._pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def agent_pid(self) -> int | None:
        """Process id of the running agent, None where there is none."""
        try:
            with self._pid_file.open("r") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read() or 0) or None
        except FileNotFoundError:
            pass
        return None

    def stop_agent(self) -> None:
        """End the agent; the data path stays, on its lease. Raises XdpecmpError if it won't end."""
        pid = self.agent_pid()
        if pid is None:
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(fd, signal.SIGTERM)
            ended, _, _ = select.select([fd], [], [], _STOP_SECONDS)
        except ProcessLookupError:
            return
        finally:
            os.close(fd)
        if not ended:
            raise XdpecmpError(f"the agent (pid {pid}) does not end", f"end it: kill -9 {pid}")


def machine_seed() -> int:
    """A hash seed (1 to 2^32 - 1) that is always the same on this machine, so that flows stay where
    they are when xdpecmp is attached again, and another one elsewhere: machine-id(5)."""
    path = Path("/etc/machine-id")
    name = path.read_text().strip() if path.exists() else os.uname().nodename
    digest = hashlib.sha256(f"xdpecmp {name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") or 1


def _lock(path: Path) -> int:
    """A descriptor of the locked file that has this name. Raises Busy."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the directory has just been removed by another command
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(lock).st_ino:
                return lock
        except BlockingIOError as error:
            os.close(lock)
            raise Busy(
                "another xdpecmp command is changing this namespace", "try again in a moment"
            ) from error
        except FileNotFoundError:  # unlinked by whom it was locked before
            pass
        os.close(lock)


def check_bpffs() -> None:
    """Raises XdpecmpError where there is nothing to pin in."""
    if not _is_bpffs(BPFFS):
        raise XdpecmpError(f"no bpf file system at {BPFFS}", f"mount it: mount -t bpf bpf {BPFFS}")


def _is_bpffs(path: Path) -> bool:
    """Whether a bpf file system is mounted there."""
    mounted = ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[1] == str(path):
            mounted = fields[2]  # the last one on top counts
    return mounted == "bpf"
