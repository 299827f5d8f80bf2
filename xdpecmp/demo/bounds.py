"""How far a fair hash may stray: exact binomial bounds.

Each request comes from its own address, so its server is one independent draw, and the number
of requests that reach a server with weight w of W follows Binomial(n, w/W). A split is called good
when it lies in the interval that such a draw leaves with a probability below 1 in a million. Whole
numbers only: w/W is a ratio of integers, so no rounding and no normal approximation comes in.
"""

from __future__ import annotations

from math import comb

ONE_IN = 1_000_000


def binomial_bounds(n: int, weight: int, total: int, one_in: int = ONE_IN) -> tuple[int, int]:
    """The narrowest (low, high) with P(X < low) and P(X > high) each at most 1 / (2 * one_in).

    X is Binomial(n, weight / total).

    >>> binomial_bounds(300, 1, 3)
    (62, 141)
    """
    if n < 0:
        raise ValueError(f"cannot make {n} draws")
    if not 0 <= weight <= total or total == 0:
        raise ValueError(f"weight {weight} of {total} is no probability")
    if one_in < 1:
        raise ValueError(f"1 in {one_in} is no probability")
    # P(X = k) times total**n, an integer; the same factor on the other side of the comparison.
    scaled = [comb(n, k) * weight**k * (total - weight) ** (n - k) for k in range(n + 1)]
    scale = total**n
    low = _cut(scaled, scale, one_in)
    high = n - _cut(scaled[::-1], scale, one_in)
    return low, high


def _cut(scaled: list[int], scale: int, one_in: int) -> int:
    """How many outcomes from the start together stay at or below a probability of 1/(2*one_in)."""
    tail = 0
    for k, probability in enumerate(scaled):
        tail += probability
        if 2 * one_in * tail > scale:
            return k
    return len(scaled) - 1
