"""Arithmetic with prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..model import Prefix
from .tables import Target


def covers(wide: Prefix, narrow: Prefix) -> bool:
    """Whether every address of `narrow` is in `wide`."""
    return (
        wide.family == narrow.family
        and wide.length <= narrow.length
        and masked(narrow.address, wide.length) == wide.address
    )


def masked(address: bytes, length: int) -> bytes:
    """The packed address with all but its first `length` bits cleared."""
    bits = len(address) * 8
    value = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return value.to_bytes(len(address), "big")


def lengths_in_use(targets: Iterable[Prefix]) -> dict[int, list[int]]:
    """The prefix lengths in use, longest first, by family."""
    found: dict[int, set[int]] = {4: set(), 6: set()}
    for prefix in targets:
        found[4 if len(prefix.address) == 4 else 6].add(prefix.length)
    return {family: sorted(lengths, reverse=True) for family, lengths in found.items()}


def longest_match(
    targets: Mapping[Prefix, Target], address: bytes, lengths: Iterable[int]
) -> Target | None:
    """What the longest prefix that holds the address leads to; `lengths` longest first."""
    for length in lengths:
        target = targets.get(Prefix(masked(address, length), length))
        if target is not None:
            return target
    return None
