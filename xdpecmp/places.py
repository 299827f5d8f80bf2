"""Where instances keep their pins and files, found from any mount namespace, and safe from others.

What is kept there is code that the kernel runs, process ids that get signals, and what the next
`attach` goes by. So a directory counts only if it is root's and nobody else can write to it, modes
are set whatever the umask, and no symlink is followed.

`ip netns exec NAME` mounts another /sys, in which there is no bpf file system, and one mounted
there would be an empty one that no other command sees. So if this process sees another bpf file
system than the host does, the host's is used: through /proc/PID/root of pid 1 or, if that may not
be looked at, of the outermost process that we descend from. In a container pid 1 is the
container's.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from errno import EEXIST, ELOOP, ENXIO
from functools import cache
from pathlib import Path

from .errors import XdpecmpError

BPFFS = Path("/sys/fs/bpf")
RUN = Path("/run/xdpecmp")
_BPF_FS_MAGIC = 0xCAFE4A11
_MOUNT = f"mount -t bpf bpf {BPFFS} -o mode=0700"


class Untrusted(XdpecmpError):
    """A directory or file that somebody other than root made or may change."""


# --- which root directory -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Root:
    """The root directory that pins and files are below."""

    path: Path
    borrowed: bool = False
    """Whether it is another mount namespace's, because this one has another /sys."""
    hidden: bool = False
    """Whether it has a bpf file system that the host does not see."""
    descriptor: int | None = None
    """Of a borrowed one; a forked agent needs it."""

    @property
    def bpffs(self) -> Path:
        return self.path / BPFFS.relative_to("/")

    @property
    def run(self) -> Path:
        return self.path / RUN.relative_to("/")


@cache
def root() -> Root:
    """Where this process keeps and finds instances."""
    own = Path("/")
    descriptor = _host_root()
    if descriptor is None:
        return Root(own)
    host = Path(f"/proc/self/fd/{descriptor}")  # good for as long as we live
    mine, theirs = _bpf_device(own), _bpf_device(host)
    if theirs is not None and mine != theirs:
        return Root(host, borrowed=True, descriptor=descriptor)
    hidden = mine is not None and theirs is None
    os.close(descriptor)
    return Root(own, hidden=hidden)


def _bpf_device(root_path: Path) -> int | None:
    """The device number of the bpf file system there, None where there is none."""
    path = root_path / BPFFS.relative_to("/")
    try:
        return os.stat(path).st_dev if _is_bpf(path) else None
    except OSError:
        return None


def _is_bpf(path: Path) -> bool:
    buffer = (ctypes.c_long * 32)()  # struct statfs: f_type is its first word
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), ctypes.byref(buffer)) != 0:
        return False
    return buffer[0] & 0xFFFFFFFF == _BPF_FS_MAGIC


def _host_root() -> int | None:
    """A descriptor of the root directory of pid 1, or of our outermost ancestor that root runs and
    that may be looked at; None where there is none but ours."""
    for pid in (1, *reversed(list(_ancestors()))):
        with suppress(OSError):
            if _is_roots(pid):
                return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _ancestors() -> Iterator[int]:
    """Our parent, its parent ..."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(text.rpartition(")")[2].split()[1])


def _is_roots(pid: int) -> bool:
    """Whether that process is root's, in our user namespace: anybody is root in one of his own."""
    owner = os.stat(f"/proc/{pid}").st_uid
    return owner == 0 and os.stat(f"/proc/{pid}/ns/user") == os.stat("/proc/self/ns/user")


def check_bpffs() -> Path:
    """The bpf file system to pin in. Raises XdpecmpError where there is none, or one that other
    commands would not see."""
    place = root()
    if place.hidden:
        raise XdpecmpError(
            f"the bpf file system at {BPFFS} is this mount namespace's own: no command outside it "
            "would find what is pinned there",
            "mount the host's, outside of `ip netns exec` and `unshare`, and use xdpecmp -n NETNS: "
            f"{_MOUNT}",
        )
    if not _is_bpf(place.bpffs):
        raise XdpecmpError(f"no bpf file system at {BPFFS}", f"mount it: {_MOUNT}")
    check_parent(place.bpffs)
    return place.bpffs


# --- directories and files of root's own ----------------------------------------------------------


def _shown(path: Path) -> str:
    """As the user knows it."""
    place = root()
    if place.borrowed and path.is_relative_to(place.path):
        return f"/{path.relative_to(place.path)}"
    return str(path)


def check_parent(path: Path) -> None:
    """Raises Untrusted where somebody else could replace what root makes in that directory."""
    found = os.stat(path)
    replaceable = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or replaceable:
        raise Untrusted(
            f"{_shown(path)} is not root's alone to change",
            f"see whose it is: ls -ld {_shown(path)}",
        )


def check_directory(path: Path) -> None:
    """Raises Untrusted for what is no directory of root's, FileNotFoundError for nothing."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        what = "is no directory" if not stat.S_ISDIR(found.st_mode) else "is not root's"
        raise Untrusted(
            f"{_shown(path)} {what}, and whoever made it could take over what xdpecmp keeps there",
            f"see whose it is, and remove it: ls -ld {_shown(path)}",
        )


def make_directory(path: Path) -> None:
    """Make a directory that only root gets into, or make one of root's so. Raises Untrusted."""
    check_parent(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    check_directory(path)
    if stat.S_IMODE(os.lstat(path).st_mode) != 0o700:
        os.chmod(path, 0o700)  # the umask, or an earlier version


def is_private(path: Path) -> bool:
    """Whether nobody but root may write to that directory or file, which is no symlink."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    kind = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
    return kind and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a plain file of root's in a directory made by `make_directory`, mode 0600.
    With O_CREAT what is anything else is replaced, otherwise Untrusted is raised."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would have us wait
    for attempt in range(2):
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno not in (ELOOP, EEXIST, ENXIO):
                raise
            fd = -1
        if fd >= 0:
            found = os.fstat(fd)
            if (
                stat.S_ISREG(found.st_mode)
                and found.st_uid in (0, os.geteuid())
                and found.st_nlink == 1
            ):
                if found.st_mode & 0o177:
                    os.fchmod(fd, 0o600)
                return fd
            os.close(fd)
        if attempt == 0 and flags & os.O_CREAT:
            os.unlink(path)
    raise Untrusted(
        f"{_shown(path)} is no file of root's",
        f"see whose it is, and remove it: ls -l {_shown(path)}",
    )


def read_file(path: Path) -> str:
    """Its text. Raises FileNotFoundError, Untrusted."""
    with os.fdopen(open_file(path, os.O_RDONLY)) as file:
        return file.read()


def write_file(path: Path, text: str) -> None:
    """Replace its text; nobody ever reads half of it, and where it fails the old one stays."""
    part = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    _create(part, text)
    os.rename(part, path)


def stage_file(path: Path, text: str) -> None:
    """Write FILE.part, to be renamed to `path` later: all that can fail for want of space."""
    part = path.with_name(f"{path.name}.part")
    with suppress(FileNotFoundError):
        os.unlink(part)
    _create(part, text)


def _create(path: Path, text: str) -> None:
    fd = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
    except OSError as error:
        os.unlink(path)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        os.unlink(path)
        raise
