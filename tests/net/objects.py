"""Routes over nexthop objects (`ip nexthop`), as FRR makes them, in the anycast topology.

What Linux would do is asked for flow by flow (`ip route get`). Every test leaves the objects as it
found them (`restored`), since the kernel deletes those that lose their link.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from testbed.waiting import wait_until
from tests.net.topology import DEADLINE, SEED, VIP, VIP_PREFIX, Anycast, batch, gateway
from tests.net.traffic import PORT, Flow, Servers
from xdpecmp.hashing import bounds, select
from xdpecmp.netlink import wire
from xdpecmp.observe.state import RouteState

FLOWS = 100
FAMILIES = (4, 6)
GROUP = {4: 10, 6: 110}
WEIGHTS = {1: 1, 2: 2, 3: 5}
"""By server, as everywhere in here."""
RTM_NEWNEXTHOP = 104
CREATE_OR_REPLACE = 0x400 | wire.NLM_F_REPLACE
NHA_ID, NHA_GROUP = 1, 2


def member(family: int, server: int) -> int:
    """The id of the object that is that server's gateway."""
    return (0 if family == 4 else 100) + server


def set_group(net: Anycast, family: int, weights: Mapping[int, int]) -> None:
    """Make or replace a group, also with weights that iproute2 before 6.13 does not know."""
    block = b"".join(
        struct.pack("=IHH", member(family, server), weight - 1, 0)
        for server, weight in weights.items()
    )
    request = bytes(8) + wire.attribute(NHA_ID, struct.pack("=I", GROUP[family]))
    request += wire.attribute(NHA_GROUP, block)
    with net.ns.enter(), wire.Socket() as connection:
        connection.tell(RTM_NEWNEXTHOP, CREATE_OR_REPLACE, request, "nexthop group")


def build_objects(net: Anycast) -> None:
    """All objects and the anycast routes over them, whatever of it is there."""
    for family in FAMILIES:
        for server in WEIGHTS:
            via = gateway(server, family)
            net.ns.ip(f"nexthop replace id {member(family, server)} via {via} dev e{server}")
        set_group(net, family, WEIGHTS)
        route_over(net, family, GROUP[family])


def route_over(net: Anycast, family: int, nhid: int) -> None:
    """Let the anycast route lead to that object."""
    net.ns.ip(f"-{family} route replace {VIP_PREFIX[family]} nhid {nhid}")


@contextmanager
def over_objects() -> Iterator[Anycast]:
    """The topology, its anycast routes leading over a group of nexthop objects; hash policy 1."""
    with Anycast((1, 1, 1)) as made:
        made.policy(1)
        for family in FAMILIES:
            made.ns.ip(f"-{family} route del {VIP_PREFIX[family]}")
        build_objects(made)
        yield made


def linux_says(net: Anycast, flows: Sequence[Flow]) -> list[int]:
    """The server that the kernel would send each flow to now."""
    questions = [
        f"route get {VIP[flow.family]} from {flow.source} iif c0 ipproto udp"
        f" sport {flow.port} dport {PORT}"
        for flow in flows
    ]
    done = net.ns.run("ip", "-batch", "-", input="\n".join(questions) + "\n")
    devices = [
        line.split(" dev ")[1].split()[0] for line in done.stdout.splitlines() if " dev " in line
    ]
    assert len(devices) == len(flows), done.stdout
    return [int(device.removeprefix("e")) for device in devices]


def xdp_says(net: Anycast, servers: Servers, flows: Sequence[Flow]) -> list[int]:
    """The server that answers each flow, all of them having gone by XDP, except those by which
    Linux hears that a bucket is in use."""

    def decided() -> int:
        return net.reason("FORWARDED") + net.reason("BUCKET_USE")

    before = decided()
    answers = servers.all_answers(flows)
    # the answers are not among them: they come in by interfaces without a program
    assert decided() - before == len(flows)
    return [answer.server for answer in answers]


def predicted(flows: Sequence[Flow], weights: Mapping[int, int]) -> list[int]:
    """By the model."""
    order, limits = list(weights), bounds(list(weights.values()))
    return [order[select(limits, flow.key(1).hash(SEED))] for flow in flows]


def weights_shown(route: RouteState | None) -> dict[str | None, int]:
    return {path.via: path.weight for path in route.paths} if route else {}


def wait_for_weights(net: Anycast, family: int, weights: Mapping[int, int]) -> None:
    """Until the data path has these servers and weights, and can send to all of them."""
    wanted = {gateway(server, family): weight for server, weight in weights.items()}

    def reached(route: RouteState | None) -> bool:
        paths = route.paths if route else ()
        return weights_shown(route) == wanted and all(path.state == "up" for path in paths)

    net.wait_for_route(VIP_PREFIX[family], reached, f"weights {wanted}")


@contextmanager
def restored(net: Anycast) -> Iterator[None]:
    """Whatever happens inside, afterwards the objects are as they were."""
    try:
        yield
    finally:
        build_objects(net)
        for family in FAMILIES:
            wait_for_weights(net, family, WEIGHTS)


def revive(net: Anycast) -> None:
    """Server 2's link comes back, with what it lost."""
    batch(
        net.servers[1],
        "link set eth0 up",
        f"addr replace {gateway(2, 6)}/64 dev eth0",
        "route replace default via 10.0.2.1",
        "route replace default via 2001:db8:2::1",
    )
    wait_until(
        lambda: "LOWER_UP" in net.ns.ip("link show dev e2"), "the link of e2 is back", DEADLINE
    )
