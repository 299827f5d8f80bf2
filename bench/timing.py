"""Interleaved rounds of test runs.

The machine's clock and its neighbours are restless, so every round runs each case once, next to the
others, and a ratio is taken between runs of the same round; over the rounds the median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from xdpecmp import libbpf

from .router import BenchError, Router

XDP_TX, XDP_REDIRECT = 3, 4
REPEAT = 200
"""Runs in one call; TTL 255 lasts for so many."""
CALLS = 7
"""Calls of one case in one round."""


@dataclass
class Run:
    """A case ready to run, and its times: nanoseconds a packet, one a round."""

    name: str
    fd: int
    frame: bytes
    verdict: int
    router: Router
    rounds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round. Raises BenchError where the program did not do what it should."""
        times = []
        with self.router.namespace.enter():
            for _ in range(CALLS):
                result = libbpf.run_program(self.fd, self.frame, self.router.ingress, REPEAT)
                times.append(result.nanoseconds)
                if result.verdict != self.verdict:
                    raise BenchError(
                        f"{self.name}: verdict {result.verdict} after {REPEAT} runs, not "
                        f"{self.verdict}: it would be the wrong path that is measured",
                        "see why: xdpecmp stats in a namespace like bench/router.py's",
                    )
        self.rounds.append(statistics.median(times))

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def fifth(self) -> float:
        """The 5th percentile: the machine at its quietest."""
        return percentile(self.rounds, 5)

    def ratio(self, other: Run) -> float:
        """Median over the rounds of this one's time over the other's."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine / max(theirs, 1) for mine, theirs in pairs)

    def over(self, other: Run) -> float:
        """Median over the rounds of this one's time minus the other's."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine - theirs for mine, theirs in pairs)


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank."""
    return sorted(values)[min(len(values) - 1, round(len(values) * percent / 100))]


def run_rounds(runs: Mapping[str, Run], rounds: int, advance: Callable[[], object]) -> None:
    """All cases in turn, `rounds` times; `advance` is called after each."""
    for _ in range(rounds):
        for run in runs.values():
            run.measure()
        advance()
