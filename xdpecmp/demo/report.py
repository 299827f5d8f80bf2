"""The figures of a run, and whether they are what they should be. Knows nothing of printing."""

from __future__ import annotations

from dataclasses import dataclass, field

from .bounds import binomial_bounds
from .fastpath import Counters
from .topology import NEXT_HOPS, WEIGHTS


@dataclass(frozen=True)
class Share:
    """One server's part of the requests of one family, beside what a fair hash would give it."""

    family: str
    server: str
    weight: int
    expected: float
    low: int
    high: int
    seen: int
    within: bool


@dataclass(frozen=True)
class Transfer:
    """One big body to one client address, and what each server learnt meanwhile."""

    family: str
    client: str
    server: str | None
    received: int
    complete: bool
    path_mtu: int | None
    icmp_errors: dict[str, int]  # by server that received them
    problem: str | None

    @property
    def good(self) -> bool:
        """Complete, with an error to the server that had to know, and none to another."""
        return self.complete and all(
            (count > 0) == (server == self.server) for server, count in self.icmp_errors.items()
        )


@dataclass
class Report:
    """Everything that a run found out."""

    requests: int
    policy: int
    shares: list[Share] = field(default_factory=list)
    unanswered: dict[str, int] = field(default_factory=dict)  # by family
    transfers: list[Transfer] = field(default_factory=list)
    counters: Counters | None = None  # of the data path; None: Linux forwarded alone
    left_to_linux: str = ""  # why multipath routes pass to Linux, if they do

    def problems(self) -> list[str]:
        """What is not as it should be, each in a few words; nothing in a good run."""
        found = [
            f"{share.family}: {share.server} got {share.seen} requests, "
            f"not {share.low} to {share.high}"
            for share in self.shares
            if not share.within
        ]
        found += [
            f"{family}: {count} requests without an answer"
            for family, count in self.unanswered.items()
            if count
        ]
        found += [
            f"{transfer.family}: transfer from {transfer.server} to {transfer.client}: "
            + (transfer.problem or f"ICMP errors went to the wrong server: {transfer.icmp_errors}")
            for transfer in self.transfers
            if not transfer.good
        ]
        for family in self.unanswered:
            transfers = [transfer for transfer in self.transfers if transfer.family == family]
            if all(transfer.complete for transfer in transfers):
                idle = WEIGHTS.keys() - {transfer.server for transfer in transfers}
                found += [f"{family}: no transfer came from {server}" for server in idle]
        return found + self._fast_path_problems()

    def _fast_path_problems(self) -> list[str]:
        """Linux gives the same answers, so also make sure that it was XDP that gave them."""
        if self.counters is None or self.left_to_linux:
            return []
        found = []
        for server in WEIGHTS:
            forwarded = sum(self.counters.nexthops.get(via, 0) for via in NEXT_HOPS[server])
            requests = sum(share.seen for share in self.shares if share.server == server)
            if forwarded < requests:
                found.append(f"XDP forwarded {forwarded} packets to {server} for its {requests}")
        expected = sum(sum(transfer.icmp_errors.values()) for transfer in self.transfers)
        forwarded = sum(self.counters.icmp_errors.values())
        if forwarded < expected:
            found.append(f"XDP forwarded {forwarded} of {expected} ICMP errors")
        return found


def shares(family: str, seen: dict[str, int]) -> list[Share]:
    """Judge how many requests each server got."""
    n, total = sum(seen.values()), sum(WEIGHTS.values())
    found = []
    for server, weight in WEIGHTS.items():
        low, high = binomial_bounds(n, weight, total)
        count = seen[server]
        found.append(
            Share(
                family=family,
                server=server,
                weight=weight,
                expected=round(n * weight / total, 1),
                low=low,
                high=high,
                seen=count,
                within=low <= count <= high,
            )
        )
    return found
