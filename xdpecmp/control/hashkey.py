"""Where Linux's hash key comes from if the sysctl does not tell it: what was kept, then memory.

A search comes last, and takes minutes: see `keysearch`. Whatever is found is a candidate. It counts
once Linux's choices in a namespace of ours agree with it, so that neither a wrong symbol nor a file
that somebody planted is ever hashed with.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from ..errors import XdpecmpError, what_failed
from ..hashing.evidence import Choice, is_confirmed
from ..instance.keystore import KeyStore
from ..model.hashkey import NO_KEY, HashKey, KeyState, Origin
from ..model.options import Options
from ..netlink import has_seed
from ..netlink.choices import ask_linux
from ..netlink.sysctl import read_seed
from ..program.keyread import SEED_SYMBOL, Reader, Unreadable

DEFAULTS = Options()
NOT_LOOKED_FOR = "it is not looked for (--no-find-key)"
BEFORE_SEEDS = "before Linux 6.11 the key has 128 bits, which cannot be searched"
NO_MATCH = "what was read from kernel memory does not explain Linux's choices"


def candidates(readings: Iterable[tuple[str, bytes]]) -> Iterator[HashKey]:
    """The keys in memory, by symbol and 16 bytes: made of a seed (Linux 6.11), or whole ones."""
    for symbol, found in readings:
        if symbol == SEED_SYMBOL:
            (seed,) = struct.unpack_from("<I", found)
            yield HashKey.of_seed(seed, Origin.MEMORY)
        else:
            key0, key1 = struct.unpack("<QQ", found)
            yield HashKey(key0, key1, Origin.MEMORY)


def confirmed(keys: Iterable[HashKey], choices: Sequence[Choice]) -> HashKey | None:
    """The first of them that explains what Linux chose."""
    return next((key for key in keys if is_confirmed(key, choices)), None)


def searchable(state: KeyState, options: Options) -> KeyState:
    """With whether the agent searches what could not be found at once, or why not. It does not if a
    seed of ours was asked for: flows would move again."""
    if not state.missing or not options.find_key or options.own_seed is not None:
        return state
    if has_seed():
        return replace(state, searching=True)
    return replace(state, missing=f"{state.missing}; {BEFORE_SEEDS}")


class Finder:
    """Looks for the key: what takes a compiler runs while the caller does other things."""

    def __init__(
        self,
        store: KeyStore,
        options: Options = DEFAULTS,
        ask: Callable[[], Sequence[Choice]] = ask_linux,
        keep: bool = True,
    ) -> None:
        """Asks Linux, and tries what was kept. `keep`: what is found."""
        self._store, self._options, self._keep = store, options, keep
        self._reader: Reader | None = None
        self.choices: Sequence[Choice] = ()
        """What Linux chose; empty if it cannot be asked."""
        self.state = KeyState()
        try:
            # the first one makes Linux draw its key, before 6.11
            self.choices = ask()
        except (OSError, XdpecmpError) as error:
            why = what_failed(error) if isinstance(error, OSError) else error.message
            self.state = KeyState(missing=f"Linux cannot be asked in a namespace of ours ({why})")
            return
        kept = store.load()
        if kept is not None and is_confirmed(kept, self.choices):
            self.state = KeyState(kept)
            return
        if kept is not None and keep:
            store.forget()
        self._reader = Reader()

    def close(self) -> None:
        """End what runs."""
        if self._reader is not None:
            self._reader.close()

    def result(self) -> KeyState:
        """The key, or why there is none. It is not searched for if Linux cannot be asked, since
        nothing could be confirmed."""
        if not self.choices:
            return self.state
        return searchable(self.state if self._reader is None else self._read(), self._options)

    def _read(self) -> KeyState:
        assert self._reader is not None
        try:
            key = confirmed(candidates(self._reader.read()), self.choices)
        except (Unreadable, OSError) as error:
            why = error.message if isinstance(error, Unreadable) else what_failed(error)
            return KeyState(missing=why)
        if key is None:
            return KeyState(missing=NO_MATCH)
        if self._keep:
            self._store.keep(key)
        return KeyState(key)


class NoFinder:
    """Stands in for a finder where there is nothing to look for."""

    def __init__(self, state: KeyState) -> None:
        self._state = state

    def result(self) -> KeyState:
        return self._state

    def close(self) -> None:
        pass


def key_finder(options: Options, is_set: bool = False, keep: bool = True) -> Finder | NoFinder:
    """What looks for Linux's hash key, if there is a need, in the current namespace. `is_set`:
    its sysctl is about to be."""
    if not options.find_key:
        return NoFinder(KeyState(missing=NOT_LOOKED_FOR))
    if is_set or read_seed() is not None:
        return NoFinder(NO_KEY)
    return Finder(KeyStore(), options, keep=keep)
