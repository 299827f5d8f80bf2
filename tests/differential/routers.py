"""A designed router, built: its namespace, and another one that holds the far ends of its links."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Self

from testbed.netns import Namespace, veth
from testbed.waiting import wait_until
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
from xdpecmp.netlink import wire

_RTM_NEWNEXTHOP, _NHA_ID, _NHA_GROUP = 104, 1, 2
_CREATE = 0x400
PORT = "port"


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
            veth(self.ns, self._port(name), self.outside, name)
        self._open_sender()
        self._stack()
        for name, feature in made.offloads.items():
            self.ns.run("ethtool", "-K", name, feature, "off")
        self._batch(self._basics())
        self._batch(made.commands)
        for nhid, members in made.groups:
            block = b"".join(struct.pack("=IHH", member, w - 1, 0) for member, w in members)
            request = bytes(8) + wire.attribute(_NHA_ID, struct.pack("=I", nhid))
            request += wire.attribute(_NHA_GROUP, block)
            with self.ns.enter(), wire.Socket() as connection:
                connection.tell(_RTM_NEWNEXTHOP, _CREATE, request, f"nexthop group {nhid}")
        self._batch(made.routes)
        if made.accepting:
            self.sysctl(f"net/ipv4/conf/{made.accepting}/accept_redirects", 1)
            # as a host on that side, while the namespace forwards
            self.sysctl(f"net/ipv6/conf/{made.accepting}/accept_redirects", 1)
            self.sysctl(f"net/ipv6/conf/{made.accepting}/forwarding", 0)

    @property
    def attached(self) -> str:
        """The ingress or, where that is a macvlan, the device below, which covers it."""
        return PORT if self.design.stacked == "macvlan" else INGRESS

    def _port(self, name: str) -> str:
        """The router's end of a link: below the ingress, where that is stacked."""
        return PORT if self.design.stacked and name == INGRESS else name

    @property
    def ends(self) -> list[str]:
        """The router's ends of all links."""
        return [self._port(name) for name in DEVICES]

    def _open_sender(self) -> None:
        """What sockets at the far end of the ingress link send comes here."""
        self.outside.sysctl(f"net/ipv6/conf/{INGRESS}/addr_gen_mode", 1)
        self.outside.sysctl(f"net/ipv6/conf/{INGRESS}/disable_ipv6", 0)
        self.outside.sysctl("net/ipv6/auto_flowlabels", 0)
        for family, gateway in ((4, "10.0.0.1"), (6, "fe80::1")):
            mac = device_mac(DEVICES.index(INGRESS)).hex(":")
            self.outside.ip(f"neigh add {gateway} lladdr {mac} dev {INGRESS} nud permanent")
            self.outside.ip(f"-{family} route add default via {gateway} dev {INGRESS} onlink")

    def _stack(self) -> None:
        """The device over the router's end of the ingress link, which has the ingress's name."""
        kind = self.design.stacked
        if kind == "macvlan":
            self.ns.ip(f"link add {INGRESS} link {PORT} type macvlan mode bridge")
        if kind:
            self.ns.ip(f"link set {INGRESS} up")
            self.ns.sysctl(f"net/ipv6/conf/{PORT}/disable_ipv6", 1)

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
        yield "net.ipv4.conf.all.accept_redirects", int(bool(made.accepting))
        yield "net.ipv4.conf.default.accept_redirects", 0

    def _basics(self) -> Iterator[str]:
        for device, name in enumerate(DEVICES):
            yield f"link set {name} address {device_mac(device).hex(':')}"
            if device:
                yield f"link set {name} mtu {self.design.mtus[device - 1]}"
            if name == INGRESS and self.design.addressless:
                yield f"route add local {link_address(device, 1, 4)}/32 dev {name}"
                yield f"route add {link_address(device, 0, 4)}/24 dev {name}"
            else:
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
