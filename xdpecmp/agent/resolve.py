"""Keeping next hops resolved: packets that XDP forwards confirm no neighbour.

Gateways become managed neighbours, which the kernel probes alone. A host on a directly connected
network may leave for good, so it is only reported as used while packets for it are forwarded.

What cannot be managed (the neighbour table is full, its link has just gone, nothing can be
recorded) costs that next hop alone: its packets pass to Linux until it is resolved. It is
complained of once and tried again later and later; a few failures end a round, so that thousands of
them delay nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from ..errors import KernelRefused, XdpecmpError, what_failed
from ..model.values import Neighbour, NextHop, Snapshot
from ..netlink import Kernel

log = logging.getLogger("xdpecmp.agent")

REST_SECONDS = 0.3
"""For a next hop that was deleted."""
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
MOST_FAILURES = 32
"""In one round."""
MOST_COMPLAINTS = 8
"""Of one kind."""

_NUD_STALE = 0x04
_NUD_PERMANENT_OR_NOARP = 0xC0


class _Failure(NamedTuple):
    retry_at: float
    """On the monotonic clock."""
    pause: float


class Resolver:
    """Has the kernel keep next hops resolved."""

    def __init__(
        self,
        record_managed: Callable[[NextHop], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`record_managed` is told of each neighbour before it is made managed."""
        self._record_managed = record_managed
        self._now = now
        self._managed: set[NextHop] = set()
        self._failures: dict[NextHop, _Failure] = {}
        self._forwarded: dict[NextHop, int] = {}
        self._complaints: set[str] = set()
        self._kinds: Counter[object] = Counter()

    def keep(self, kernel: Kernel, snapshot: Snapshot, gateways: Iterable[NextHop]) -> None:
        """Make those managed that nothing else keeps resolved."""
        failures, now = 0, self._now()
        for gateway in gateways:
            failed = self._failures.get(gateway)
            if (failed and now < failed.retry_at) or not needs_keeping(snapshot, gateway):
                continue
            if self._try(gateway, partial(self._manage, kernel, gateway)):
                self._failures.pop(gateway, None)
                continue
            pause = min(failed.pause * 2, LAST_RETRY_SECONDS) if failed else FIRST_RETRY_SECONDS
            self._failures[gateway] = _Failure(now + pause, pause)
            failures += 1
            if failures == MOST_FAILURES:
                break

    def gone(self, gateway: NextHop) -> None:
        """Somebody has deleted it: let it be for a moment, or `ip neigh flush`, which goes on until
        none is left, is never through. Packets that pass have Linux resolve it all the same."""
        self._failures[gateway] = _Failure(self._now() + REST_SECONDS, FIRST_RETRY_SECONDS / 2)

    def forget(self, wanted: Mapping[NextHop, object]) -> None:
        """What is no next hop any more need not be remembered."""
        for nexthop in [each for each in self._failures if each not in wanted]:
            del self._failures[nexthop]
        for nexthop in [each for each in self._forwarded if each not in wanted]:
            del self._forwarded[nexthop]

    def report_use(
        self, kernel: Kernel, hosts: Iterable[Neighbour], packets: Callable[[NextHop], int | None]
    ) -> None:
        """Have the kernel probe stale ones of these that packets were forwarded to since the last
        time; `packets`: how many so far, None if it does not count."""
        failures = 0
        for neighbour in hosts:
            if neighbour.state != _NUD_STALE:  # which few are: look no further
                continue
            nexthop = NextHop(neighbour.address, neighbour.ifindex)
            count = packets(nexthop)
            if count is None:
                continue
            if count != self._forwarded.get(nexthop, count):
                done = self._try(nexthop, partial(kernel.use_neighbour, *nexthop))
                failures += not done
                if failures == MOST_FAILURES:
                    break
            self._forwarded[nexthop] = count

    def _complain(self, what: str, kind: object) -> None:
        """Once about each thing, and not for ever of one kind."""
        if what in self._complaints or self._kinds[kind] == MOST_COMPLAINTS:
            return
        self._complaints.add(what)
        self._kinds[kind] += 1
        last = self._kinds[kind] == MOST_COMPLAINTS
        log.warning("%s%s", what, "; others that fail alike are not logged" if last else "")

    def _manage(self, kernel: Kernel, gateway: NextHop) -> None:
        if gateway not in self._managed:
            self._record_managed(gateway)
            self._managed.add(gateway)
        kernel.manage_neighbour(gateway.via, gateway.ifindex)

    def _try(self, nexthop: NextHop, change: Callable[[], object]) -> bool:
        try:
            change()
        except XdpecmpError as error:
            kind = error.errno if isinstance(error, KernelRefused) else type(error)
            self._complain(error.message, kind)
        except OSError as error:
            self._complain(f"next hop {nexthop}: {what_failed(error)}", error.errno)
        else:
            return True
        return False


def needs_keeping(snapshot: Snapshot, gateway: NextHop) -> bool:
    """Whether nothing else keeps that next hop resolved, and its link is up."""
    link = snapshot.links.get(gateway.ifindex)
    neighbour = snapshot.neighbours.get((gateway.via, gateway.ifindex))
    if link is None or not link.up:
        return False
    return not neighbour or not (neighbour.managed or neighbour.state & _NUD_PERMANENT_OR_NOARP)
