"""Traffic control: queueing disciplines that shape or drop, filters, and tcx programs.

A frame that XDP forwards meets neither the ingress filters of the device that it comes in by, nor
the filters and the queue of the one that it leaves by. Queues that only keep the line busy do no
harm by that; they are listed, and all others count.

Source: tc_fill_qdisc() in net/sched/sch_api.c, tc_dump_tfilter() in net/sched/cls_api.c,
include/uapi/linux/rtnetlink.h, pkt_sched.h; tcx: kernel/bpf/tcx.c.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from errno import EINVAL, ENODEV, ENOENT
from typing import NamedTuple

from ...errors import KernelRefused, MalformedMessage
from ...model.values import EGRESS, INGRESS, Filter
from ...program import attached
from .. import wire
from ..rtnetlink import (
    RTM_DELCHAIN,
    RTM_DELQDISC,
    RTM_DELTFILTER,
    RTM_GETQDISC,
    RTM_GETTFILTER,
    RTM_NEWCHAIN,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
)

EVENTS = frozenset(
    {RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER, RTM_NEWCHAIN, RTM_DELCHAIN}
)

_HEADER = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, ifindex, handle, parent, info."""
_TCA_KIND, _TCA_OPTIONS = 1, 2

_QUEUES = """
    noqueue mq pfifo_fast pfifo bfifo pfifo_head_drop codel fq_codel pie fq_pie sfq fq cake
"""
_HARMLESS = frozenset([*_QUEUES.split(), "clsact", "ingress"])
"""As long as the next two tables have nothing against them, and they have no filter."""
_FQ_FLOW_MAX_RATE, _NO_RATE = 7, 0xFFFFFFFF
_CAKE = {2: "bandwidth", 9: "autorate-ingress", 11: "nat", 13: "wash", 16: "ack-filter"}
"""TCA_CAKE_BASE_RATE64, AUTORATE, NAT, WASH, ACK_FILTER: each harmless if 0."""

_INGRESS_PARENT, _CLSACT_INGRESS, _CLSACT_EGRESS = 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3

BPF_TCX_INGRESS, BPF_TCX_EGRESS = 46, 47
TCX = ((BPF_TCX_INGRESS, INGRESS), (BPF_TCX_EGRESS, EGRESS))


class Qdisc(NamedTuple):
    """One queueing discipline."""

    ifindex: int
    handle: int
    kind: str
    limit: str
    """What of its options counts, "" for nothing."""


def read(connection: wire.Socket, names: Mapping[int, str]) -> list[Filter]:
    """What counts, of these devices. Raises XdpecmpError."""
    found: list[Filter] = []
    for message in connection.dump(RTM_GETQDISC, _HEADER.pack(0, 0, 0, 0, 0), "qdiscs"):
        qdisc = parse_qdisc(message)
        name = names.get(qdisc.ifindex)
        if name is None:
            continue  # it appeared a moment ago; its own event has all read again
        if qdisc.kind not in _HARMLESS or qdisc.limit:
            what = f"tc qdisc {qdisc.kind} {qdisc.limit}".rstrip()
            found.append(Filter(f"{what} on {name}", ifindex=qdisc.ifindex, side=EGRESS))
        for parent, side in _parents(qdisc):
            if _has_filter(connection, qdisc.ifindex, parent):
                found.append(Filter(f"tc filter on {name} {side}", True, True, qdisc.ifindex, side))
    return list(dict.fromkeys(found))


def parse_qdisc(message: bytes) -> Qdisc:
    """One RTM_NEWQDISC, without netlink header. Raises MalformedMessage."""
    if len(message) < _HEADER.size:
        raise MalformedMessage(f"qdisc message of {len(message)} bytes")
    _, ifindex, handle, _, _ = _HEADER.unpack_from(message)
    told = wire.attribute_map(message, _HEADER.size, len(message))
    kind = told.get(_TCA_KIND, b"").split(b"\0")[0].decode(errors="replace")
    return Qdisc(ifindex, handle, kind, _limit(kind, told.get(_TCA_OPTIONS, b"")))


def _limit(kind: str, block: bytes) -> str:
    """The option that makes an otherwise harmless qdisc count."""
    if kind not in ("fq", "cake"):
        return ""
    options = wire.attribute_map(block, 0, len(block))
    if kind == "fq":
        rate = wire.number(options.get(_FQ_FLOW_MAX_RATE, bytes(4)))
        return "" if rate == _NO_RATE else "maxrate"
    for option, name in _CAKE.items():
        if option not in options or wire.number(options[option]):
            return name
    return ""


def _parents(qdisc: Qdisc) -> Iterator[tuple[int, str]]:
    """Where a qdisc may have filters; one that got no handle cannot."""
    if qdisc.kind == "clsact":
        yield _CLSACT_INGRESS, INGRESS
        yield _CLSACT_EGRESS, EGRESS
    elif qdisc.kind == "ingress":
        yield _INGRESS_PARENT, INGRESS
    elif qdisc.handle and qdisc.kind in _HARMLESS:
        yield qdisc.handle, EGRESS


def _has_filter(connection: wire.Socket, ifindex: int, parent: int) -> bool:
    request = _HEADER.pack(socket.AF_UNSPEC, ifindex, 0, parent, 0)
    try:
        return bool(connection.dump(RTM_GETTFILTER, request, "tc filters"))
    except KernelRefused as error:
        if error.errno in (EINVAL, ENOENT, ENODEV):
            return False  # it has just gone
        raise


def tcx_programs(ifindex: int, attach_type: int) -> int:
    """How many programs a device of the thread's network namespace has there; 0 before Linux 6.6,
    and for a device that has just gone. Raises OSError."""
    try:
        return attached.attached_programs(ifindex, attach_type)
    except OSError as error:
        if error.errno in (EINVAL, ENODEV, ENOENT):
            return 0
        raise


def tcx_filter(ifindex: int, attach_type: int, name: str) -> Filter:
    """What such programs come to, on the device of that name."""
    side = dict(TCX)[attach_type]
    return Filter(f"tcx program on {name} {side}", ifindex=ifindex, side=side)
