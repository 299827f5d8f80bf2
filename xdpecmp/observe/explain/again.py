"""Whether Linux chooses otherwise, or only says so: what it is asked a second time.

RTM_GETROUTE answers from a route's copy on the CPU that it is asked on. If IPv6 routes share
nexthop objects, they share those copies, and the route that one was made for may go: from then on
that CPU says "unreachable" of the other routes, while it forwards their packets
(rt6_get_pcpu_route(), fib6_drop_pcpu_from(), inet6_rtm_getroute() in net/ipv6/route.c; seen on
Linux 6.18). A packet makes the same copies as a question, so asking plants nothing that traffic
would not.

Hence: a difference is one only if no CPU agrees, and one of them names another next hop. An error
everywhere is none if the tables themselves, read by a dump, have a live route over an object.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ...errors import KernelRefused, XdpecmpError
from ...model.values import NextHop, RouteKind, Snapshot
from ...netlink import Answer, Kernel, Query
from ...netlink.rtnetlink import RT_TABLE_LOCAL, RT_TABLE_MAIN
from .decision import Decision
from .linux import Comparison, question


class Judge:
    """Asks again about flows on which Linux seemed to differ."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._right: int | None = None
        """The CPU that agreed last."""
        self.wrong: dict[int, str] = {}
        """CPUs that answered otherwise than another, and what."""
        self._tables: Snapshot | None = None

    def judge(
        self, decision: Decision, chosen: NextHop | None, comparison: Comparison
    ) -> Comparison:
        """The comparison, unless it was a difference that is none."""
        query = question(decision)
        if comparison.agrees is not False or chosen is None or isinstance(query, str):
            return comparison
        found = self._ask(query, chosen)
        agreeing = [answer for answer in found.values() if answer.nexthop == chosen]
        if agreeing:
            for cpu, answer in found.items():
                if answer.nexthop != chosen:
                    self.wrong[cpu] = str(answer)
            return Comparison(agreeing[0], True, f"{self.complaint()}, and here on another")
        if found and all(each.error for each in found.values()) and self._is_there(query):
            said = next(iter(found.values()))
            why = f"Linux answers wrongly about itself on every CPU ({said}): the route is there"
            return Comparison(said, None, why)
        return comparison

    def complaint(self) -> str:
        """What there is to say of CPUs that answered wrongly; "" if none did."""
        if not self.wrong:
            return ""
        cpus = ", ".join(map(str, sorted(self.wrong)))
        said = "; ".join(sorted(set(self.wrong.values())))
        return f"on CPU {cpus} Linux answers wrongly about itself ({said})"

    def _ask(self, query: Query, chosen: NextHop) -> dict[int, Answer]:
        """By CPU, one that agreed before all others, and then alone."""
        answers: dict[int, Answer] = {}
        with _any_cpu() as cpus:
            if self._right in cpus:
                cpus.insert(0, cpus.pop(cpus.index(self._right)))
            for cpu in cpus:
                try:
                    os.sched_setaffinity(0, {cpu})
                    answers[cpu] = self._kernel.route_get(query)
                except (OSError, KernelRefused):  # one that this process may not run on
                    continue
                if answers[cpu].nexthop == chosen and cpu == self._right:
                    break
        self._right = next((c for c, each in answers.items() if each.nexthop == chosen), None)
        return answers

    def _is_there(self, query: Query) -> bool:
        """Whether the tables lead such packets to a living nexthop object."""
        if len(query.flow.destination) == 4:
            return False
        from ...model.routetable import RouteTable  # numpy takes 0.1 s to import

        with suppress(XdpecmpError, OSError):
            self._tables = self._tables or self._kernel.snapshot()
        if self._tables is None or self._tables.custom_rules6:
            return False
        candidates = (
            RouteTable.of(self._tables.routes).by_prefix.longest([query.flow.destination])[0] or ()
        )
        first = min(
            candidates,
            key=lambda route: (route.table != RT_TABLE_LOCAL, route.metric),
            default=None,
        )
        if first is None or first.table != RT_TABLE_MAIN or first.kind is not RouteKind.UNICAST:
            return False
        held = self._tables.nexthop_groups.get(first.nhid)
        return held is not None and held.kind is RouteKind.UNICAST


@contextmanager
def _any_cpu() -> Iterator[list[int]]:
    """All CPUs, those that the thread may run on first, which it goes back to."""
    allowed = os.sched_getaffinity(0)
    others = set(range(os.sysconf("SC_NPROCESSORS_CONF"))) - allowed
    try:
        yield [*sorted(allowed), *sorted(others)]
    finally:
        os.sched_setaffinity(0, allowed)
