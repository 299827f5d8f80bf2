"""Interleaved rounds of test runs.

The machine's clock and its neighbours are restless, so every round runs each case once, next to the
others, and a ratio is taken between runs of the same round; over the rounds the median counts.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from xdpecmp.program import libbpf

from .router import BenchError, Router

XDP_TX, XDP_REDIRECT = 3, 4
REPEAT = 200
"""Runs in one call; TTL 255 lasts for so many."""
CALLS = 7
"""Calls of one case in one round."""
_RECOVER_SECONDS = 0.2


class WrongPath(Exception):
    """A packet was not forwarded by what is measured."""


@dataclass
class Series:
    """Nanoseconds a packet, one value a round."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def fifth(self) -> float:
        """The 5th percentile: the machine at its quietest."""
        return percentile(self.rounds, 5)

    def ratio(self, other: Series) -> float:
        """Median over the rounds of this one's time over the other's."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine / max(theirs, 1) for mine, theirs in pairs)

    def over(self, other: Series) -> float:
        """Median over the rounds of this one's time minus the other's."""
        return (self - other).median

    def __sub__(self, other: Series) -> Series:
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Series([mine - theirs for mine, theirs in pairs])

    def __add__(self, other: Series) -> Series:
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Series([mine + theirs for mine, theirs in pairs])


@dataclass
class Run(Series):
    """A case ready to run, and its times."""

    name: str = ""
    fd: int = -1
    frame: bytes = b""
    verdict: int = XDP_REDIRECT
    router: Router | None = None
    repeat: int = REPEAT
    calls: int = CALLS
    warm_up: int = 0
    """Runs before a round that do not count."""

    def measure(self) -> float:
        """One round. Raises WrongPath where the program did not do what it should."""
        assert self.router is not None
        times = []
        with self.router.namespace.enter():
            if self.warm_up:
                libbpf.run_program(self.fd, self.frame, self.router.ingress, self.warm_up)
            for _ in range(self.calls):
                result = libbpf.run_program(self.fd, self.frame, self.router.ingress, self.repeat)
                times.append(result.nanoseconds)
                if result.verdict != self.verdict:
                    raise WrongPath(
                        f"{self.name}: verdict {result.verdict} after {self.repeat} runs, not "
                        f"{self.verdict}: it would be the wrong path that is measured"
                    )
        return statistics.median(times)


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank."""
    return sorted(values)[min(len(values) - 1, round(len(values) * percent / 100))]


def run_rounds(runs: Sequence[Run], rounds: int, advance: Callable[[], object]) -> int:
    """All cases in turn, `rounds` times, on one CPU; `advance` is called after each round.

    A round in which some packet went another way is left out whole: on a busy machine an agent can
    be late with its lease. Returns how many those were. Raises BenchError where they are too many.
    """
    left_out = 0
    with one_cpu():
        while len(runs[0].rounds) < rounds:
            try:
                times = [run.measure() for run in runs]
            except WrongPath as error:
                left_out += 1
                if left_out > rounds:
                    raise BenchError(str(error)) from error
                time.sleep(_RECOVER_SECONDS)
                continue
            for run, value in zip(runs, times, strict=True):
                run.rounds.append(value)
            advance()
    return left_out


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Keep the calling thread on the first CPU that it may use, whose caches stay its own."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
