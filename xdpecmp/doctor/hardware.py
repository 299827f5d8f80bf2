"""What ethtool and /sys know: by pyroute2, since nothing here is in a hurry."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ..model.values import Link
from ..netlink.ethtool import read_channels
from .facts import Device

_BUS = Path("/sys/bus")
"""Not /sys/class/net, which shows the network namespace that /sys was mounted in."""


def read(links: Mapping[int, Link], native_xdp: Mapping[int, bool]) -> dict[int, Device]:
    """Of all links. `native_xdp`: empty if the kernel cannot tell."""
    from pyroute2 import IPRoute  # takes a third of a second, which not every command needs
    from pyroute2.ethtool import Ethtool

    with IPRoute() as route, closing(Ethtool()) as ethtool:
        parents = {message["index"]: message for message in route.get_links()}
        return {
            link.ifindex: _device(
                link,
                links,
                parents,
                native_xdp.get(link.ifindex, False) if native_xdp else None,
                ethtool,
            )
            for link in links.values()
        }


def _device(
    link: Link,
    links: Mapping[int, Link],
    messages: Mapping[int, Any],
    native_xdp: bool | None,
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
