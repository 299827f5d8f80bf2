"""Whether multipath routes may be hashed with a seed of our own: only while no flow can be parted.

With Linux's own seed it does not matter which packets of a flow pass to Linux: it sends them the
same way. With another seed it does: what passes goes to another next hop than the rest of its flow,
and so does an error that this router itself sends about a packet of a server's. So multipath passes
as a whole, unless it is known that Linux forwards no part of a flow that is forwarded here, and
that it never has to send a Packet Too Big to a multipath destination.

For each reason in reasons.def, why no part of a flow can pass by it:

- Linux drops the packet, and no flow is parted by it: MALFORMED, LENGTH, CHECKSUM, MULTICAST,
  MARTIAN_SOURCE, TTL, FORWARDING_OFF, NO_ROUTE, ROUTE_LOCAL, and NOT_OUR_MAC on a NIC. What is
  NON_IP and carries IP within comes in by another device, which is asked about. NO_HEADROOM takes
  a driver that leaves less than four bytes in native mode, where 192 is the least.
- All of a family or of its multipath routes passes: POLICY_RULES, IPSEC, SETTING, TABLE_FULL,
  FIREWALL, SEED_UNKNOWN, POLICY_UNSUPPORTED, OWN_SEED; or all packets to a prefix: ROUTE_*,
  LEARNED.
- Excluded here: INTERFACE (NOT_ATTACHED, CAPACITY), MTU (MTU, MERGES, INGRESS_KIND),
  PARTIAL_CHECKSUM (CHECKSUMS), ENCAPSULATION (TUNNELS), EGRESS_NO_XDP, ON_LINK and LEARNED
  (CANNOT_SEND), FRAGMENT (FRAGMENTS), RP_FILTER (SOURCE_CHECK), REDIRECT (`without_redirects`).
- Cannot be excluded, and is said by IN_WORDS: IPV4_OPTIONS, EXTENSION_HEADER, LINK_LOCAL, frames
  with a priority tag (INTERFACE: VLAN 0), NEIGHBOUR, EGRESS_DOWN, LEASE_EXPIRED, BEHIND, and what
  this router itself sends.
- With a seed of our own none passes by it: BUCKET_USE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..model.values import Link, NextHop, Settings, Snapshot
from ..program.abi import CAPACITY, INTERFACE_FLAGS, REASON_TEXT, Reason
from .parting import Cause, Parting
from .tables import Adjacency, Config, Group, Interface, Resilient, Target
from .tags import tag_stack

if TYPE_CHECKING:
    from ..model.packed import Layered

IN_WORDS = (
    "multipath routes go by a hash seed of xdpecmp's own, since Linux keeps its own to itself. "
    "Flows stay where they are, except that Linux's answer is another for what passes to it: "
    "packets with IPv4 options, IPv6 hop-by-hop or routing headers, IPv4 link-local addresses or a "
    "priority tag; the flows of a next hop that is not resolved or whose device is down; ICMP "
    "errors that this router itself sends; and everything while the agent's lease has run out, "
    "while it is behind, while a route is read again, and after detach"
)
"""What holds while the rule allows it."""


class Plan(NamedTuple):
    """What is about to be forwarded."""

    snapshot: Snapshot
    interfaces: Mapping[int, Interface]
    nexthops: Mapping[NextHop, Adjacency]
    groups: Mapping[tuple[object, ...], Group]
    targets: Layered[Target]
    deep: bool
    """Whether the program for what takes a walk through the packet is there."""


def heed(config: Config, plan: Plan) -> Config:
    """The configuration with all of a family's multipath passing if a flow could be parted."""
    if not config.own_seed:
        return config
    parting4, parting6 = first_causes(plan, 4), first_causes(plan, 6)
    if parting4 and not config.pass_multipath4:
        config = config._replace(pass_multipath4=int(Reason.OWN_SEED), parting4=parting4)
    if parting6 and not config.pass_multipath6:
        config = config._replace(pass_multipath6=int(Reason.OWN_SEED), parting6=parting6)
    return config


def in_force(config: Config) -> bool:
    """Whether a family's multipath goes by the seed of our own."""
    return config.own_seed and not (config.pass_multipath4 and config.pass_multipath6)


def without_redirects(interfaces: Mapping[int, Interface]) -> dict[int, Interface]:
    """What leaves where it came in is forwarded here too, or that part of the flows would go by
    Linux's hash. No ICMP redirect is sent about it."""
    keep = ~INTERFACE_FLAGS["SEND_REDIRECTS"]
    return {
        ifindex: interface._replace(flags=interface.flags & keep)
        for ifindex, interface in interfaces.items()
    }


def first_causes(plan: Plan, family: int) -> tuple[Parting, ...]:
    """The first cause that there is, for each device that it is about; empty if there is none."""
    found: list[Parting] = []
    for parting in _causes(plan, family):
        if found and parting.cause is not found[0].cause:
            break
        if parting not in found:
            found.append(parting)
    return tuple(found)


def _causes(plan: Plan, family: int) -> Iterator[Parting]:
    if _looks_into_tunnels(plan.snapshot.settings, family):
        yield Parting(Cause.TUNNELS)
    if family == 6 and plan.snapshot.settings.policy6 == 1 and not plan.deep:
        yield Parting(Cause.NO_WALK)  # packets with extension headers would pass
    settings = plan.snapshot.settings
    if settings.defragments4 if family == 4 else settings.defragments6:
        yield Parting(Cause.FRAGMENTS)
    ingresses = [link.ifindex for link in _forwarding(plan.snapshot, family)]
    yield from (
        Parting(Cause.NOT_ATTACHED, each) for each in ingresses if each not in plan.interfaces
    )
    ours = [each for each in ingresses if each in plan.interfaces]
    for check in (_ingress_kind, _merges, _checksums):
        yield from (Parting(*found) for each in ours for found in check(plan, each))
    yield from _egresses(plan)
    yield from _mtu(plan, ours, family)
    yield from _multipath(plan, ours)
    if any(_is_routed(prefix) for prefix, _ in plan.targets.where(_is_unsupported, [family])):
        yield Parting(Cause.ROUTE)
    if family == 4:
        yield from _source_check(plan, ours)
    yield from _capacity(plan)


# --- in words -----------------------------------------------------------------------------------

_WORDS = {
    Cause.TUNNELS: "the hash policy looks into tunnels, and packets that cannot be followed pass",
    Cause.NOT_ATTACHED: "{name} forwards too, and xdpecmp is not attached to it",
    Cause.INGRESS_KIND: "what comes in by {name} ({kind}) may be merged beyond the MTU, or have "
    "its checksum left for later, and then passes",
    Cause.MERGES: "{name} merges what it receives (LRO, rx-gro-hw) beyond the MTU",
    Cause.CHECKSUMS: "what looks unfinished on {name} passes",
    Cause.MTU: "the MTU of {name} is smaller than that of interfaces that packets come in by",
    Cause.EGRESS_KIND: "of what leaves by {name} Linux may send errors",
    Cause.CANNOT_SEND: "what a multipath route sends by {name} passes",
    Cause.ROUTE: "there are routes that only Linux handles, perhaps with a smaller MTU",
    Cause.SOURCE_CHECK: "strict rp_filter on {name} is left to Linux where a group is resilient or "
    "has more than 16 next hops",
    Cause.CAPACITY: "there are more interfaces than the data path holds",
    Cause.FRAGMENTS: "Linux reassembles fragments before it routes them, and they pass",
    Cause.NO_WALK: "the program for IPv6 extension headers is not there yet",
}

_FIXES = {
    Cause.NOT_ATTACHED: "xdpecmp attach {name}",
    Cause.MERGES: "ethtool -K {name} lro off rx-gro-hw off",
}
"""What helps and is safe to type. It costs CPU time to have MERGES off."""


def passing(config: Config, links: Mapping[int, Link]) -> Iterator[tuple[str, str]]:
    """That multipath passes to Linux by OWN_SEED, and why, with the command that helps: of both
    families at once if they do so for the same cause."""
    families: dict[tuple[Parting, ...], list[str]] = {}
    for family, parting in ((4, config.parting4), (6, config.parting6)):
        if parting:
            families.setdefault(parting, []).append(f"IPv{family}")
    for parting, names in families.items():
        text, fix = why(parting[0].cause, [links.get(p.ifindex) for p in parting if p.ifindex])
        what, reason = " and ".join(names), REASON_TEXT[Reason.OWN_SEED.name]
        yield f"{what} multipath passes to Linux, since {reason}: {text}", fix


def why(cause: int, devices: Sequence[Link | None]) -> tuple[str, str]:
    """A sentence about these devices (None: one that has gone), and the command that helps; "" if
    there is none that is safe to follow."""
    names = [link.name if link else "a device that has gone" for link in devices]
    kinds = sorted({_kind(link) for link in devices})
    words = _WORDS.get(Cause(cause), "")
    text = words.format(name=", ".join(names), kind=" or ".join(kinds))
    attachable = all(link and len(link.mac) == 6 and link.kind != "vlan" for link in devices)
    if cause == Cause.NOT_ATTACHED and not attachable:
        return text, ""
    fix = _FIXES.get(Cause(cause), "")
    if cause == Cause.MERGES:
        names = names[:1]
    return text, fix.format(name=" ".join(names))


def _kind(link: Link | None) -> str:
    if link is None:
        return "gone"
    return link.kind or "no program there yet"


# --- what comes in ------------------------------------------------------------------------------

_LOOPBACK = 1
"""Its index, in every namespace."""

_TAKES_ALL = ("bridge", "bond", "team", "openvswitch")
"""Kinds of masters to which all that their members receive belongs."""


def _looks_into_tunnels(settings: Settings, family: int) -> bool:
    """Then a packet that cannot be followed to its end passes, perhaps not the rest of its flow."""
    policy = settings.policy4 if family == 4 else settings.policy6
    fields = settings.fields4 if family == 4 else settings.fields6
    return policy == 2 or (policy == 3 and fields > 0x3F)


def _forwarding(snapshot: Snapshot, family: int) -> Iterator[Link]:
    """The interfaces of which Linux forwards what they receive."""
    for link in snapshot.links.values():
        settings = snapshot.settings.interfaces.get(link.ifindex)
        if settings is None or not link.up or (link.ifindex == _LOOPBACK and not link.mac):
            continue
        master = snapshot.links.get(link.master)
        if master is not None and master.kind in _TAKES_ALL:
            continue
        if settings.forwarding4 if family == 4 else settings.forwarding6:
            yield link


def _device(plan: Plan, ifindex: int) -> Link:
    """The device below an ingress of ours that is a VLAN."""
    stack = tag_stack(plan.snapshot.links, ifindex)
    return plan.snapshot.links[stack[0] if stack else ifindex]


def _ingress_kind(plan: Plan, ifindex: int) -> Iterator[tuple[Cause, int]]:
    """Only of a NIC that runs a program it is known that what comes in fits the MTU, is whole, and
    is seen before Linux changes it."""
    device = _device(plan, ifindex)
    if device.kind or device.xdp_mode not in ("native", "generic"):
        yield Cause.INGRESS_KIND, device.ifindex


def _merges(plan: Plan, ifindex: int) -> Iterator[tuple[Cause, int]]:
    """A native program that takes no fragments gets nothing that the hypervisor or hardware merged
    by rx-gro-hw: drivers switch it off meanwhile (virtio_net leaves the feature shown as on)."""
    device = _device(plan, ifindex)
    if device.merges - ({"rx-gro-hw"} if device.xdp_mode == "native" else set()):
        yield Cause.MERGES, device.ifindex


def _checksums(plan: Plan, ifindex: int) -> Iterator[tuple[Cause, int]]:
    """What looks unfinished passes, and one finished checksum in 65,536 looks alike."""
    flags = INTERFACE_FLAGS["LOSES_PARTIAL"] | INTERFACE_FLAGS["KEEPS_PARTIAL"]
    if plan.interfaces[ifindex].flags & flags:
        yield Cause.CHECKSUMS, _device(plan, ifindex).ifindex


def _source_check(plan: Plan, ingresses: list[int]) -> Iterator[Parting]:
    """uses_interface() in bpf/lookup.c leaves these to Linux, under strict rp_filter."""
    unchecked = any(isinstance(group, Resilient) or len(group) > 16 for group in _groups(plan))
    for ifindex in ingresses:
        if unchecked and plan.interfaces[ifindex].rp_filter == 1:
            yield Parting(Cause.SOURCE_CHECK, ifindex)


# --- what leaves --------------------------------------------------------------------------------

_SENDS_NO_ERRORS = ("", "veth", "bridge", "bond", "team", "macvlan", "dummy")
"""Kinds of devices with an Ethernet header, behind which Linux itself sends no error."""


def _mtu(plan: Plan, ingresses: list[int], family: int) -> Iterator[Parting]:
    """What fits where it comes in has to fit wherever it may leave, by one next hop too: Linux
    fragments the rest, or sends Packet Too Big to its source, which may be a server."""
    links, settings = plan.snapshot.links, plan.snapshot.settings.interfaces
    most = max((links[ifindex].mtu for ifindex in ingresses), default=0)
    fits = {ifindex: links[ifindex].mtu for ifindex in ingresses}
    for nexthop, adjacency in plan.nexthops.items():
        known = fits.get(nexthop.ifindex, adjacency.mtu)
        fits[nexthop.ifindex] = min(known, adjacency.mtu)
    for ifindex, mtu in fits.items():
        mtu6 = settings[ifindex].mtu6 if family == 6 and ifindex in settings else 0
        if min(mtu, mtu6 or mtu) < most:
            yield Parting(Cause.MTU, ifindex)


def _egresses(plan: Plan) -> Iterator[Parting]:
    links = plan.snapshot.links
    for nexthop, adjacency in plan.nexthops.items():
        device = links.get(adjacency.device)
        if device is None or device.kind not in _SENDS_NO_ERRORS or len(device.mac) != 6:
            yield Parting(Cause.EGRESS_KIND, nexthop.ifindex)


def _groups(plan: Plan) -> Iterator[Group]:
    return iter(plan.groups.values())


def _multipath(plan: Plan, ingresses: list[int]) -> Iterator[Parting]:
    """Paths that never take a packet, or take it from some of our interfaces only."""
    generic = INTERFACE_FLAGS["GENERIC"]
    native = any(not plan.interfaces[ifindex].flags & generic for ifindex in ingresses)
    for group in _groups(plan):
        members = group.members if isinstance(group, Resilient) else {e.nexthop for e in group}
        for nexthop in members:
            device = plan.snapshot.links.get(plan.nexthops[nexthop].device)
            cannot = device is None or (native and not device.can_transmit_xdp)
            learned = plan.nexthops[nexthop].reason == Reason.LEARNED
            if cannot or learned or not nexthop.via:
                yield Parting(Cause.CANNOT_SEND, nexthop.ifindex)


def _is_unsupported(target: Target) -> bool:
    return target == int(Reason.ROUTE_UNSUPPORTED)


def _is_routed(prefix: tuple[bytes, int]) -> bool:
    """Whether packets to it are forwarded at all: not to link-local IPv6 addresses, which are on
    several interfaces of any host."""
    address, length = prefix
    return not (len(address) == 16 and length >= 10 and address[:2] == b"\xfe\x80")


def _capacity(plan: Plan) -> Iterator[Parting]:
    devices = {adjacency.device for adjacency in plan.nexthops.values()}
    places = {ifindex % CAPACITY["INTERFACES_MAX"] for ifindex in plan.interfaces}
    if len(devices) > CAPACITY["DEVICES_MAX"] or len(places) < len(plan.interfaces):
        yield Parting(Cause.CAPACITY)
