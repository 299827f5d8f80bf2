"""What the user of a fresh data path should know: what takes the slow path, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from .abi import REASON_TEXT, Reason
from .agent import EVERYTHING
from .compile import Tables
from .errors import XdpecmpError
from .instance import FLOW_LABEL_TEXT
from .mirror import Mirror
from .model import NextHop, Prefix
from .verify import first_disagreement


def notes(mirror: Mirror, flow_label: str) -> list[str]:
    """All that there is to say, a line each."""
    tables = mirror.tables
    if tables is None:
        return []
    return [
        *_generic_veths(mirror),
        *_passed_whole(tables),
        *_passed_multipath(tables),
        *_deaf_egress(mirror, tables),
        *_idle_interfaces(mirror),
        *_hash_of_the_nic(mirror, tables),
        *_flow_label(tables, flow_label),
        *_disagreement(mirror),
    ]


def _generic_veths(mirror: Mirror) -> Iterator[str]:
    attached = mirror.attached()
    veths = [
        link.name
        for link in mirror.snapshot.links.values()
        if link.ifindex in attached and link.kind == "veth" and link.xdp_mode == "generic"
    ]
    if veths:
        yield f"generic mode on a veth keeps checksum offload working: {', '.join(veths)}"


def _passed_whole(tables: Tables) -> Iterator[str]:
    for family, reason in ((4, tables.config.pass4), (6, tables.config.pass6)):
        if reason:
            yield f"all IPv{family} passes to Linux: {REASON_TEXT[Reason(reason).name]}"


def _passed_multipath(tables: Tables) -> Iterator[str]:
    reasons = {4: tables.config.pass_multipath4, 6: tables.config.pass_multipath6}
    if Reason.SEED_UNKNOWN in reasons.values():
        yield (
            "multipath routes pass to Linux, since it keeps its hash seed to itself; to have them "
            "forwarded here, set one (flows move once): xdpecmp attach IFACE --set-seed"
        )
    for family, reason in reasons.items():
        if reason == Reason.POLICY_UNSUPPORTED:
            yield (
                f"IPv{family} multipath routes pass to Linux: {REASON_TEXT[Reason(reason).name]} "
                f"(sysctl net.ipv{family}.fib_multipath_hash_policy)"
            )


def _deaf_egress(mirror: Mirror, tables: Tables) -> Iterator[str]:
    links = mirror.snapshot.links
    if not any(link.xdp_mode == "native" for link in links.values()):
        return  # generic mode redirects to every device
    deaf = {
        links[adjacency.device].name
        for adjacency in tables.nexthops.values()
        if adjacency.reason == Reason.EGRESS_NO_XDP and adjacency.device in links
    }
    if deaf:
        yield (
            f"what leaves by {', '.join(sorted(deaf))} passes to Linux: it cannot transmit XDP "
            "frames (a veth can once its peer has GRO on: ethtool -K PEER gro on)"
        )


def _idle_interfaces(mirror: Mirror) -> Iterator[str]:
    for ifindex in sorted(mirror.attached()):
        link = mirror.snapshot.links[ifindex]
        settings = mirror.snapshot.settings.interfaces.get(ifindex)
        if link.master:
            yield f"{link.name} belongs to another device: all it receives passes to Linux"
        elif link.strips_tags:
            yield (
                f"{link.name} strips VLAN tags, which XDP cannot see then: all it receives passes "
                f"to Linux; to have it forwarded here: ethtool -K {link.name} rxvlan off"
            )
        elif settings and not (settings.forwarding4 or settings.forwarding6):
            yield f"{link.name} does not forward: sysctl -w net.ipv4.conf.{link.name}.forwarding=1"


def _hash_of_the_nic(mirror: Mirror, tables: Tables) -> Iterator[str]:
    """Under policy 1 Linux takes a hash that came with the packet (skb->l4_hash) for its own, and
    there is no way for us to see it: fib_multipath_hash(), rt6_multipath_hash()."""
    if not tables.groups or 1 not in (tables.config.policy4, tables.config.policy6):
        return
    links = [mirror.snapshot.links[ifindex] for ifindex in sorted(mirror.attached())]
    if any(link.kind == "veth" for link in links):
        yield (
            "under hash policy 1 Linux goes by the socket's own hash for connections of hosts on "
            "this machine: behind a veth their flows may move; policies 0, 2 and 3 do not"
        )
    others = [link.name for link in links if link.kind != "veth"]
    if others:
        yield (
            "under hash policy 1 Linux goes by the NIC's own hash where it supplies one, and flows "
            f"move: turn it off: ethtool -K {others[0]} rxhash off"
        )


def _flow_label(tables: Tables, choice: str) -> Iterator[str]:
    """When servers have to reflect flow labels."""
    if tables.config.policy6 != 0 or not tables.groups:
        return
    multipath6 = tables.targets.where(lambda target: not isinstance(target, int | NextHop), [6])
    if any(True for _ in multipath6):
        yield FLOW_LABEL_TEXT[choice]


def _disagreement(mirror: Mirror) -> Iterator[str]:
    """Whether this very kernel chooses as we reckon, tried with some flows: the kernel promises no
    stability of its hash."""
    prefix = _disagreeing_route(mirror)
    if prefix is not None:  # unless something has just changed
        mirror.pull(EVERYTHING)
        mirror.push()
        prefix = _disagreeing_route(mirror)
    if prefix is not None:
        yield (
            f"Linux chooses other next hops for {prefix} than xdpecmp does, so flows move; see "
            "how: xdpecmp verify; leave it to Linux again: xdpecmp detach --all"
        )


def _disagreeing_route(mirror: Mirror) -> Prefix | None:
    tables = mirror.tables
    if tables is None:
        return None
    with suppress(XdpecmpError):  # an interface that has just gone: not for `attach` to fail by
        for ifindex in sorted(mirror.attached() & tables.interfaces.keys()):
            prefix = first_disagreement(mirror.kernel, tables, ifindex)
            if prefix is not None:
                return prefix
    return None
