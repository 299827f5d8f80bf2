"""What ethtool, /sys, tc and nftables know: by pyroute2, since nothing here is in a hurry."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing, suppress
from errno import EACCES, EPERM
from pathlib import Path
from typing import Any

from ..model import Link
from ..netlink.features import read_channels
from .facts import Device, Firewall

_BUS = Path("/sys/bus")
"""Not /sys/class/net, which shows the network namespace that /sys was mounted in."""

_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 10: "ip6"}
_HOOKS = {"inet": {0, 2, 4, 5}, "ip": {0, 2, 4}, "ip6": {0, 2, 4}, "netdev": {0, 1}}
"""NF_INET_PRE_ROUTING, FORWARD, POST_ROUTING, INGRESS; NF_NETDEV_INGRESS, EGRESS."""
_NFT_DROP = 0


def read(links: Mapping[int, Link], native_xdp: Mapping[int, bool]) -> dict[int, Device]:
    """Of all links. `native_xdp`: empty where the kernel cannot tell."""
    from pyroute2 import IPRoute  # takes a third of a second, which not every command needs
    from pyroute2.ethtool import Ethtool

    with IPRoute() as route, closing(Ethtool()) as ethtool:
        parents = {message["index"]: message for message in route.get_links()}
        qdiscs: dict[int, list[str]] = defaultdict(list)
        for message in route.get_qdiscs():
            qdiscs[message["index"]].append(message.get_attr("TCA_KIND"))
        return {
            link.ifindex: _device(
                link,
                links,
                parents,
                native_xdp.get(link.ifindex, False) if native_xdp else None,
                tuple(dict.fromkeys(qdiscs[link.ifindex])),
                ethtool,
            )
            for link in links.values()
        }


def _device(
    link: Link,
    links: Mapping[int, Link],
    messages: Mapping[int, Any],
    native_xdp: bool | None,
    qdiscs: tuple[str, ...],
    ethtool: Any,
) -> Device:
    driver, virtio = _parent(messages.get(link.ifindex))
    features: frozenset[str] = frozenset()
    # what a driver has no say in, and a device that has just gone
    with suppress(Exception):
        found = ethtool.get_features(link.name).features
        features = frozenset(name for name, feature in found.items() if feature.enable)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        used, most = read_channels(control, link.name)
    return Device(
        driver=driver,
        features=features,
        native_xdp=native_xdp,
        queue_pairs=used,
        max_queue_pairs=most,
        virtio=virtio,
        peer=_peer(link, links, messages.get(link.ifindex)),
        stacked=_stacked(link, links, messages),
        qdiscs=qdiscs,
    )


def _parent(message: Any) -> tuple[str, frozenset[int] | None]:
    """The driver of the device behind an interface, and what virtio has negotiated."""
    name = message and message.get_attr("IFLA_PARENT_DEV_NAME")
    bus = message and message.get_attr("IFLA_PARENT_DEV_BUS_NAME")
    if not name or not bus:
        return "", None
    parent = _BUS / bus / "devices" / name
    try:
        driver = (parent / "driver").resolve(strict=True).name
    except OSError:
        return "", None
    virtio = None
    if driver == "virtio_net":
        with suppress(OSError):
            bits = (parent / "features").read_text().strip()
            virtio = frozenset(number for number, bit in enumerate(bits) if bit == "1")
    return driver, virtio


def _same_namespace(message: Any) -> bool:
    return message.get_attr("IFLA_LINK_NETNSID") is None


def _peer(link: Link, links: Mapping[int, Link], message: Any) -> str:
    if link.kind != "veth" or message is None or not _same_namespace(message):
        return ""
    peer = links.get(message.get_attr("IFLA_LINK") or 0)
    return peer.name if peer else ""


def _stacked(link: Link, links: Mapping[int, Link], messages: Mapping[int, Any]) -> dict[str, str]:
    """VLAN, macvlan and ipvlan devices on top; those of other namespaces can't be seen."""
    return {
        upper.name: upper.kind
        for upper in links.values()
        if upper.kind not in ("", "veth")
        and upper.ifindex in messages
        and messages[upper.ifindex].get_attr("IFLA_LINK") == link.ifindex
        and _same_namespace(messages[upper.ifindex])
    }


# --- netfilter -----------------------------------------------------------------------------------


def read_firewall(unseen: list[str]) -> Firewall | None:
    """Rules on the way of forwarded packets; None where they can't be read, and `unseen` says so.

    A base chain counts if it has rules or drops by itself: iptables makes empty ones that accept.
    """
    try:
        chains, rules = _nftables()
        legacy = _legacy_tables()
    except PermissionError:
        unseen.append("nftables and iptables rules")
        return None
    ruled = {_chain_of(rule, "RULE", "CHAIN") for rule in rules}
    names, nat = [], False
    for chain in chains:
        key = _chain_of(chain, "CHAIN", "NAME")
        hook = chain.get_attr("NFTA_CHAIN_HOOK")
        family = _FAMILIES.get(key[0], "")
        if hook is None or hook.get_attr("NFTA_HOOK_HOOKNUM") not in _HOOKS.get(family, ()):
            continue
        if key in ruled or chain.get_attr("NFTA_CHAIN_POLICY") == _NFT_DROP:
            names.append(f"{family} {key[1]} {key[2]}")
            nat = nat or chain.get_attr("NFTA_CHAIN_TYPE") == "nat"
    return Firewall(tuple(names), nat, legacy)


def _nftables() -> tuple[list[Any], list[Any]]:
    """Chains and rules, none from a kernel without nftables. Raises PermissionError."""
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    try:
        with closing(NFTables(nfgen_family=socket.AF_UNSPEC)) as tables:
            return list(tables.get_chains()), list(tables.get_rules())
    except NetlinkError as error:
        if error.code in (EPERM, EACCES):
            raise PermissionError(error.code, "nftables") from error
    except OSError as error:
        if error.errno in (EPERM, EACCES):
            raise
    return [], []


def _chain_of(message: Any, kind: str, name: str) -> tuple[int, str, str]:
    """Family, table and chain."""
    return (
        message["nfgen_family"],
        message.get_attr(f"NFTA_{kind}_TABLE"),
        message.get_attr(f"NFTA_{kind}_{name}"),
    )


def _legacy_tables() -> tuple[str, ...]:
    """Those that somebody has used, by name. Raises PermissionError."""
    found = []
    for program, path in (("iptables", "ip"), ("ip6tables", "ip6")):
        with suppress(FileNotFoundError):  # a kernel without them
            text = Path(f"/proc/thread-self/net/{path}_tables_names").read_text()
            found += [f"{program} {table}" for table in sorted(text.split())]
    return tuple(found)
