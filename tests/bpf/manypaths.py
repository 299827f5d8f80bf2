"""A route of each family over many equal paths: a wrong hash key seldom finds the right one."""

from __future__ import annotations

from typing import Any

from xdpecmp.hashing import bounds, select

PATHS = 32
VIAS = {
    4: [f"10.0.1.{i + 10}" for i in range(PATHS)],
    6: [f"2001:db8:b::{i + 0x10:x}" for i in range(PATHS)],
}
ROUTER = {4: "203.0.113.7", 6: "2001:db8:ffff::7"}
"""A router on the way back, which ICMP errors come from."""

_ROUTES = "\n".join(
    " ".join([prefix, *(f"nexthop via {via} dev out" for via in VIAS[family])])
    for family, prefix in ((4, "198.18.40.0/24"), (6, "2001:db8:40::/48"))
)


def setup(policy: int, fields: int = 0x7) -> dict[str, Any]:
    """What the world's snapshot takes: the routes, and both families' hash policy and
    fields (the default is Linux's)."""
    settings = {"policy4": policy, "policy6": policy, "fields4": fields, "fields6": fields}
    return {"routes": _ROUTES, "settings": settings}


def chosen(family: int, hash31: int) -> str:
    """The next hop that a packet with this hash takes."""
    return VIAS[family][select(bounds([1] * PATHS), hash31)]
