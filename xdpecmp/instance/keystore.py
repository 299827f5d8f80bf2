"""Linux's hash key, the same in all namespaces, kept for the boot beside the instances' files.

Whoever needs it finds it there at once, and a search that was interrupted goes on where it was.
Both files are root's alone and count for this boot only; the key is a secret, and is written
nowhere else but into the maps of instances. What is read here is a candidate: see
`hashing.evidence`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from .. import places
from ..model.hashkey import HashKey, Origin
from ..netlink import netns


class Progress(NamedTuple):
    """How far a search is."""

    tried: int
    """All seeds below this one."""
    per_second: float = 0.0
    """So many lately."""

    def seconds_left(self, seeds: int) -> float | None:
        """Of so many in all; None while that cannot be told."""
        return (seeds - self.tried) / self.per_second if self.per_second > 0 else None


class KeyStore:
    """The files of this host and boot."""

    def __init__(self, run: Path | None = None) -> None:
        """`run`: another directory than the host's /run/xdpecmp."""
        self._run = run or places.root().run
        self._key = self._run / "hash-key"
        self._progress = self._run / "hash-key.search"
        self._lock = self._run / "hash-key.lock"

    # --- the key --------------------------------------------------------------------------------

    def load(self) -> HashKey | None:
        """What was kept in this boot."""
        found = self._read(self._key.name)
        with suppress(KeyError, TypeError, ValueError):
            key = HashKey(int(found["key0"], 16), int(found["key1"], 16), Origin[found["origin"]])
            if max(key.key0, key.key1) < 1 << 64 and key.origin in (Origin.MEMORY, Origin.SEARCH):
                return key
        return None

    def keep(self, key: HashKey) -> None:
        """Have it at hand for the rest of this boot. Where that fails, it is looked for again."""
        halves = {"key0": f"{key.key0:x}", "key1": f"{key.key1:x}"}
        self._write(self._key.name, {**halves, "origin": key.origin.name})
        self.forget_progress()

    def forget(self) -> None:
        """It is not Linux's."""
        with suppress(OSError):
            os.unlink(self._key)

    def stamp(self) -> tuple[int, int] | None:
        """Changes whenever a key is kept; None: there is none."""
        try:
            found = os.lstat(self._key)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    # --- a search -------------------------------------------------------------------------------

    def progress(self) -> Progress | None:
        """Of the search that runs, or that was interrupted."""
        found = self._read(self._progress.name)
        with suppress(KeyError, TypeError, ValueError):
            return Progress(int(found["tried"]), float(found["per_second"]))
        return None

    def record_progress(self, progress: Progress) -> None:
        self._write(self._progress.name, progress._asdict())

    def forget_progress(self) -> None:
        """The next search begins at the beginning."""
        with suppress(OSError):
            os.unlink(self._progress)

    @contextmanager
    def searching(self) -> Iterator[bool]:
        """Whether it is for the caller to search: not while another process does. Raises OSError,
        Untrusted."""
        places.make_directory(self._run)
        descriptor = places.open_file(self._lock, os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                for part in self._run.glob(f"{self._progress.name}.*.part"):
                    part.unlink(missing_ok=True)  # of a search that was killed
                yield True
        finally:
            os.close(descriptor)

    def is_searched(self) -> bool:
        """Whether a search runs."""
        try:
            descriptor = places.open_file(self._lock, os.O_RDONLY)
        except (OSError, places.Untrusted):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    # --- files ----------------------------------------------------------------------------------

    def _read(self, name: str) -> dict[str, str]:
        """Of this boot; empty where there is none."""
        with suppress(OSError, ValueError, places.Untrusted):
            found = json.loads(places.read_file(self._run / name))
            if isinstance(found, dict) and found.get("boot") == netns.boot_id():
                return found
        return {}

    def _write(self, name: str, content: dict[str, object]) -> None:
        with suppress(OSError, places.Untrusted):
            places.make_directory(self._run)
            text = json.dumps({"boot": netns.boot_id(), **content})
            places.write_file(self._run / name, text)
