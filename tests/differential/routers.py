"""A designed router, built: its namespace, and another one that holds the far ends of its links."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Self

from tests.differential.design import (
    DEVICES,
    INGRESS,
    NEIGHBOURS,
    SOURCES,
    Design,
    device_mac,
    link_address,
    neighbour_mac,
    sentinel_target,
)
from tests.net.topology import DEADLINE, Router
from tests.netns import Namespace, veth, wait_until
from xdpecmp.netlink import wire

_RTM_NEWNEXTHOP, _NHA_ID, _NHA_GROUP = 104, 1, 2
_CREATE = 0x400


class Lab(Router):
    """The router of a design in its namespace, and `outside`, the far ends of its links."""

    def __init__(self, made: Design) -> None:
        self.design = made
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.outside = undo.enter_context(Namespace("outside"))
            super().__init__(undo.enter_context(Namespace("differ")))
            undo.callback(self._detach)
            self._build()
            self._cleanup = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _detach(self) -> None:
        if self.ns.path.exists() and self.instance.present():
            self.detach()

    def load_firewall(self, ruleset: str) -> None:
        """Have Linux filter, and wait until xdpecmp knows."""
        self.ns.run("nft", "-f", "-", input=ruleset)

        def known() -> bool:
            return [row["reason"] for row in self.status()["passed"]][:2] == ["FIREWALL"] * 2

        wait_until(known, "both families pass to Linux", DEADLINE)

    def _build(self) -> None:
        made = self.design
        for key, value in self._sysctls():
            self.sysctl(key, value)
        # whoever listens there shall not say anything of its own
        self.outside.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
        self.outside.sysctl("net/ipv4/conf/default/arp_ignore", 8)
        for name in DEVICES:
            veth(self.ns, name, self.outside, name)
        self._batch(self._basics())
        self._batch(made.commands)
        for nhid, members in made.groups:
            block = b"".join(struct.pack("=IHH", member, w - 1, 0) for member, w in members)
            request = bytes(8) + wire.attribute(_NHA_ID, struct.pack("=I", nhid))
            request += wire.attribute(_NHA_GROUP, block)
            with self.ns.enter(), wire.Socket() as connection:
                connection.tell(_RTM_NEWNEXTHOP, _CREATE, request, f"nexthop group {nhid}")
        self._batch(made.routes)

    def _batch(self, commands: Iterable[str]) -> None:
        self.ns.run("ip", "-batch", "-", input="\n".join(commands) + "\n")

    def _sysctls(self) -> Iterator[tuple[str, int]]:
        made = self.design
        yield "net.ipv4.ip_forward", 1
        yield "net.ipv6.conf.all.forwarding", 1
        yield "net.ipv4.fib_multipath_hash_seed", made.hash_seed
        for name in ("all", "default"):
            yield f"net.ipv4.conf.{name}.rp_filter", made.rp_filter
            yield f"net.ipv4.conf.{name}.send_redirects", made.send_redirects
        for family, fields in ((4, made.fields4), (6, made.fields6)):
            yield f"net.ipv{family}.fib_multipath_hash_policy", made.policy
            yield f"net.ipv{family}.fib_multipath_hash_fields", fields
        yield from made.quirks.items()

    def _basics(self) -> Iterator[str]:
        for device, name in enumerate(DEVICES):
            yield f"link set {name} address {device_mac(device).hex(':')}"
            if device:
                yield f"link set {name} mtu {self.design.mtus[device - 1]}"
            yield f"addr add {link_address(device, 1, 4)}/24 dev {name}"
            yield f"addr add {link_address(device, 1, 6)}/64 dev {name} nodad"
            for host in range(0x10, 0x10 + NEIGHBOURS):
                for family in (4, 6):
                    via = link_address(device, host, family)
                    mac = neighbour_mac(device, host, family)
                    yield f"neigh add {via} dev {name} lladdr {mac} nud permanent"
            via = link_address(device, 0x10, 4)
            yield f"route add {sentinel_target(device)} via {via} dev {name}"
        for family in (4, 6):
            yield f"route add {SOURCES[family]} via {link_address(0, 0x10, family)} dev {INGRESS}"
