"""What is said of a firewall, NAT, connection tracking and traffic control that XDP comes before.

`attach` and `status` print it, `doctor` shows it. Nobody is told to remove one, nor to bypass it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..compile import Findings

_MOST_NAMED = 6
_SHOWS = {
    "nftables": "nft list ruleset",
    "iptables-legacy": "iptables-legacy-save",
    "ip6tables-legacy": "ip6tables-legacy-save",
    "IPVS": "ipvsadm -Ln",
    "tc": "tc qdisc show; tc filter show dev IFACE ingress",
    "tcx": "bpftool net",
    "BPF": "bpftool link",
    "ebtables": "ebtables-legacy -L",
    "connection": "nft list ruleset; iptables-legacy-save",
}
"""By a finding's first word, what shows more of it."""


def sentences(findings: Findings, bypassed: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What holds, a sentence for each family, or for both if they have the same; and what was
    found. None if there is nothing."""
    if findings.ipv4 == findings.ipv6:
        families = {"IPv4 and IPv6": findings.ipv4}
    else:
        families = {"IPv4": findings.ipv4, "IPv6": findings.ipv6}
    for family, found in families.items():
        if not found:
            continue
        if bypassed:
            yield (
                f"{family} forwarded here bypass{'' if ' ' in family else 'es'} "
                f"{_some(found)}: --bypass-firewall allows it",
                found,
            )
        else:
            yield (
                f"{family} pass{'' if ' ' in family else 'es'} to Linux, since what is forwarded "
                f"here would bypass {_some(found)}",
                found,
            )


def command(found: tuple[str, ...]) -> str:
    """What shows more of the first one."""
    return _SHOWS.get(found[0].split()[0], "")


def _some(found: tuple[str, ...]) -> str:
    more = len(found) - _MOST_NAMED
    return ", ".join(found[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
