"""The agent's part in finding Linux's hash key: see `hashkey` and `keysearch`.

A key that somebody has found, in whatever namespace, is confirmed and brought into force like a
change of settings. While there is none, a process searches it, unless one of another namespace
does. It ends with the agent, and as soon as there is no need for the key: the sysctl tells it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import XdpecmpError
from ..hashing.evidence import Choice, is_confirmed
from ..instance.instance import Instance
from ..instance.keystore import KeyStore
from ..model.hashkey import HashKey, KeyState
from ..netlink.choices import ask_linux

if TYPE_CHECKING:
    from ..agent.mirror import Mirror

log = logging.getLogger("xdpecmp.agent")

_PACKAGE = str(Path(__file__).parents[2])
_END_SECONDS = 0.5
COMMAND = (sys.executable, "-P", "-m", "xdpecmp.control.keysearch")


class KeyKeeper:
    """Looked after once a second."""

    def __init__(
        self,
        instance: Instance,
        mirror: Mirror,
        store: KeyStore | None = None,
        ask: Callable[[], Sequence[Choice]] = ask_linux,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._instance, self._mirror, self._ask = instance, mirror, ask
        self._command = command
        self._store = store or KeyStore()
        self._seen = None if mirror.key_state.key is None else self._store.stamp()
        """The kept key that was looked at."""
        self._unasked = False
        """Whether there is one that Linux could not be asked about."""
        self._process: subprocess.Popen[str] | None = None
        self._failed = bool(mirror.key_state.missing) and not mirror.key_state.searching

    def close(self) -> None:
        """End a search of ours."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # it ends all the same
                process.communicate(timeout=_END_SECONDS)

    def tend(self) -> bool:
        """Whether the mirror knows the key now, and did not before."""
        if not self._is_wanted():
            self.close()
            return False
        key = self._kept()
        if key is not None:
            self.close()
            self._mirror.know_key(KeyState(key))  # what is recorded is for while there is none
            log.info("Linux's hash key is known: multipath goes by it")
            return True
        self._search()
        return False

    def _is_wanted(self) -> bool:
        mirror = self._mirror
        settings, options = mirror.snapshot.settings, mirror.options
        hidden = settings.seed is None and mirror.key_state.key is None
        return hidden and options.find_key and options.own_seed is None

    def _kept(self) -> HashKey | None:
        """A key that was kept since we last looked, if it is Linux's."""
        stamp = self._store.stamp()
        if stamp is None or stamp == self._seen:
            return None
        key = self._store.load()
        try:
            found = key if key is not None and is_confirmed(key, self._ask()) else None
        except (XdpecmpError, OSError) as error:  # the next time it may do
            if not self._unasked:
                log.warning("a hash key was kept, and Linux cannot be asked about it: %s", error)
            self._unasked = True
            return None
        self._seen, self._unasked = stamp, False
        if found is None:
            log.warning("the hash key that was kept is not Linux's")
        return found

    def _search(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                return
            said, _ = self._process.communicate()
            status, self._process = self._process.returncode, None
            if status:
                self._give_up(
                    said.strip() or f"the process that searches it has ended with status {status}"
                )
            return  # what it has kept is looked at the next time
        if self._failed or self._unasked or self._store.is_searched():
            return
        try:
            self._process = subprocess.Popen(
                [*self._command, str(os.getpid())],
                cwd="/",
                env=os.environ | {"PYTHONPATH": _PACKAGE},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            self._give_up(f"it cannot be searched: {error.strerror}")
            return
        if not self._mirror.key_state.searching:
            self._record(replace(self._mirror.key_state, searching=True))
        log.info("Linux's hash key is searched for; multipath passes to Linux until it is found")

    def _give_up(self, why: str) -> None:
        self._failed = True
        self._record(KeyState(missing=why))
        log.warning("Linux's hash key is unavailable: %s; to try again: xdpecmp attach IFACE", why)

    def _record(self, state: KeyState) -> None:
        self._mirror.know_key(state)
        self._instance.record_key_state(state)
