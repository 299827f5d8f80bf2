"""The demo's tolerance: exact binomial bounds, checked against sums made another way."""

from __future__ import annotations

from fractions import Fraction
from math import comb, sqrt

import pytest

from xdpecmp.demo.bounds import binomial_bounds
from xdpecmp.demo.report import shares


def probability(n: int, weight: int, total: int, outcomes: range) -> Fraction:
    p = Fraction(weight, total)
    return sum((comb(n, k) * p**k * (1 - p) ** (n - k) for k in outcomes), Fraction(0))


@pytest.mark.parametrize(
    ("n", "weight", "total", "one_in"),
    [
        (300, 1, 3, 1_000_000),
        (300, 2, 3, 1_000_000),
        (20, 1, 3, 1_000_000),
        (508, 1, 2, 1_000_000),
        (100, 1, 257, 1_000_000),
        (100, 1, 3, 20),
        (1, 1, 2, 10),
    ],
)
def test_it_is_the_narrowest_interval_of_that_confidence(
    n: int, weight: int, total: int, one_in: int
) -> None:
    low, high = binomial_bounds(n, weight, total, one_in)
    tail = Fraction(1, 2 * one_in)
    assert 0 <= low <= high <= n
    assert probability(n, weight, total, range(low)) <= tail
    assert probability(n, weight, total, range(high + 1, n + 1)) <= tail
    # One outcome less at either end would leave out too much.
    assert probability(n, weight, total, range(low + 1)) > tail
    assert probability(n, weight, total, range(high, n + 1)) > tail


def test_the_demo_s_own_case() -> None:
    low, high = binomial_bounds(300, 1, 3)
    assert (low, high) == (62, 141)
    # About five standard deviations, as a normal approximation has it.
    assert 4.5 < (high - 100) / sqrt(300 * 1 / 3 * 2 / 3) < 5.2


def test_two_servers_are_judged_alike() -> None:
    """The other server's count is n minus this one's, and so are its bounds."""
    for n in (20, 300, 508):
        low, high = binomial_bounds(n, 1, 3)
        assert binomial_bounds(n, 2, 3) == (n - high, n - low)


@pytest.mark.parametrize(
    ("n", "weight", "total", "bounds"),
    [
        (0, 1, 3, (0, 0)),  # nothing asked, nothing seen
        (50, 3, 3, (50, 50)),  # the only server gets everything
        (50, 0, 3, (0, 0)),
        (5, 1, 2, (0, 5)),  # too few draws for any judgement
    ],
)
def test_edges(n: int, weight: int, total: int, bounds: tuple[int, int]) -> None:
    assert binomial_bounds(n, weight, total) == bounds


@pytest.mark.parametrize(
    ("n", "weight", "total", "one_in"),
    [(-1, 1, 2, 10), (10, 3, 2, 10), (10, -1, 2, 10), (10, 0, 0, 10), (10, 1, 2, 0)],
)
def test_nonsense_is_refused(n: int, weight: int, total: int, one_in: int) -> None:
    with pytest.raises(ValueError, match=r"draws|probability"):
        binomial_bounds(n, weight, total, one_in)


@pytest.mark.parametrize(
    ("s1", "within"),
    [(100, True), (62, True), (141, True), (61, False), (142, False), (150, False)],
)
def test_a_split_is_judged_by_them(s1: int, within: bool) -> None:
    """150 of 300, an even split, is not 1:2."""
    judged = shares("IPv4", {"s1": s1, "s2": 300 - s1})
    assert [(share.server, share.expected) for share in judged] == [("s1", 100.0), ("s2", 200.0)]
    assert [share.within for share in judged] == [within, within]
