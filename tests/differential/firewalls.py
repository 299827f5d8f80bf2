"""Firewalls that Linux has in a part of each round: xdpecmp must leave all to it from then on.

They keep no state, since the same frames pass through them twice, and let sentinels through.
"""

from __future__ import annotations

from tests.differential.design import INGRESS, SENTINEL_SOURCE

_SENTINELS = f"ip saddr {SENTINEL_SOURCE} accept"


def _chain(family: str, hook: str, *rules: str) -> str:
    lines = "\n".join((f"type filter hook {hook} priority -10;", _SENTINELS, *rules))
    return f"table {family} f {{\nchain c {{\n{lines}\n}}\n}}\n"


FIREWALLS = (
    _chain("inet", "forward", "udp sport 0-32767 drop", "ip ttl 64-128 drop", "ip6 nexthdr 6 drop"),
    _chain("inet", "postrouting", "ip ttl set 9", "ip6 hoplimit set 9"),
    _chain("inet", "prerouting", "meta l4proto { icmp, ipv6-icmp } drop"),
    _chain("netdev", f"ingress device {INGRESS}", "meta length 100-400 drop"),
    _chain("inet", "forward", "drop"),
)
"""By the number of the round, modulo."""
