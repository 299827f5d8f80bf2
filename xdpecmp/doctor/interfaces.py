"""Checks of each interface: whether it can be attached to, in which mode, and what then passes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from ..compile import Stacking, Why
from ..control import advice
from ..control.attachment import check_interface, is_better_generic
from ..errors import XdpecmpError
from ..model.values import InterfaceSettings, Link
from .facts import Device, Facts
from .finding import Finding, from_error, from_note, note, ok

PAGE = 4096
VIRTIO_LARGEST_MTU = PAGE - 256 - 320 - 14
"""virtnet_xdp_set(): a page less XDP_PACKET_HEADROOM, struct skb_shared_info and the Ethernet
header. Other drivers come out within some hundred bytes of it."""

_GUEST_CSUM, _CTRL_GUEST_OFFLOADS, _MRG_RXBUF, _ANY_LAYOUT, _VERSION_1 = 1, 2, 15, 27, 32
_GUEST_OFFLOADS = {_GUEST_CSUM, 7, 8, 9, 10, 54, 55}
"""VIRTIO_NET_F_GUEST_*: CSUM, TSO4, TSO6, ECN, UFO, USO4, USO6."""


def check_interfaces(facts: Facts) -> Iterator[Finding]:
    """All of them, one interface after the other."""
    if not facts.interfaces:
        yield note("interface", "no Ethernet interface to attach to is up here", "ip -br link show")
    for link in facts.interfaces:
        refused = _refused(facts, link)
        if refused:
            yield refused
            continue
        device = facts.devices.get(link.ifindex, Device())
        yield _mode(facts, link, device)
        for check in (_silent, _forwarding, _reverse_path, _redirects, _hash, _queues, _on_top):
            yield from check(facts, link, device)
    yield from _egress(facts)


def _refused(facts: Facts, link: Link) -> Finding | None:
    """What `attach` would refuse."""
    links = facts.snapshot.links
    ours: Collection[int] = facts.running.programs
    if not facts.running.seen:
        ours = {each.xdp_prog_id for each in links.values()}  # for all that can be told
    try:
        check_interface(link, links, ours)
    except XdpecmpError as error:
        return from_error("interface", error, link.name)
    return None


# --- the mode ------------------------------------------------------------------------------------


def expected_mode(link: Link, device: Device) -> tuple[str, str]:
    """The mode that the interface has or that `attach` would choose, and why it is generic."""
    if link.xdp_mode:
        return link.xdp_mode, ""
    if is_better_generic(link):
        return "generic", ""
    if device.virtio is not None:
        refusal = _virtio_refusal(link, device.virtio)
        return ("generic", refusal) if refusal else ("native", "")
    if device.native_xdp is False:
        return "generic", "no native XDP in its driver"
    return "native", ""


def assumed(
    links: Mapping[int, Link], devices: Mapping[int, Device], chosen: Collection[int]
) -> dict[int, Link]:
    """All links, the chosen ones as they would be once attached to: in a mode, and a driver that
    transmits XDP frames only while it has a program (virtio_net, ixgbe, ice ...) doing so."""
    result = dict(links)
    for ifindex in chosen:
        link, device = links[ifindex], devices.get(ifindex, Device())
        mode, _ = expected_mode(link, device)
        transmits = link.can_transmit_xdp or (mode == "native" and not link.kind)
        result[ifindex] = replace(link, xdp_mode=mode, can_transmit_xdp=transmits)
    return result


def _virtio_refusal(link: Link, features: frozenset[int]) -> str:
    """Why the driver would refuse, as virtnet_xdp_set() in drivers/net/virtio_net.c does."""
    if _CTRL_GUEST_OFFLOADS not in features and features & _GUEST_OFFLOADS:
        return (
            "its host merges packets and leaves checksums open (GRO_HW, CSUM) and does not let the "
            "guest turn that off; set guest_csum, guest_tso4 and the like off for the VM"
        )
    if _MRG_RXBUF in features and not features & {_ANY_LAYOUT, _VERSION_1}:
        return "its host is too old: no VIRTIO_F_ANY_LAYOUT"
    if link.mtu > VIRTIO_LARGEST_MTU:
        return f"its MTU of {link.mtu} is above {VIRTIO_LARGEST_MTU}, what fits into a page"
    return ""


def _mode(facts: Facts, link: Link, device: Device) -> Finding:
    """`link` is in the mode that it has or would have."""
    name = device.driver or link.kind or "device"
    attached = facts.snapshot.links[link.ifindex].xdp_mode
    too_large = link.mtu > VIRTIO_LARGEST_MTU
    if link.xdp_mode == "generic":
        if link.leaves_checksums:
            return note("mode", advice.keeps_offload(link), interface=link.name)
        _, why = expected_mode(facts.snapshot.links[link.ifindex], device)
        found = f"{name}: generic XDP, slower" + (f": {why}" if why else "")
        return note("mode", found, interface=link.name)
    if attached:
        return ok("mode", f"{name}: {attached} XDP", link.name)
    if too_large:
        found = (
            f"{name}: with an MTU of {link.mtu} most drivers refuse native XDP, for which a frame "
            "must fit into a page; then generic, slower"
        )
        return note("mode", found, interface=link.name)
    if "rx-lro" in device.features:
        found = f"{name}: many drivers refuse native XDP while they merge packets (LRO)"
        return note("mode", found, f"ethtool -K {link.name} lro off", link.name)
    if device.native_xdp is None and device.virtio is None:
        found = f"{name}: native XDP if the driver has it, which this kernel does not tell"
        return ok("mode", found, link.name)
    return ok("mode", f"{name}: native XDP", link.name)


def _queues(facts: Facts, link: Link, device: Device) -> Iterator[Finding]:
    """virtio-net wants a transmit queue for each CPU; without, they share and lock."""
    if device.virtio is None or link.xdp_mode != "native":
        return
    if facts.snapshot.links[link.ifindex].xdp_prog_id:
        return  # the queues in use are counted with XDP's then
    used, most, cpus = device.queue_pairs, device.max_queue_pairs, facts.cpus
    if not most or used + cpus <= most:
        return
    spare = most - cpus
    wanted = f"queues='{used + cpus}' in the VM's <driver> (libvirt), queues= in QEMU's -netdev"
    yield note(
        "queues",
        f"native XDP on virtio-net sends best with {used} + {cpus} queue pairs (those in use and "
        f"one a CPU), of {most}: it locks them instead, slower; give it more: {wanted}",
        f"ethtool -L {link.name} combined {spare}" if spare >= 1 else "",
        link.name,
    )


# --- what passes ---------------------------------------------------------------------------------


def _world(facts: Facts, link: Link) -> advice.World:
    """With this interface alone, in the mode that it would have."""
    links = {**facts.snapshot.links, **{each.ifindex: each for each in facts.interfaces}}
    snapshot = replace(facts.snapshot, links=links)
    return advice.World(snapshot, facts.tables, {link.ifindex})


def _silent(facts: Facts, link: Link, _device: Device) -> Iterator[Finding]:
    """Of which all passes."""
    if not link.up:
        yield note("link", f"{link.name} is down", f"ip link set dev {link.name} up", link.name)
    obstacle = Stacking(facts.snapshot.links).obstacle(link)
    for said in advice.idle_interfaces(_world(facts, link)):
        yield from_note(
            {
                Why.ENSLAVED: "master",
                Why.INACTIVE: "bond",
                Why.OWNED: "on top",
                Why.STACKED: "stacked",
                Why.STRIPS_TAGS: "rxvlan",
                Why.PEER: "vlan",
            }[obstacle.why]
            if obstacle
            else "forwarding",
            said,
            link.name,
        )


def _receiver(facts: Facts, link: Link) -> Link:
    """Whose settings count: those of the bond, for its links."""
    return Stacking(facts.snapshot.links).receiver(link)


def _settings(facts: Facts, link: Link) -> InterfaceSettings:
    return facts.snapshot.settings.interfaces.get(link.ifindex, InterfaceSettings())


def _forwarding(facts: Facts, link: Link, _device: Device) -> Iterator[Finding]:
    """If one family alone does: advice.idle_interfaces tells of both."""
    link = _receiver(facts, link)
    settings = _settings(facts, link)
    if settings.forwarding4 == settings.forwarding6:
        return
    if settings.forwarding4:
        off = (
            "IPv6; if it is to, and its own routes come by router advertisements, accept_ra=2 first"
        )
        fix = "sysctl -w net.ipv6.conf.all.forwarding=1"
    else:
        off = "IPv4; if it is to"
        fix = f"sysctl -w net.ipv4.conf.{link.name}.forwarding=1"
    yield note("forwarding", f"{link.name} does not forward {off}", fix, link.name)


def _reverse_path(facts: Facts, link: Link, _device: Device) -> Iterator[Finding]:
    link = _receiver(facts, link)
    number = _settings(facts, link).rp_filter
    if number and not link.master:
        found = f"the reverse-path check (rp_filter {number}) is made here too, as by Linux"
        yield ok("rp_filter", found, link.name)


def _redirects(facts: Facts, link: Link, _device: Device) -> Iterator[Finding]:
    """On a router whose every gateway is behind this one interface."""
    link = _receiver(facts, link)
    egress = {gateway.ifindex for gateway in facts.tables.gateways}
    if egress == {link.ifindex} and _settings(facts, link).send_redirects:
        yield note(
            "redirects",
            f"all gateways are behind {link.name}: what would leave where it came in passes to "
            "Linux, which sends ICMP redirects",
            "sysctl -w net.ipv4.conf.all.send_redirects=0 "
            f"net.ipv4.conf.{link.name}.send_redirects=0",
            link.name,
        )


def _hash(facts: Facts, link: Link, device: Device) -> Iterator[Finding]:
    if link.kind == "veth" or "rx-hashing" in device.features:
        for said in advice.hash_of_the_nic(_world(facts, link)):
            yield from_note("policy 1", said, link.name)


def _on_top(facts: Facts, link: Link, device: Device) -> Iterator[Finding]:
    """Devices that take part of what comes in, and queueing that is passed by."""
    if link.kind == "veth":
        yield note(
            "tso",
            "its peer hands over TCP segments in bulk (TSO); what is larger than the egress MTU "
            "passes to Linux, which forwards it in bulk",
            interface=link.name,
        )
    vlans = [name for name, kind in device.stacked.items() if kind == "vlan"]
    if vlans and not Stacking(facts.snapshot.links).blind(link):
        yield ok("vlan", f"covers {', '.join(vlans)}", link.name)
    if facts.snapshot.links[link.ifindex].xdp_prog_id:
        for said in advice.other_links(_world(facts, link)):
            yield from_note("bond", said, link.name)
    for said in advice.other_macs(_world(facts, link)):
        yield from_note("macvlan", said, link.name)


# --- where it leaves -----------------------------------------------------------------------------


def _egress(facts: Facts) -> Iterator[Finding]:
    """Devices of next hops that a native program cannot redirect to."""
    links = {**facts.snapshot.links, **{each.ifindex: each for each in facts.interfaces}}
    snapshot = replace(facts.snapshot, links=links)
    without = advice.no_transmit_names(advice.World(snapshot, facts.tables, ()))
    attached = {link.ifindex for link in facts.interfaces}
    world = advice.World(snapshot, facts.tables, attached)
    for name, found in (*advice.heeding(world), *advice.whole_only(world)):
        yield from_note("egress", found, interface=name)
    ours = [link.name for link in facts.interfaces if link.xdp_mode == "native"]
    for link in sorted(links.values(), key=lambda link: link.ifindex):
        if link.name not in without:
            continue
        device = facts.devices.get(link.ifindex, Device())
        if not link.kind and device.native_xdp is False:  # attaching to it would not help
            link = replace(link, kind=device.driver or "nic")
        tells = device.native_xdp is not None
        for _, remedy in advice.no_transmit_remedies([link], tells, ours):
            fix = remedy.fix.replace("PEER", device.peer or "PEER")
            yield note("egress", advice.no_transmit_text([link.name]), fix, link.name)
