"""Destinations spread over a large table, so that caches miss: see spread.c."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xdpecmp.program import libbpf

from . import packets
from .programs import Compiled
from .router import MAC, SOURCE4, SOURCE6, BenchError, Router
from .timing import XDP_REDIRECT, Run

DESTINATIONS = 65536
SETS, FORWARDERS = 8, 16
REPEAT, CALLS = 8192, 1
"""One call a round is long enough, and the next round goes on behind where this one ended."""

_SAMPLE = 1000
_SETTLE_SECONDS = 90
_STEADY_SECONDS = 4.0
"""Longer than the agent's lease."""


class Spreader:
    """The program, its sets of destinations and the forwarders that it calls."""

    def __init__(self, destinations: int = DESTINATIONS, sets: int = SETS) -> None:
        self._size = destinations
        sizes = {"DESTINATIONS": destinations, "SETS": sets, "FORWARDERS": FORWARDERS}
        mac = int.from_bytes(MAC, "little")
        self._compiled = Compiled("spread.c", ("spread",), TTL=packets.TTL, MAC=mac, **sizes)
        self._sets = self._forwarders = 0

    @property
    def fd(self) -> int:
        return self._compiled.fd("spread")

    def add_set(self, addresses: Any) -> int:
        """As many destinations as fit in a set, rows of 4 or 16 bytes; returns the
        number of the set."""
        family, values = (6, addresses) if addresses.shape[1] == 16 else (4, _entries4(addresses))
        keys = np.arange(self._size, dtype=np.uint32) + self._sets * self._size
        fd = self._compiled.map_fd(f"spread{family}")
        libbpf.map_update_batch(fd, keys.tobytes(), values.tobytes(), self._size)
        self._sets += 1
        return self._sets - 1

    def add_forwarder(self, fd: int) -> int:
        """Returns the number by which the frame calls it."""
        self._compiled.store("forwarders", self._forwarders, fd)
        self._forwarders += 1
        return self._forwarders - 1


@dataclass(frozen=True)
class Target:
    """A set of destinations and where its packets come in."""

    spreader: Spreader
    router: Router
    family: int
    number: int

    def run(
        self,
        name: str,
        forwarder: int,
        verdict: int = XDP_REDIRECT,
        repeat: int = REPEAT,
        warm_up: int = 0,
    ) -> Run:
        """A case of this forwarder with these destinations."""
        payload = struct.pack("<HH", self.number, forwarder)
        source = SOURCE4 if self.family == 4 else SOURCE6
        nowhere = "0.0.0.0" if self.family == 4 else "::"
        frame = packets.ethernet(MAC, packets.udp(source, nowhere, payload))
        fd = self.spreader.fd
        return Run([], name, fd, frame, verdict, self.router, repeat, CALLS, warm_up)


def settle(runs: Sequence[Run]) -> None:
    """Returns once packets of all these runs have been forwarded for a while: with a large table
    the agent has much to do behind an attach. Raises BenchError after a long time."""
    end = time.monotonic() + _SETTLE_SECONDS
    since = time.monotonic()
    while time.monotonic() - since < _STEADY_SECONDS:
        for run in runs:
            if _verdict(run) != run.verdict:
                since = time.monotonic()
        if since > end:
            raise BenchError(f"xdpecmp does not forward for long within {_SETTLE_SECONDS} s")
        time.sleep(0.05)


def check(run: Run) -> None:
    """A sample of the destinations, one by one. Raises BenchError where one does not get the
    verdict that it should: a measured call tells that of its last run only."""
    verdicts = Counter(_verdict(run) for _ in range(_SAMPLE))
    if verdicts.keys() != {run.verdict}:
        raise BenchError(
            f"{run.name}: verdicts {dict(verdicts)}, where all should be {run.verdict}"
        )


def _verdict(run: Run) -> int:
    assert run.router is not None
    with run.router.namespace.enter():
        return libbpf.run_program(run.fd, run.frame, run.router.ingress).verdict


def _entries4(addresses: Any) -> Any:
    """struct spread4: the destination and the checksum of a header with it."""
    header = packets.udp(SOURCE4, "0.0.0.0")[:20]
    rest = sum(struct.unpack("!10H", header)) - int.from_bytes(header[10:12], "big")
    total = rest + addresses.view(">u2").astype(np.uint32).sum(axis=1)
    for _ in range(2):
        total = (total & 0xFFFF) + (total >> 16)
    entries = np.zeros((len(addresses), 8), np.uint8)
    entries[:, :4] = addresses
    entries[:, 4:6] = (~total).astype(">u2").view(np.uint8).reshape(-1, 2)
    return entries
