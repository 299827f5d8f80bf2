"""What Linux has learned from ICMP errors, and goes by rather than by its routes.

A redirect makes an exception of a destination: packets for it leave by another next hop. So does an
IPv4 "fragmentation needed" that names less than net.ipv4.route.min_pmtu: what is larger than that
is not forwarded. Neither is announced. Exceptions are dumped like routes (`ip route show cache`),
with those that change nothing for what is forwarded; IPv4's only once Linux has used them, so that
after redirects were heeded their lifetime has to pass.

Source: __ip_do_redirect(), __ip_rt_update_pmtu(), fib_dump_info_fnhe() in net/ipv4/route.c,
rt6_do_redirect(), rt6_dump_route() in net/ipv6/route.c.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import DumpInterrupted
from ..model.values import Settings
from . import wire
from .routes import ROUTE_HEADER, RTA_DST, RTM_F_CLONED
from .rtnetlink import ADDRESS_SIZE, RTM_GETROUTE

LIFETIME_S = 300.0
"""Of an IPv4 exception: net.ipv4.route.gc_timeout, which only the first namespace has."""

_SHARE = 100
"""Of the time so little may go into dumps: each goes through all routes."""
_ERRORS = ("InRedirects", "InDestUnreachs", "Icmp6InRedirects", "Icmp6InPktTooBigs")
"""Counters of what may have taught Linux something, in /proc/net/snmp and snmp6."""


class Learned:
    """Reads it, of one namespace; as seldom as can be."""

    def __init__(self, connection: wire.Socket, now: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._now = now
        self._errors: tuple[int, ...] | None = None
        self._known: frozenset[bytes] = frozenset()
        self._next = now()
        self._heeded: dict[int, float] = {}
        """When redirects that came may last have been heeded, by interface."""
        self._heeding: set[int] = set()
        """Interfaces where they were, when last looked at."""
        self._before: dict[int, int] = {}
        """How many redirects had come when they were last not heeded there."""

    def add_to(self, settings: Settings) -> Settings:
        """The settings, with destinations of which exceptions are known; and interfaces that heeded
        redirects a while ago as if they still did, if any redirect came meanwhile. The calling
        thread must be in the namespace."""
        errors = read_errors()
        return replace(self._remember(settings, errors[0]), learned=self._read(errors))

    def _read(self, errors: tuple[int, ...]) -> frozenset[bytes]:
        now = self._now()
        changed = errors != self._errors and any(errors)
        if not (changed or self._known) or now < self._next:
            return self._known
        try:
            self._known = frozenset(read_exceptions(self._connection))
            self._errors = errors
        except DumpInterrupted:
            pass  # the next time
        end = self._now()
        self._next = end + _SHARE * (end - now)
        return self._known

    def _remember(self, settings: Settings, redirects: int) -> Settings:
        now = self._now()
        interfaces = settings.interfaces
        heeding = {ifindex for ifindex, each in interfaces.items() if each.learns_redirects4}
        for ifindex in heeding | self._heeding:
            if redirects > self._before.get(ifindex, 0):
                self._heeded[ifindex] = now
        self._before |= dict.fromkeys(interfaces.keys() - heeding, redirects)
        self._heeding = heeding
        late = {
            ifindex: replace(interfaces[ifindex], learns_redirects4=True)
            for ifindex, when in self._heeded.items()
            if ifindex in interfaces.keys() - heeding and now < when + LIFETIME_S
        }
        return replace(settings, interfaces={**interfaces, **late}) if late else settings


def read_errors() -> tuple[int, ...]:
    """How many such errors the calling thread's namespace has received; 0 if nobody counts."""
    found = _parse_snmp(_lines("snmp")) | _parse_snmp6(_lines("snmp6"))
    return tuple(found.get(name, 0) for name in _ERRORS)


def _lines(name: str) -> list[str]:
    """Of a file that may not be there, as without IPv6."""
    try:
        return Path("/proc/thread-self/net", name).read_text().splitlines()
    except OSError:
        return []


def _parse_snmp(lines: list[str]) -> dict[str, int]:
    """Two lines a protocol: names, then numbers."""
    rows = [line.split()[1:] for line in lines if line.startswith("Icmp:")]
    return dict(zip(rows[0], map(int, rows[1]), strict=True)) if len(rows) == 2 else {}


def _parse_snmp6(lines: list[str]) -> dict[str, int]:
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def read_exceptions(connection: wire.Socket) -> set[bytes]:
    """The destinations of all exceptions."""
    found = set()
    for family in ADDRESS_SIZE:
        request = ROUTE_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, RTM_F_CLONED)
        for message in connection.dump(RTM_GETROUTE, request, "learned routes"):
            attributes = wire.attribute_map(message, ROUTE_HEADER.size, len(message))
            address = attributes.get(RTA_DST, b"")
            if len(address) == ADDRESS_SIZE[family]:
                found.add(address)
    return found
