"""Requests through the router, and what became of them in the data path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.net.topology import Anycast
from tests.net.traffic import Answer, Flow, Servers

FLOWS = 30
_BACKGROUND = {"NON_IP", "NOT_OUR_MAC", "MULTICAST", "LINK_LOCAL"}
"""ARP, neighbour discovery and the like, which come when they like."""


def _verdicts(net: Anycast) -> Counter[str]:
    with net.view() as view:
        counted = Counter(view.stats().reasons)
    return Counter({name: n for name, n in counted.items() if name not in _BACKGROUND})


def asked(
    net: Anycast, servers: Servers, flows: Sequence[Flow], recorded: Sequence[Answer]
) -> dict[str, int]:
    """Ask on all flows, expect the recorded answers; the verdicts that were counted meanwhile."""
    before = _verdicts(net)
    assert servers.all_answers(flows) == recorded
    return dict(_verdicts(net) - before)


@contextmanager
def flows_and_answers(net: Anycast) -> Iterator[tuple[Servers, list[Flow], list[Answer]]]:
    """Flows of both families, and what they are answered as the router is now."""
    with (
        Servers(net) as servers,
        servers.flows(4, FLOWS) as ipv4,
        servers.flows(6, FLOWS) as ipv6,
    ):
        flows = [*ipv4, *ipv6]
        yield servers, flows, servers.all_answers(flows)


def verdicts(net: Anycast, *attach: str) -> dict[str, int]:
    """Those on requests of both families, all of which are answered as by Linux alone; attached
    that way meanwhile."""
    with flows_and_answers(net) as (servers, flows, recorded):
        net.attach(*attach)
        return asked(net, servers, flows, recorded)
