"""One network namespace's instance: where its pins and files are, and who may change it.

Pins are in /sys/fs/bpf/xdpecmp/NSID, files in /run/xdpecmp/NSID; NSID is the inode number of the
namespace, by which the kernel knows it (`lsns -t net`), whatever names it has.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from .. import places
from ..errors import NotPermitted, XdpecmpError
from ..model.hashkey import KeyState
from ..model.options import FOLLOW, IGNORE, Options, Wanted
from ..model.values import NextHop
from ..netlink import netns
from ..places import BPFFS, RUN
from ..program import libbpf
from ..program.abi import abi_id, source_id
from ..program.build import ANY_GENERATION, CLOCK, PROGRAM, pin_name
from ..program.maps import Layout, Maps
from .claim import Claim

__all__ = ["BPFFS", "FLOW_LABEL_TEXT", "RUN", "Busy", "Instance", "NotAttached", "machine_seed"]

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

    def __init__(self, nsid: int | None = None) -> None:
        """`nsid`: of another namespace, to see and remove what is left of it."""
        self.nsid = netns.current_id() if nsid is None else nsid
        place = places.root()
        self._parent = place.bpffs / "xdpecmp"
        self._pins = self._parent / str(self.nsid)
        self._runs = place.run
        self.run = self._runs / str(self.nsid)
        self._identity = {"boot": netns.boot_id(), "cookie": netns.current_cookie()}
        self._claim = Claim(self.run / "agent.pid")
        self._unrecorded: list[NextHop] = []
        """Managed neighbours that the file does not tell of yet."""

    # --- pins -----------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where this version's maps and programs are pinned. Another layout, another directory."""
        return self._pins / abi_id()

    def present(self) -> bool:
        """Whether something is pinned, by this version or another. Raises Untrusted."""
        try:
            places.check_directory(self._parent)
            places.check_directory(self._pins)
        except FileNotFoundError:
            return False
        return not self._is_anothers()

    def _is_anothers(self) -> bool:
        """Whether what is there was made in another namespace, which is gone: the kernel gives
        inode numbers to new ones. An earlier version has not recorded it."""
        try:
            found = json.loads(places.read_file(self.run / "namespace"))
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(found, dict) and found | self._identity != found

    def prepare(self) -> None:
        """Make the directories. Raises XdpecmpError where bpffs is missing."""
        bpffs = places.check_bpffs()
        if self._is_anothers():
            self._remove_pins_and_files()
        try:
            for directory in (bpffs / "xdpecmp", self._pins, self.directory, self._runs, self.run):
                places.make_directory(directory)
        except PermissionError as error:
            raise NotPermitted(f"pinning maps in {BPFFS}") from error
        identity = self._identity | {"pid_namespace": os.stat("/proc/self/ns/pid").st_ino}
        places.write_file(self.run / "namespace", json.dumps(identity))

    def open_maps(self) -> Maps:
        """The maps of a running instance. Raises NotAttached, NotPermitted."""
        try:
            if self.present():
                layout = Layout.load(self.run / f"{abi_id()}.json")
                return Maps(self.directory, layout)
            raise NotAttached
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

    def check_source(self) -> None:
        """Raises XdpecmpError where the attached program may decide otherwise than our sources."""
        try:
            recorded = places.read_file(self.run / "source")
        except FileNotFoundError:
            recorded = ""
        if recorded != source_id():
            raise XdpecmpError(
                "the attached program is of another version of xdpecmp",
                "upgrade it in place: xdpecmp attach IFACE",
            )

    def program_ids(self) -> set[int]:
        """Ids of our pinned XDP programs, of every version and generation."""
        ids: set[int] = set()
        if not self.present():
            return ids
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

    def program_id(self, generation: str) -> int:
        """Id of this version's XDP program of that generation; 0 where none is pinned."""
        try:
            fd = self.open_program(generation)
        except FileNotFoundError:
            return 0
        try:
            return libbpf.prog_id(fd)
        finally:
            os.close(fd)

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
        self._remove_pins_and_files()
        for directory in (self._parent, self._runs):
            with suppress(OSError):
                directory.rmdir()  # where nothing else is in it

    def _remove_pins_and_files(self) -> None:
        for directory in (self._pins, self.run):
            with suppress(FileNotFoundError):
                places.check_directory(directory)
                shutil.rmtree(directory)

    # --- what attach was asked for ----------------------------------------------------------------

    def options(self) -> Options:
        """What it was last attached with; the defaults where it is not, or cannot be read."""
        try:
            if not self._is_anothers():
                return Options.parse(places.read_file(self.run / "options.json"))
        except (FileNotFoundError, PermissionError, ValueError):
            pass
        return Options()

    def wanted(self) -> dict[str, Wanted]:
        """By name the interfaces that it was attached to, be they there or not."""
        if self._is_anothers():
            return {}
        try:
            found = json.loads(places.read_file(self.run / "wanted.json"))
            return {name: Wanted(**each) for name, each in found.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def record_wanted(self, wanted: Mapping[str, Wanted]) -> None:
        """Keep it for the agent, which attaches to them when they come back."""
        places.write_file(self.run / "wanted.json", _dump_wanted(wanted))

    def key_state(self) -> KeyState:
        """Why Linux's hash key is not known, and whether it is searched for: of use as long as none
        is in force."""
        with suppress(OSError, ValueError, TypeError):
            return KeyState(**json.loads(places.read_file(self.run / "key.json")))
        return KeyState()

    def record_key_state(self, state: KeyState) -> None:
        """Keep it for `status`: never the key itself."""
        with suppress(OSError):
            shown = {"missing": state.missing, "searching": state.searching}
            places.write_file(self.run / "key.json", json.dumps(shown))

    def stage(self, options: Options, wanted: Mapping[str, Wanted]) -> None:
        """Write all that `commit` brings into use, and what an agent takes: so a full disk stops an
        `attach` before it has touched anything."""
        for name, text in (
            ("options.json", options.dump()),
            ("source", source_id()),
            ("wanted.json", _dump_wanted(wanted)),
        ):
            places.stage_file(self.run / name, text)
        self._claim.reserve()

    def commit(self) -> None:
        """What was staged holds from now on."""
        for name in ("options.json", "source", "wanted.json"):
            (self.run / f"{name}.part").rename(self.run / name)

    def unstage(self) -> None:
        """Forget what was staged."""
        for part in self.run.glob("*.part"):
            part.unlink(missing_ok=True)

    # --- neighbours that we made managed ---------------------------------------------------------

    def record_managed(self, nexthop: NextHop) -> None:
        """Remember that the kernel keeps this neighbour resolved because of us. Where that fails it
        is tried again with the next one; nothing else depends on it."""
        self._unrecorded.append(nexthop)
        lines = "".join(f"{each.via.hex()} {each.ifindex}\n" for each in self._unrecorded)
        try:
            path = self.run / "managed"
            fd = places.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                before = os.fstat(fd).st_size
                if os.write(fd, lines.encode()) < len(lines):
                    os.ftruncate(fd, before)
                    return
            finally:
                os.close(fd)
            self._unrecorded.clear()
        except (OSError, places.Untrusted) as error:
            logging.getLogger("xdpecmp.agent").warning(
                "cannot record which neighbours are kept resolved (%s): detach will leave them so",
                error,
            )

    def managed(self) -> set[NextHop]:
        """All that were recorded."""
        try:
            rows = [line.split() for line in places.read_file(self.run / "managed").splitlines()]
        except FileNotFoundError:
            rows = []
        return {NextHop(bytes.fromhex(row[0]), int(row[1])) for row in rows if len(row) == 2}

    # --- who may change it ----------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps other commands from changing the instance at the same time. Raises Busy."""
        path = self._runs / f"{self.nsid}.lock"
        lock = _lock(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # a forked agent has the file open too
            os.close(lock)
            with suppress(OSError):
                self._runs.rmdir()  # where nothing else is in it

    # --- the agent ------------------------------------------------------------------------------

    @property
    def log_file(self) -> Path:
        """What the agent logs."""
        return self.run / "agent.log"

    def claim_agent(self) -> int:
        """Become the instance's agent, for which `stage` has made the file, until the process ends
        or the descriptor is closed."""
        return self._claim.take()

    def agent_pid(self) -> int | None:
        """Process id of the running agent, None where there is none."""
        return self._claim.pid()

    def stop_agent(self) -> None:
        """End the agent; the data path stays, on its lease. Raises XdpecmpError if it won't end."""
        self._claim.stop()


def _dump_wanted(wanted: Mapping[str, Wanted]) -> str:
    return json.dumps({name: asdict(each) for name, each in wanted.items()})


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
        places.make_directory(path.parent)
        try:
            lock = places.open_file(path, os.O_RDWR | os.O_CREAT)
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
