"""Arithmetic with prefixes."""

from __future__ import annotations

from ..model import Prefix


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
