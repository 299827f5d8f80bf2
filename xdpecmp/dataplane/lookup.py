"""The interface of look-up structures: what stands in front of a trie, so that a packet rarely asks
that.

A structure answers an address with an entry of `groups`, or with 0: ask the trie. That is always
right, but slow. What exceeds a structure's capacity is answered with 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ..model.packed import Keys, Numbers
from ..model.values import Prefix

Covering = Callable[[Prefix], tuple[int, int] | None]
"""The longest prefix shorter than this one that covers it: its length and entry of `groups`."""


class Changed(NamedTuple):
    """What became of one prefix: entries of `groups`, None = not in the table."""

    prefix: Prefix
    old: int | None
    new: int | None


class LookupStructure(Protocol):
    """One in the maps. Making it takes over what an earlier agent left there. Every store leaves it
    right for the packet that comes next."""

    family: int
    """4 or 6: the trie that it stands in front of."""
    most_changes: int
    """For more at once it is rebuilt."""

    def rebuild(self, keys: Keys, numbers: Numbers) -> None:
        """Say what the whole trie says now: its packed prefixes in ascending order and their
        entries of `groups`."""

    def change(self, changes: Iterable[Changed], covering: Covering) -> None:
        """Follow changes that the trie has seen already. `covering` goes by the trie as it is now,
        with all of them made."""
