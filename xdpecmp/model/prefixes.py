"""Arithmetic with prefixes."""

from __future__ import annotations

from collections.abc import Iterable

from .values import Prefix

Networks = dict[tuple[int, int], set[bytes]]
"""Addresses of networks by family and prefix length."""


def covers(wide: Prefix, narrow: Prefix) -> bool:
    """Whether every address of `narrow` is in `wide`."""
    return (
        wide.family == narrow.family
        and wide.length <= narrow.length
        and masked(narrow.address, wide.length) == wide.address
    )


def grouped(prefixes: Iterable[Prefix]) -> Networks:
    """Those prefixes, so that `covered` need not look at each."""
    networks: Networks = {}
    for prefix in prefixes:
        networks.setdefault((prefix.family, prefix.length), set()).add(prefix.address)
    return networks


def covered(prefix: Prefix, networks: Networks) -> bool:
    """Whether every address of `prefix` is in one of these."""
    return any(
        family == prefix.family
        and length <= prefix.length
        and masked(prefix.address, length) in addresses
        for (family, length), addresses in networks.items()
    )


def masked(address: bytes, length: int) -> bytes:
    """The packed address with all but its first `length` bits cleared."""
    bits = len(address) * 8
    value = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return value.to_bytes(len(address), "big")
