"""Advice about the interfaces that packets come in by."""

from __future__ import annotations

from collections.abc import Iterator

from ...compile import Stacking, Why
from ...compile.offloads import merges_lists
from ...model.values import Link
from ...observe.obstacles import told
from .families import multipath_families
from .note import Note, World


def keeps_offload(link: Link) -> str:
    """Why generic mode is right there."""
    what = {"tun": "tap", "": "NIC"}.get(link.kind, link.kind)
    return f"generic mode on a {what} keeps checksum offload working"


def generic_mode(world: World) -> Iterator[Note]:
    """Interfaces on which generic mode is a choice."""
    found: dict[str, list[str]] = {}
    for link in world.links():
        if link.leaves_checksums and link.xdp_mode == "generic":
            found.setdefault(keeps_offload(link), []).append(link.name)
    for text, names in found.items():
        yield Note(f"{text}: {', '.join(names)}")


def idle_interfaces(world: World) -> Iterator[Note]:
    """Interfaces of which all passes to Linux."""
    for link in world.links():
        receiver = Stacking(world.snapshot.links).receiver(link)
        settings = world.snapshot.settings.interfaces.get(receiver.ifindex)
        said = told(world.snapshot.links, link)
        if said is not None:
            obstacle, text, fix = said
            if obstacle.why is not Why.INACTIVE or fix:  # that a link stands by is as it should be
                yield Note(text, fix)
        elif link.xdp_mode == "generic" and merges_lists(world.snapshot.links, link):
            yield Note(
                f"{link.name} merges packets into lists, which generic XDP breaks: all it receives "
                "passes to Linux; to have it forwarded here",
                f"ethtool -K {link.name} rx-gro-list off",
            )
        elif settings and not (settings.forwarding4 or settings.forwarding6):
            yield Note(
                f"{receiver.name} does not forward; if this host is to be a router",
                f"sysctl -w net.ipv4.conf.{receiver.name}.forwarding=1",
            )


def other_macs(world: World) -> Iterator[Note]:
    """Devices on ours with their own MAC address, as VRRP has them: their packets come in
    there, and are not ours."""
    stacking = Stacking(world.snapshot.links)
    covered = {tuple(key) for key in world.tables.macs}
    for link in world.links():
        for upper in stacking.other_macs(link):
            forwards = (link.ifindex, upper.mac) in covered or (
                stacking.receiver(link).ifindex,
                upper.mac,
            ) in covered
            yield Note(
                f"{upper} takes what comes in by {link.name} for its own MAC address, "
                f"{upper.mac.hex(':')}: that "
                + ("is forwarded too, as its own" if forwards else "passes to Linux")
            )


def other_links(world: World) -> Iterator[Note]:
    """Links of a bond by which packets come in past our program."""
    stacking = Stacking(world.snapshot.links)
    bonds = {stacking.receiver(link).ifindex for link in world.links() if link.master}
    for ifindex in sorted(bonds):
        missing = [
            link.name
            for link in world.snapshot.links.values()
            if link.master == ifindex and not link.xdp_prog_id
        ]
        bond = world.snapshot.links[ifindex]
        if missing and bond.kind == "bond":
            yield Note(
                f"what {bond.name} receives by {', '.join(missing)} passes to Linux",
                f"xdpecmp attach {bond.name}",
            )


def hash_of_the_nic(world: World) -> Iterator[Note]:
    """Under policy 1 Linux takes a hash that came with the packet (skb->l4_hash) for its own, and
    there is no way for us to see it: fib_multipath_hash(), rt6_multipath_hash()."""
    config = world.tables.config
    policies = {4: config.policy4, 6: config.policy6}
    if not any(policies[family] == 1 for family in multipath_families(world.tables)):
        return
    links = world.links()
    if any(link.kind == "veth" for link in links):
        yield Note(
            "under hash policy 1 Linux goes by the socket's own hash for connections of hosts on "
            "this machine: behind a veth their flows may move; policies 0, 2 and 3 do not"
        )
    others = [link.name for link in links if link.kind != "veth"]
    if others:
        yield Note(
            "under hash policy 1 Linux goes by the NIC's own hash where it supplies one (or RPS "
            "does), and flows move; policies 0, 2 and 3 do not. rxhash off ends it, but with some "
            "drivers also the spreading over receive queues",
            f"ethtool -k {others[0]} | grep receive-hashing",
        )
