"""The old iptables and ip6tables ("legacy"), which have no events and no dump.

Only tables that are in use already are asked for: a first look at a table makes it. A hook counts
if a rule stands before its policy, or if the policy is not to accept; of "input" and "output" only
what matches and targets there are, if the kernel does not list its hooks (see `hooks`).

Source: get_info(), get_entries() in net/ipv4/netfilter/ip_tables.c, copied in ip6_tables.c;
include/uapi/linux/netfilter_ipv4/ip_tables.h, linux/netfilter/x_tables.h. All in host order.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from errno import EAGAIN
from typing import NamedTuple, TypeVar

from ...errors import MalformedMessage
from ...model.values import Filter
from .message import NF_INET_FORWARD, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING
from .tracking import SAFE_EXTENSIONS

_libc = ctypes.CDLL(None, use_errno=True)

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
"""struct ipt_getinfo: table, hooks, where their rules and policies are, entries, bytes."""
_ENTRIES = struct.Struct("=32sI4x")
"""struct ipt_get_entries, up to the first entry."""
_TARGET = struct.Struct("=H29sB")
"""struct xt_entry_target, and xt_entry_match: size, name, revision."""
_VERDICT = struct.Struct("=i")
_ACCEPT = -2
"""-NF_ACCEPT - 1."""
_WAY = {
    NF_INET_PRE_ROUTING: "PREROUTING",
    NF_INET_FORWARD: "FORWARD",
    NF_INET_POST_ROUTING: "POSTROUTING",
}


class Family(NamedTuple):
    """What differs between the two."""

    program: str
    domain: int
    level: int
    names: str
    """Below /proc/thread-self/net: the tables in use, a line each."""
    offsets: int
    """In an entry: of u16 target_offset and u16 next_offset."""
    elements: int
    """In an entry: of the first match."""


FAMILIES = (
    Family("iptables", socket.AF_INET, socket.SOL_IP, "ip_tables_names", 88, 112),
    Family("ip6tables", socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140, 168),
)


class Table:
    """One table as it is at the moment. Raises OSError, MalformedMessage."""

    def __init__(self, family: Family, control: socket.socket, name: str) -> None:
        self._family, self._control, self.name = family, control, name
        block = self._ask(_GET_INFO, _INFO.size, name.encode())
        self.info = block
        _, self._hooks, *numbers = _INFO.unpack(block)
        self._begins, self._policies, (_, self._size) = numbers[:5], numbers[5:10], numbers[10:]
        self._entries: bytes | None = None

    def _ask(self, option: int, size: int, request: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(request, size)
        length = ctypes.c_uint32(size)
        level, number = self._family.level, self._control.fileno()
        if _libc.getsockopt(number, level, option, buffer, ctypes.byref(length)) != 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno), f"{self._family.program} {self.name}")
        return buffer.raw

    def entries(self) -> bytes:
        """All rules. EAGAIN if they have just been replaced."""
        if self._entries is None:
            request = _ENTRIES.pack(self.name.encode(), self._size)
            answer = self._ask(_GET_ENTRIES, len(request) + self._size, request)
            self._entries = answer[_ENTRIES.size :]
        return self._entries

    def fingerprint(self) -> bytes:
        """Changes when rules come or go, and when a policy changes that counts: of a hook without
        rules. So a large table is not read."""
        hooks = [hook for hook in _WAY if self._hooks & 1 << hook and not self._has_rules(hook)]
        verdicts = [self._verdict(self._policies[hook]) for hook in hooks]
        return self.info + bytes(str(verdicts), "ascii")

    def _has_rules(self, hook: int) -> bool:
        """Whether there is anything before the policy."""
        return bool(self._begins[hook] != self._policies[hook])

    def filters(self) -> Iterator[Filter]:
        """A hook each that counts."""
        ipv4 = self._family.domain == socket.AF_INET
        for hook, chain in _WAY.items():
            if not self._hooks & 1 << hook:
                continue
            ruled = self._has_rules(hook)
            if ruled or self._verdict(self._policies[hook]) != _ACCEPT:
                what = f"{self._family.program}-legacy {self.name} {chain}"
                if not ruled:
                    what += " (policy drop)"
                yield Filter(what, ipv4=ipv4, ipv6=not ipv4)

    def _verdict(self, offset: int) -> int:
        entries = self.entries()
        target, _ = self._offsets(offset)
        try:
            verdict: int
            (verdict,) = _VERDICT.unpack_from(entries, offset + target + _TARGET.size)
        except struct.error:
            raise MalformedMessage(f"{self.name}: no policy at {offset}") from None
        return verdict

    def _offsets(self, offset: int) -> tuple[int, int]:
        """Where an entry's target is and where the next one begins, from its own beginning."""
        try:
            found = struct.unpack_from("=HH", self.entries(), offset + self._family.offsets)
        except struct.error:
            raise MalformedMessage(f"{self.name}: no entry at {offset}") from None
        if found[1] < self._family.elements:
            raise MalformedMessage(f"{self.name}: entry of {found[1]} bytes")
        return found

    def tracks(self) -> bool:
        """Whether a match or a target may have connections tracked."""
        return any(name not in SAFE_EXTENSIONS for name in self.extensions())

    def extensions(self) -> Iterator[str]:
        """Names of all matches and targets."""
        start = 0
        while start < self._size:
            target, following = self._offsets(start)
            position = start + self._family.elements
            while position < start + target:
                size, name = self._element(position)
                if size < _TARGET.size:
                    raise MalformedMessage(f"{self.name}: match of {size} bytes")
                yield name
                position += size
            yield self._element(start + target)[1]
            start += following

    def _element(self, position: int) -> tuple[int, str]:
        """Size and name of a match or target."""
        try:
            size, name, _ = _TARGET.unpack_from(self.entries(), position)
        except struct.error:
            raise MalformedMessage(f"{self.name}: cut at {position}") from None
        return size, name.split(b"\0")[0].decode(errors="replace")


_T = TypeVar("_T")
_ATTEMPTS = 5


def tables(
    family: Family, control: socket.socket, look: Callable[[Table], _T]
) -> list[tuple[str, _T]]:
    """Each table in use by name, and what `look` makes of it: again if its rules are replaced
    meanwhile. Raises OSError, MalformedMessage."""
    found = []
    for name in names(family).split():
        for attempt in range(_ATTEMPTS):
            try:
                found.append((name, look(Table(family, control, name))))
                break
            except OSError as error:
                if error.errno != EAGAIN or attempt + 1 == _ATTEMPTS:
                    raise
    return found


def names(family: Family) -> str:
    """The tables in use, in the thread's network namespace; "" in a kernel without. Raises
    OSError."""
    try:
        with open(f"/proc/thread-self/net/{family.names}") as file:
            return file.read()
    except FileNotFoundError:
        return ""
