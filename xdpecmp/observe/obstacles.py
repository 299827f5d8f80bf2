"""What is said of an interface by which nothing is forwarded: why, and what helps. `attach`,
`doctor` and `status` have these sentences from here."""

from __future__ import annotations

from collections.abc import Mapping

from ..compile import Obstacle, Stacking, Why
from ..model.values import Link

_TAGLESS = frozenset(
    {"bond", "bridge", "team", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "hsr"}
)
"""Kinds that get their frames from other devices for sure."""

_PASSES = "all it receives passes to Linux"


def told(links: Mapping[int, Link], link: Link) -> tuple[Obstacle, str, str] | None:
    """What stands in the way of forwarding what comes in there, a sentence, and the command that
    helps ("" for none); None if nothing does."""
    obstacle = Stacking(links).obstacle(link)
    if obstacle is None:
        return None
    say = {
        Why.ENSLAVED: _enslaved,
        Why.INACTIVE: _inactive,
        Why.OWNED: _owned,
        Why.STACKED: _stacked,
        Why.STRIPS_TAGS: _strips_tags,
        Why.PEER: _peer,
    }[obstacle.why]
    text, fix = say(links, link, obstacle)
    return obstacle, text, fix


def _enslaved(_links: Mapping[int, Link], link: Link, obstacle: Obstacle) -> tuple[str, str]:
    return f"{link.name} belongs to another device, {obstacle.device}: {_PASSES}", ""


def _inactive(_links: Mapping[int, Link], link: Link, obstacle: Obstacle) -> tuple[str, str]:
    if link.delivers:
        mode = obstacle.kind or "unknown"
        return (
            f"{obstacle.device} is a bond of mode {mode}, where Linux does not say by which links "
            f"it receives: all that {link.name} receives passes to Linux",
            f"ip -d link show dev {obstacle.device}",
        )
    return (
        f"{link.name} is a link of {obstacle.device} that is not in use: {_PASSES} until it is",
        "",
    )


def _owned(links: Mapping[int, Link], link: Link, obstacle: Obstacle) -> tuple[str, str]:
    name = obstacle.device.split(" ")[0]
    here = any(each.name == name for each in links.values())
    return (
        f"{obstacle.device} stands on {link.name} and may take its packets: {_PASSES}",
        f"ip -d link show dev {name}" if here else "",
    )


def _stacked(links: Mapping[int, Link], link: Link, _obstacle: Obstacle) -> tuple[str, str]:
    if link.kind == "bond":
        return (
            f"{link.name} is a bond, which gets frames without their VLAN tags: {_PASSES}; its "
            "links see the tags",
            f"xdpecmp attach {link.name}",
        )
    kind = link.kind or "device with links of its own"
    if kind not in _TAGLESS:
        return f"{link.name} is a {kind}, which is not known to see VLAN tags: {_PASSES}", ""
    text = f"{link.name} is a {kind}, which gets frames without their VLAN tags: {_PASSES}"
    if link.kind == "bridge":
        return f"{text}, unless its VLAN filter takes all tags off (vlan_filtering 1)", ""
    below = links.get(link.lower)
    if link.kind in ("macvlan", "macvtap") and below is not None:
        return f"{text}; attach to {below.name}, which it stands on", f"xdpecmp attach {below.name}"
    return text, ""


def _strips_tags(_links: Mapping[int, Link], link: Link, _obstacle: Obstacle) -> tuple[str, str]:
    return (
        f"{link.name} strips VLAN tags, which XDP cannot see then: {_PASSES}; to have it forwarded "
        "here",
        f"ethtool -K {link.name} rxvlan off rx-vlan-stag-hw-parse off",
    )


def _peer(_links: Mapping[int, Link], link: Link, _obstacle: Obstacle) -> tuple[str, str]:
    off = "txvlan off tx-vlan-stag-hw-insert off"
    if link.peer is None:
        return (
            f"the other end of {link.name} may leave VLAN tags beside frames, where XDP cannot "
            f"see them, and cannot be looked at: {_PASSES}",
            "",
        )
    enter = f"nsenter --net={link.peer.path} " if link.peer.path else ""
    return (
        f"{link.peer.name}, the other end of {link.name}, leaves VLAN tags beside frames, where "
        f"XDP cannot see them: {_PASSES}; to have it forwarded here",
        f"{enter}ethtool -K {link.peer.name} {off}",
    )
