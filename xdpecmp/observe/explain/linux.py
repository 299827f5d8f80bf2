"""What Linux can be asked about a packet, and what its answer means."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ...errors import KernelRefused
from ...model.flow import Flow
from ...model.values import NextHop, NexthopGroup
from ...netlink import Answer, Kernel, Query
from ...netlink.getroute import PROTOCOLS, takes_flow_label
from ...program.abi import GroupKind
from .decision import Decision, HashSettings

_TUNNELS = frozenset({socket.IPPROTO_IPIP, socket.IPPROTO_IPV6, socket.IPPROTO_GRE})
_WITH_PORTS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP})


def label_can_be_asked(settings: HashSettings) -> bool:
    """Whether `question` has one for IPv6 packets with a flow label."""
    if settings.policy == 0:
        return settings.follows_label and takes_flow_label()
    return settings.policy == 1


def question(decision: Decision) -> Query | str:
    """What to ask Linux so that it has to choose for this very packet; or why that cannot be asked.

    Under each policy the question must give all that it hashes, and Linux must read it from the
    packet as RTM_GETROUTE would take it.
    """
    addresses = decision.addresses
    if addresses is None or not decision.ingress:
        return "not a packet that reached routing"
    flow = _flow(decision, Flow(*addresses)) if decision.is_multipath else Flow(*addresses)
    return flow if isinstance(flow, str) else Query(flow, decision.ingress)


def _flow(decision: Decision, ends: Flow) -> Flow | str:
    """`ends`: a flow of these addresses."""
    family, packet = decision.family, decision.packet
    policy, follows_label = decision.settings.policy, decision.settings.follows_label
    if decision.settings.own_seed:
        return "Linux keeps its hash seed to itself, and chooses by that"
    if decision.is_icmp_error:
        return "Linux cannot be asked where it sends an ICMP error"
    proto = packet[9] if family == 4 else packet[6]
    fragment = family == 4 and int.from_bytes(packet[6:8], "big") & 0x3FFF
    if policy in (2, 3) and proto in _TUNNELS:
        return "Linux cannot be asked about the inside of a tunnel"
    if family == 4 and policy in (0, 2):
        return ends
    if fragment:
        return "Linux cannot be asked about fragments"
    if family == 6 and policy == 3:  # rt6_multipath_custom_hash_fl6() against …_skb()
        return "asked without a packet, Linux leaves out a step of IPv6's hash under policy 3"
    if proto not in PROTOCOLS[family]:
        return f"Linux can be asked about TCP, UDP and ICMP only, not about protocol {proto}"
    flow = replace(ends, proto=proto)
    if policy in (1, 3) and proto in _WITH_PORTS:
        start = (packet[0] & 0xF) * 4 if family == 4 else 40
        ports = packet[start : start + 4].ljust(4, b"\0")
        sport, dport = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
        flow = replace(flow, sport=sport, dport=dport)
    label = int.from_bytes(packet[1:4], "big") & 0xFFFFF if family == 6 and policy != 1 else 0
    if not label:
        return flow
    if policy == 0 and not follows_label:
        return "xdpecmp ignores the flow label here (attach --flow-label), Linux does not"
    if policy != 0:  # flowi6_get_flowlabel() against ntohl() in the flow dissector
        return "asked without a packet, Linux has the flow label in another byte order"
    if not takes_flow_label():
        return "this kernel cannot be asked about flow labels (Linux 6.14 can)"
    return replace(flow, flow_label=label)


class Comparison(NamedTuple):
    """Linux's answer and whether the program's is the same."""

    answer: Answer | None
    agrees: bool | None
    why: str = ""
    """Why not, if `agrees` is None."""


def compare(decision: Decision, chosen: NextHop | None, answer: Answer | str) -> Comparison:
    """`chosen`: what the program chose; `answer`: Linux's, or why there is none."""
    if isinstance(answer, str):
        return Comparison(None, None, answer)
    if chosen is None:
        return Comparison(answer, None, "the program leaves the choice to Linux")
    if answer.nexthop is None:
        if decision.forwards:
            return Comparison(answer, False)
        return Comparison(answer, None, "neither of them forwards it")
    return Comparison(answer, answer.nexthop == chosen)


def in_moved_bucket(decision: Decision, answer: Answer, groups: Mapping[int, NexthopGroup]) -> bool:
    """Whether Linux's other answer for a resilient group is right by its own buckets: then the hash
    is the same, and the bucket is one that Linux has moved while it is in use here."""
    kind, _, count = decision.group
    if kind != GroupKind.RESILIENT or decision.hash is None:
        return False
    return any(
        group.members[group.buckets[decision.hash % count]].nexthop == answer.nexthop
        for group in groups.values()
        if group.resilient and len(group.buckets) == count
    )


def ask(kernel: Kernel, decision: Decision) -> Answer | str:
    """Linux's answer, or why there is none."""
    query = question(decision)
    if isinstance(query, str):
        return query
    try:
        return kernel.route_get(query)
    except KernelRefused as error:
        return f"Linux does not say: {error.message}"
