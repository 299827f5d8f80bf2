"""Hash → path: hash-threshold (RFC 2992), and the shares that follow from its bounds.

As fib_rebalance() and fib_select_multipath() in net/ipv4/fib_semantics.c compute it. Resilient
groups and the state of neighbours are left out: they depend on more than the hash.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction
from itertools import pairwise

HASH_BITS = 31
HASH_SPACE = 1 << HASH_BITS
"""Number of different hashes: they run from 0 to HASH_SPACE - 1."""


def bounds(weights: Sequence[int | None]) -> tuple[int, ...]:
    """The upper bound of each path: the greatest hash that takes it.

    `weights` are those of the paths in the kernel's order; None means a path that is not used
    (dead, or linkdown if such paths are ignored), whose bound is -1. fib_rebalance() in
    net/ipv4/fib_semantics.c; rt6_multipath_rebalance() and nh_group_v4/v6 agree with it. Raises
    ValueError for a weight below 1.
    """
    alive = [weight for weight in weights if weight is not None]
    if any(weight < 1 for weight in alive):
        raise ValueError(f"weights must be at least 1: {list(weights)}")
    total = sum(alive)
    cumulative = 0
    result = []
    for weight in weights:
        if weight is None:
            result.append(-1)
            continue
        cumulative += weight
        # DIV_ROUND_CLOSEST_ULL((u64)w << 31, total) - 1
        result.append(((cumulative << HASH_BITS) + total // 2) // total - 1)
    return tuple(result)


def select(bounds: Sequence[int], hash31: int) -> int:
    """Index of the path that takes this hash: the first one whose bound is not below it.

    Raises LookupError if no path does: none is used.
    """
    for index, bound in enumerate(bounds):
        if hash31 <= bound:  # never true for -1
            return index
    raise LookupError(f"no path takes hash {hash31}: bounds {list(bounds)}")


def shares(bounds: Sequence[int]) -> tuple[Fraction, ...]:
    """The exact share of all hashes that each path takes; they sum to 1 unless no path is used."""
    result = []
    taken = -1
    for bound in bounds:
        result.append(Fraction(max(bound - taken, 0), HASH_SPACE))
        taken = max(taken, bound)
    return tuple(result)


def moved_share(
    old: Sequence[tuple[Hashable, int]], new: Sequence[tuple[Hashable, int]]
) -> Fraction:
    """The exact share of all hashes that get another member: the flows that a change moves.

    `old` and `new` are paths as (member, bound) in the kernel's order; a member is any value that
    identifies where packets go, for instance a NextHop. It may occur several times. Hashes that no
    path takes (all are dead) count as moved if one takes them before or after.
    """
    cuts = sorted({-1, HASH_SPACE - 1, *(bound for _, bound in old), *(bound for _, bound in new)})
    moved = sum(
        high - low for low, high in pairwise(cuts) if _member(old, high) != _member(new, high)
    )
    return Fraction(moved, HASH_SPACE)


def _member(paths: Sequence[tuple[Hashable, int]], hash31: int) -> tuple[Hashable, ...]:
    """(member,) that takes this hash, () if none does."""
    return next(((member,) for member, bound in paths if hash31 <= bound), ())
