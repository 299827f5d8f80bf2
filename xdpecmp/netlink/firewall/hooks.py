"""Netfilter's hooks on the way of forwarded packets, by what is registered there.

nfnetlink_hook (Linux 5.14, CONFIG_NETFILTER_NETLINK_HOOK) lists every function of a hook, no matter
who registered it: connection tracking, IPVS, BPF programs, unknown modules. Functions that are
known to do nothing, and those of which `nftables` and `iptables` know more, are left out; all
others count.

The kernel loads the module when it is asked; that registers no hook.

Source: net/netfilter/nfnetlink_hook.c, include/uapi/linux/netfilter/nfnetlink_hook.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EINVAL, ENOENT, EOPNOTSUPP
from typing import NamedTuple

from ...errors import KernelRefused
from .. import wire
from .message import (
    HEADER_SIZE,
    NF_BR_NUMHOOKS,
    NF_INET_FORWARD,
    NF_INET_POST_ROUTING,
    NF_INET_PRE_ROUTING,
    NFPROTO_BRIDGE,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    header,
)

_SUBSYSTEM = 12
_GET = _SUBSYSTEM << 8  # NFNL_MSG_HOOK_GET

_HOOKNUM = 1
_FUNCTION_NAME = 4
_MODULE_NAME = 5

_INET_WAY = (NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING)
_WAY = {
    NFPROTO_IPV4: _INET_WAY,
    NFPROTO_IPV6: _INET_WAY,
    NFPROTO_BRIDGE: tuple(range(NF_BR_NUMHOOKS)),
}
"""Hooks on the way; of bridges all, since what is routed leaves through "output" and comes in
through "input"."""

_KNOWN_ELSEWHERE = (
    "nft_do_chain",  # nftables: which chains, and whether they have rules
    *("ipt_do_table", "ip6t_do_table", "iptable_", "ip6table_"),  # iptables
)
_HARMLESS = (
    "apparmor_ip_postroute",  # looks at packets that have a socket: apparmor_nf_ops
    "ip_sabotage_in",  # br_netfilter: keeps a packet from prerouting a second time
    "br_nf_",  # br_netfilter: calls the hooks of IP, which count themselves
    "nf_nat_",  # leaves alone what is not tracked, and tracking counts itself: nf_nat_ipv4_fn()
)
_NAMES = (
    ("ip_vs_", "IPVS services"),
    ("nf_hook_run_bpf", "BPF netfilter program"),
    ("ebt_", "ebtables"),
    *((name, "ebtables") for name in ("ebtable_", "frame_filter", "frame_nat")),
    *((name, "SELinux") for name in ("selinux_",)),
)

TRACKING = "connection tracking"
DEFRAGMENTATION = "defragmentation"
_TRACKS = ("ipv4_conntrack_in", "ipv6_conntrack_in", "nf_ct_bridge_", "nf_conntrack_")
_CONFIRMS = ("nf_confirm", "ipv4_confirm", "ipv6_confirm", "ipv4_helper", "ipv6_helper")
_DEFRAGMENTS = ("ipv4_conntrack_defrag", "ipv6_defrag")


class Hook(NamedTuple):
    """A function that sees forwarded packets."""

    family: int
    """NFPROTO_IPV4, NFPROTO_IPV6 or NFPROTO_BRIDGE."""
    what: str


Lists = dict[tuple[int, int], list[bytes]]
"""By family and number of a hook the messages that tell who is on it, in their order."""


def read(connection: wire.Socket, bridges: bool) -> Lists | None:
    """The hooks on the way, those of bridges if there are any; None if the kernel does not tell.
    Raises XdpecmpError."""
    lists: Lists = {}
    for family, numbers in _WAY.items():
        for number in numbers if bridges or family != NFPROTO_BRIDGE else ():
            try:
                lists[family, number] = functions(connection, family, number)
            except KernelRefused as error:
                if error.errno == EINVAL and not lists:
                    return None
                if error.errno not in (EOPNOTSUPP, EINVAL, ENOENT):
                    raise  # those: no such family or hook in this kernel
    return lists


def functions(connection: wire.Socket, family: int, number: int) -> list[bytes]:
    """The messages on one hook, without netlink header. Raises XdpecmpError."""
    request = header(family) + wire.attribute(_HOOKNUM, struct.pack("!I", number))
    return connection.dump(_GET, request, "netfilter hooks")


def counting(lists: Lists) -> Iterator[Hook]:
    """What counts of them, each once. Raises MalformedMessage."""
    found: dict[Hook, None] = {}
    for (family, _), messages in lists.items():
        for message in messages:
            told = wire.attribute_map(message, HEADER_SIZE, len(message))
            # the compiler clones functions: nf_confirm.isra.0
            name = _text(told.get(_FUNCTION_NAME, b"")).split(".")[0]
            what = describe(name, _text(told.get(_MODULE_NAME, b"")))
            if what:
                found[Hook(family, what)] = None
    yield from found


def describe(name: str, module: str) -> str:
    """What a function is, "" if it does no harm or is looked at elsewhere."""
    if name.startswith(_DEFRAGMENTS):
        return DEFRAGMENTATION
    if name.startswith((*_TRACKS, *_CONFIRMS)):
        return TRACKING
    for prefix, what in _NAMES:
        if name.startswith(prefix):
            return what
    if name.startswith((*_HARMLESS, *_KNOWN_ELSEWHERE)):
        return ""
    return f"netfilter hook {name or 'without a name'}" + (f" of {module}" if module else "")


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode(errors="replace")
