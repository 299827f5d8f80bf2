"""Advice about the devices that packets leave by."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ...compile.offloads import merges_unseen
from ...model.values import Link
from ...netlink.ethtool import SEGMENTS_ALL
from ...program.abi import Reason
from .note import Note, World


def no_transmit_names(world: World) -> set[str]:
    """Devices of next hops that frames cannot be redirected to."""
    links = world.snapshot.links
    if not any(link.xdp_mode == "native" for link in links.values()):
        return set()  # generic mode redirects to every device
    return {
        links[adjacency.device].name
        for adjacency in world.tables.nexthops.values()
        if adjacency.reason == Reason.EGRESS_NO_XDP and adjacency.device in links
    }


def no_transmit_text(names: Collection[str]) -> str:
    return f"what leaves by {', '.join(names)} passes to Linux: it cannot transmit XDP frames"


def no_transmit_remedies(
    links: Collection[Link], tells: bool, ours: Collection[str] = ()
) -> Iterator[tuple[list[str], Note]]:
    """What helps devices that frames cannot be redirected to, by their names. `tells`: whether the
    kernel knows of them at all (Linux 6.3); `ours`: the interfaces that native programs run on."""
    generic = f"xdpecmp attach {' '.join(sorted(ours)) or 'IFACE'} --mode generic"
    idle = [link.name for link in links if not link.kind and link.xdp_mode != "native"]
    if idle:
        text = "many a NIC sends XDP frames only while it runs a program itself"
        yield idle, Note(text, f"xdpecmp attach {' '.join(idle)}")
    veths = [link.name for link in links if link.kind == "veth"]
    if veths and tells:
        yield veths, Note("a veth can once its peer has GRO on", "ethtool -K PEER gro on")
    elif veths:
        yield veths, Note("before Linux 6.3 nobody can tell; generic mode asks nothing", generic)
    others = [link.name for link in links if link.name not in {*idle, *veths}]
    if others:
        yield others, Note("in generic mode it can, which is slower", generic)


def no_transmit(world: World, tells: bool) -> Iterator[Note]:
    names = no_transmit_names(world)
    links = [link for link in world.snapshot.links.values() if link.name in names]
    ours = [link.name for link in world.links() if link.xdp_mode == "native"]
    for those, remedy in no_transmit_remedies(links, tells, ours):
        yield Note(f"{no_transmit_text(sorted(those))} ({remedy})")


def heeding(world: World) -> Iterator[tuple[str, Note]]:
    """Devices that packets leave by, and whose redirects Linux heeds."""
    links = world.snapshot.links
    found = {
        (nexthop.ifindex, 6 if len(nexthop.via) == 16 else 4)
        for nexthop, adjacency in world.tables.nexthops.items()
        if adjacency.reason == Reason.LEARNED
    }
    for ifindex, family in sorted(found):
        name = links[ifindex].name
        which = (name,) if family == 6 else ("all", name)
        keys = " ".join(f"net.ipv{family}.conf.{each}.accept_redirects=0" for each in which)
        late = "; IPv4 is forwarded here five minutes later" if family == 4 else ""
        yield (
            name,
            Note(
                f"IPv{family} that leaves by {name} passes to Linux, which heeds ICMP redirects "
                f"there{late}",
                f"sysctl -w {keys}",
            ),
        )


def whole_only(world: World) -> Iterator[tuple[str, Note]]:
    """Devices that merged packets must not be redirected to, while interfaces may bring such."""
    links = world.snapshot.links
    bringing = [
        link.name
        for link in world.links()
        if link.xdp_mode == "generic" and merges_unseen(links, link)
    ]
    devices = {
        adjacency.device
        for adjacency in world.tables.nexthops.values()
        if not adjacency.takes_anything and adjacency.device in links
    }
    for device in (links[ifindex] for ifindex in sorted(devices) if bringing):
        able = device.kind == "veth" and not device.segments_all
        yield (
            device.name,
            Note(
                f"what comes in by {', '.join(bringing)} and leaves by {device.name} passes to "
                "Linux: in generic mode packets may come merged, and only Linux takes them apart "
                "for it",
                f"ethtool -K {device.name} {' '.join(_OFFLOADS_ON)}" if able else "",
            ),
        )


_OFFLOADS_ON = ("tx on", "sg on", "tso on", *(f"{name} on" for name in SEGMENTS_ALL[7:]))
"""All of them: the first ones have names of their own as a group."""
