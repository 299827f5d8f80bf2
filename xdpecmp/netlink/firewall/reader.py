"""Reads all of it for one network namespace, and finds out cheaply whether to read it again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from ...errors import XdpecmpError
from ...model.values import Filter, Filters, Link
from ...program import attached
from .. import wire
from ..namespace import inside
from . import hooks, iptables, nftables, others, tc
from .message import NETLINK_NETFILTER, NFPROTO_IPV4, NFPROTO_IPV6

_PROBES_A_TIME = 64
"""Of a microsecond or two each."""


class Reader:
    """Made in the network namespace that it reads, and keeps to that."""

    def __init__(self, namespace: int, route: wire.Socket) -> None:
        """`namespace`: its descriptor; `route`: a socket for rtnetlink. The caller closes both."""
        self._namespace, self._route = namespace, route
        with ExitStack() as undo:
            self._netfilter: wire.Socket | None = None
            with suppress(OSError):  # a kernel without nfnetlink
                self._netfilter = undo.enter_context(wire.Socket(NETLINK_NETFILTER))
            self._controls: dict[iptables.Family, socket.socket] = {}
            for family in iptables.FAMILIES:
                with suppress(OSError):  # IPv6 is off as a whole
                    made = socket.socket(family.domain, socket.SOCK_DGRAM)
                    self._controls[family] = undo.enter_context(made)
            self.close = undo.pop_all().close
        self._seen: object = None
        """What `changed` compares with; None: nothing was read."""
        self._newest_link = 0
        self._quick = _Round(_PROBES_A_TIME)
        self._slow = _Round(1)

    def descriptors(self) -> set[int]:
        """The open sockets."""
        sockets = [self._netfilter, *self._controls.values()]
        return {each.fileno() for each in sockets if each is not None}

    # --- reading ----------------------------------------------------------------------------------

    def read(self, links: Collection[Link]) -> Filters:
        """Everything. What cannot be read is named in `unread`."""
        result = _Result()
        self._seen = None
        self._quick.clear()
        self._slow.clear()
        with inside(self._namespace):
            with result.reading("BPF links"):  # first, so that no change is missed
                self._seen = self._glance()
            bridges = any(link.kind == "bridge" for link in links)
            names = {link.ifindex: link.name for link in links}
            listed = self._read_hooks(result, bridges)
            self._read_netfilter(result, names, listed)
            with result.reading("traffic control"):
                result.found += tc.read(self._route, names)
            self._read_tcx(result, names)
            if not listed:
                self._guess(result, bridges)
        if result.unread:
            self._seen = None  # try again
        return result.filters()

    def _read_hooks(self, result: _Result, bridges: bool) -> bool:
        """Whether the kernel lists its hooks."""
        netfilter = self._netfilter
        if netfilter is None:
            return False
        with result.reading("netfilter hooks"):
            lists = hooks.read(netfilter, bridges)
            if lists is None:
                return False
            for (family, number), messages in lists.items():
                self._slow.add(partial(hooks.functions, netfilter, family, number), messages)
            for hook in hooks.counting(lists):
                ipv4, ipv6 = hook.family != NFPROTO_IPV6, hook.family != NFPROTO_IPV4
                result.found.append(Filter(hook.what, ipv4, ipv6, bridged=ipv4 and ipv6))
                if hook.what == hooks.DEFRAGMENTATION:
                    result.defragments(ipv4, ipv6)
        return True

    def _read_netfilter(self, result: _Result, names: dict[int, str], listed: bool) -> None:
        if self._netfilter is not None:
            with result.reading("nftables"):
                devices = {name: ifindex for ifindex, name in names.items()}
                result.found += nftables.read(self._netfilter, devices)
                if not listed:
                    result.tracks(*nftables.tracks(self._netfilter))
        for family, control in self._controls.items():
            ipv4 = family.domain == socket.AF_INET
            with result.reading(family.program):
                for _, found in iptables.tables(family, control, lambda t: list(t.filters())):
                    result.found += found
                if not listed and any(
                    tracks for _, tracks in iptables.tables(family, control, iptables.Table.tracks)
                ):
                    result.tracks(ipv4, not ipv4)

    def _read_tcx(self, result: _Result, names: dict[int, str]) -> None:
        with result.reading("tcx programs"):
            for ifindex, name in names.items():
                for attach_type, _ in tc.TCX:
                    count = tc.tcx_programs(ifindex, attach_type)
                    look = partial(tc.tcx_programs, ifindex, attach_type)
                    self._quick.add(look, count)
                    if count:
                        result.found.append(tc.tcx_filter(ifindex, attach_type, name))

    def _guess(self, result: _Result, bridges: bool) -> None:
        """What hooks would have told."""
        with result.reading("IPVS"):
            if others.has_ipvs_services():
                result.found.append(Filter(others.IPVS))
        with result.reading("connection tracking"):
            if others.always_tracks():
                result.tracks(True, True)
        with result.reading("BPF netfilter programs"):
            programs = others.netfilter_programs()
            result.found += programs
            if programs:  # a new one is a new link, of which `_glance` hears
                self._slow.add(others.netfilter_programs, programs)
        with result.reading("ebtables"):
            if bridges and others.may_have_ebtables():
                what = "ebtables, which this kernel does not let be read"
                result.found.append(Filter(what, bridged=True))

    # --- what has no events -----------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether something of what has no events may have changed since the last `read`. Takes
        some 50 µs: looks at all that is quickly done, and at a few of the rest in turn."""
        if self._seen is None:
            return True
        try:
            with inside(self._namespace):
                if self._glance() != self._seen:
                    return True
                return self._quick.differs() or self._slow.differs()
        except (XdpecmpError, OSError):
            return True

    def _glance(self) -> object:
        """What is quickly read: which tables of iptables there are, and what they hold; whether
        IPVS has services; the newest BPF link, whose numbers ascend."""
        tables = [
            iptables.tables(family, control, iptables.Table.fingerprint)
            for family, control in self._controls.items()
        ]
        following = attached.next_link(self._newest_link)
        while following is not None:
            self._newest_link = following
            following = attached.next_link(following)
        return tables, others.has_ipvs_services(), self._newest_link


class _Round:
    """Looks at many things in turn, a few at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._probes: list[tuple[Callable[[], object], object]] = []
        self._next = 0

    def clear(self) -> None:
        self._probes.clear()

    def add(self, look: Callable[[], object], known: object) -> None:
        """How to look, and what was seen."""
        self._probes.append((look, known))

    def differs(self) -> bool:
        """Whether one of the next few is not as it was."""
        for _ in range(min(self._at_once, len(self._probes))):
            self._next = (self._next + 1) % len(self._probes)
            look, known = self._probes[self._next]
            if look() != known:
                return True
        return False


class _Result:
    """Gathers."""

    def __init__(self) -> None:
        self.found: list[Filter] = []
        self.unread: list[str] = []
        self._defragments4 = self._defragments6 = False

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """What fails in here is unread."""
        try:
            yield
        except XdpecmpError as error:
            self.unread.append(f"{what} (cannot be read: {error.message})")
        except OSError as error:
            self.unread.append(f"{what} (cannot be read: {error.strerror or error})")

    def tracks(self, ipv4: bool, ipv6: bool) -> None:
        """Connections are tracked."""
        if ipv4 or ipv6:
            self.found.append(Filter(hooks.TRACKING, ipv4, ipv6))
            self.defragments(ipv4, ipv6)

    def defragments(self, ipv4: bool, ipv6: bool) -> None:
        """Fragments are reassembled."""
        self._defragments4 |= ipv4
        self._defragments6 |= ipv6

    def filters(self) -> Filters:
        return Filters(
            tuple(dict.fromkeys(self.found)),
            tuple(self.unread),
            self._defragments4,
            self._defragments6,
        )
