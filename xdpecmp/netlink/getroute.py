"""What Linux itself does with a packet of some flow: RTM_GETROUTE, as `ip route get` asks.

Asked with an ingress interface it takes the way of a packet that is to be forwarded, with all its
checks. It takes fields and no packet, so there is no asking about an ICMP error, a fragment, an
extension header or a tunnel, nor about protocols other than TCP, UDP and ICMP.

Source: inet_rtm_getroute() in net/ipv4/route.c, inet6_rtm_getroute() in net/ipv6/route.c,
rtm_getroute_parse_ip_proto() in net/ipv4/netlink.c.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from errno import EACCES, EOPNOTSUPP
from typing import NamedTuple

from ..errors import KernelRefused, NotPermitted
from ..model.flow import Flow
from ..model.values import NextHop, RouteKind
from . import wire
from .routes import ROUTE_HEADER, RTA_DST, RTA_OIF, RTA_SRC, kind_of, via_of
from .rtnetlink import RTM_GETROUTE, family_of

_RTA_IIF = 3
_RTA_IP_PROTO = 27
_RTA_SPORT = 28
_RTA_DPORT = 29
_RTA_FLOWLABEL = 31

PROTOCOLS = {
    4: frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP}),
    6: frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6}),
}
"""Those that can be asked about, by family."""


class Query(NamedTuple):
    """A packet to be forwarded. A flow label other than 0 only if `takes_flow_label`."""

    flow: Flow
    iif: int
    """Index of the interface that it came in on."""


class Answer(NamedTuple):
    """Where the packet goes: a next hop (with `via` b"" for a host on the link), or why not."""

    kind: RouteKind
    nexthop: NextHop | None = None
    error: int = 0
    """The kernel's errno if it would not forward the packet."""

    def __str__(self) -> str:
        if self.nexthop is not None:
            return f"{self.kind.value} route, {self.nexthop}"
        return os.strerror(self.error) if self.error else f"{self.kind.value} route"


def takes_flow_label(release: str | None = None) -> bool:
    """Whether this kernel can be asked about a flow label (since Linux 6.14)."""
    numbers = re.findall(r"\d+", release or os.uname().release)
    return (int(numbers[0]), int(numbers[1])) >= (6, 14)


def request(query: Query) -> bytes:
    """The body of the question."""
    flow = query.flow
    bits = len(flow.destination) * 8
    attributes = [
        wire.attribute(RTA_DST, flow.destination),
        wire.attribute(RTA_SRC, flow.source),
        wire.attribute(_RTA_IIF, struct.pack("=I", query.iif)),
        wire.attribute(_RTA_IP_PROTO, bytes([flow.proto])),
        wire.attribute(_RTA_SPORT, struct.pack("!H", flow.sport)),
        wire.attribute(_RTA_DPORT, struct.pack("!H", flow.dport)),
    ]
    if flow.flow_label:
        attributes.append(wire.attribute(_RTA_FLOWLABEL, struct.pack("!I", flow.flow_label)))
    return ROUTE_HEADER.pack(family_of(flow.destination), bits, bits, 0, 0, 0, 0, 0, 0) + b"".join(
        attributes
    )


def parse_answer(message: bytes) -> Answer:
    """One RTM_NEWROUTE without its netlink header. Raises MalformedMessage."""
    kind = kind_of(message)
    found = wire.attribute_map(message, ROUTE_HEADER.size, len(message))
    via, known = via_of(found)
    if kind is not RouteKind.UNICAST or not known or RTA_OIF not in found:
        return Answer(kind)
    return Answer(kind, NextHop(via, wire.number(found[RTA_OIF])))


def route_get(connection: wire.Socket, query: Query) -> Answer:
    """What the kernel does with such a packet.

    Raises KernelRefused if it cannot be asked that (EOPNOTSUPP: the protocol).
    """
    try:
        message = connection.ask(RTM_GETROUTE, request(query), "route get")
    except NotPermitted:  # no privilege is asked for: this is a prohibit route
        return Answer(RouteKind.SPECIAL, error=EACCES)
    except KernelRefused as error:
        if error.errno == EOPNOTSUPP:
            raise
        return Answer(RouteKind.SPECIAL, error=error.errno)
    return parse_answer(message)
