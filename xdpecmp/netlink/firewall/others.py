"""IPVS, BPF netfilter programs, ebtables and what else can only be guessed at if the kernel does
not list its hooks (see `hooks`).

Source: net/netfilter/ipvs/ip_vs_ctl.c (/proc/net/ip_vs), net/netfilter/nf_bpf_link.c,
net/netfilter/nf_conntrack_standalone.c (enable_hooks).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ...model.values import Filter
from ...program import attached
from .message import NFPROTO_IPV4, NFPROTO_IPV6, OFF_THE_WAY

IPVS = "IPVS services"
BPF = "BPF netfilter program"
_IPVS_HEADINGS = 3
_ENABLE_HOOKS = Path("/sys/module/nf_conntrack/parameters/enable_hooks")
_MODULES, _SYMBOLS = Path("/proc/modules"), Path("/proc/kallsyms")
_EBTABLES = b"ebtable_broute", b"ebtable_filter", b"ebtable_nat"
_DEFRAGMENTS = 1  # BPF_F_NETFILTER_IP_DEFRAG


def has_ipvs_services() -> bool:
    """Whether the thread's network namespace has some. Raises OSError."""
    try:
        with open("/proc/thread-self/net/ip_vs", "rb") as file:
            return sum(1 for _ in zip(file, range(_IPVS_HEADINGS + 1), strict=False)) > (
                _IPVS_HEADINGS
            )
    except FileNotFoundError:
        return False


def always_tracks() -> bool:
    """Whether connection tracking was loaded to be in use at once."""
    try:
        return _ENABLE_HOOKS.read_text().strip() == "Y"
    except FileNotFoundError:
        return False


def netfilter_programs() -> list[Filter]:
    """Those of all network namespaces, since a link does not tell its own. Raises OSError."""
    found = []
    number = attached.next_link(0)
    while number is not None:
        link = attached.netfilter_link(number)
        if link is not None:
            family, hook, flags = link
            if hook not in OFF_THE_WAY or flags & _DEFRAGMENTS:
                found.append(Filter(BPF, family != NFPROTO_IPV6, family != NFPROTO_IPV4))
        number = attached.next_link(number)
    return found


def may_have_ebtables() -> bool:
    """Whether the kernel has its tables; looking into them would make them. Raises OSError."""
    try:
        loaded = _MODULES.read_bytes()
    except FileNotFoundError:
        loaded = b""
    return any(name in loaded for name in _EBTABLES) or _has_built_in_ebtables()


@cache
def _has_built_in_ebtables() -> bool:
    symbols = _SYMBOLS.read_bytes()
    return any(b" " + name + b"_init\n" in symbols for name in _EBTABLES)
