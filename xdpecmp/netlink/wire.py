"""Netlink itself: sockets, requests, dumps, attributes. What the messages mean is known elsewhere.

All reading goes through this rather than pyroute2 because a change has to reach the data path
within 50 ms: pyroute2 takes 35 ms for 1,000 neighbours and 10 s for 100,000 routes.

Numbers in netlink headers are in host order. Source: include/uapi/linux/netlink.h and
net/netlink/af_netlink.c.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from errno import EACCES, EAGAIN, EIO, ENODEV, EPERM

from ..closing import Closing
from ..errors import (
    DumpInterrupted,
    KernelRefused,
    MalformedMessage,
    NoSuchInterface,
    NotPermitted,
    XdpecmpError,
)

NETLINK_GENERIC = 16

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLA_F_NESTED = 0x8000
_NLM_F_ACK_TLVS = 0x200

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
HEADER_SIZE = _HEADER.size
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_INT = struct.Struct("=i")

_RECEIVE_BUFFER = 1 << 20
_DATAGRAM = 1 << 16
"""The kernel fills dump datagrams up to 32 KiB (netlink_dump); events and answers are smaller."""
_TIMEOUT_S = 30
_DUMP_ATTEMPTS = 8
_TORN_ATTEMPTS = 3
"""So often a dump that may be torn is tried first."""

KERNEL = 0
"""The port that the kernel sends from. Processes may send to our sockets, too: that is dropped."""

Attribute = tuple[int, int, int]
"""Type, start and end of the value: offsets into the message."""
Take = Callable[[bytes], int]
"""Takes the messages of one dump datagram, up to a control message or its end; returns where it
stopped. Raises DumpInterrupted when it meets NLM_F_DUMP_INTR."""


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def attributes(message: bytes, start: int, end: int) -> Iterator[Attribute]:
    """Walk the attributes between two offsets. MalformedMessage if one overruns the end."""
    while end - start >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if length < _ATTRIBUTE.size or start + length > end:
            raise MalformedMessage(f"netlink attribute {kind & _TYPE_MASK} has length {length}")
        yield kind & _TYPE_MASK, start + _ATTRIBUTE.size, start + length
        start += (length + 3) & ~3


def attribute_map(message: bytes, start: int, end: int) -> dict[int, bytes]:
    """The attributes between two offsets by type; of one that comes twice, the last."""
    return {kind: message[a:b] for kind, a, b in attributes(message, start, end)}


def number(value: bytes) -> int:
    """An unsigned integer in host order: u8, u16, u32 or u64, as the value's length says."""
    if len(value) not in (1, 2, 4, 8):
        raise MalformedMessage(f"a netlink number of {len(value)} bytes")
    return int.from_bytes(value, sys.byteorder)


def kind_of(message: bytes) -> int:
    """The type of a message, which begins with its netlink header."""
    kind: int = _HEADER.unpack_from(message)[1]
    return kind


def messages(datagram: bytes, start: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Walk a datagram: (type, flags, start, end) of each message, the header included."""
    size = len(datagram)
    while start < size:
        if size - start < HEADER_SIZE:
            raise MalformedMessage(f"netlink header of {size - start} bytes")
        length, kind, flags, _, _ = _HEADER.unpack_from(datagram, start)
        if length < HEADER_SIZE or start + length > size:
            raise MalformedMessage(f"netlink message of type {kind} has length {length}")
        yield kind, flags, start, start + length
        start += (length + 3) & ~3


def check_header(datagram: bytes, start: int) -> tuple[int, int, int]:
    """Type, flags and end of the message that starts there; MalformedMessage if there is none."""
    for kind, flags, _, end in messages(datagram, start):
        return kind, flags, end
    raise MalformedMessage("no netlink message where one should be")


def interrupted() -> DumpInterrupted:
    """The error for NLM_F_DUMP_INTR."""
    return DumpInterrupted(
        "the kernel's tables changed during every attempt to read them", "try again"
    )


def refused(what: str, errno: int, reason: str = "") -> XdpecmpError:
    """The error for an errno from the kernel, with its own words if it had some."""
    if errno in (EPERM, EACCES):
        return NotPermitted(what)
    if errno == ENODEV:
        return NoSuchInterface(f"for the {what}")
    return KernelRefused(f"{what}: {reason or os.strerror(errno)}", errno, reason=reason)


def raise_error(datagram: bytes, start: int, end: int, what: str) -> None:
    """Raise what an NLMSG_ERROR (or NLMSG_DONE) message says; return if it says all is well."""
    body = start + HEADER_SIZE
    if end - body < _INT.size:
        raise MalformedMessage("a netlink error message without a number")
    (code,) = _INT.unpack_from(datagram, body)
    if code >= 0:
        return
    _, kind, flags, _, _ = _HEADER.unpack_from(datagram, start)
    reason = ""
    if flags & _NLM_F_ACK_TLVS:
        # An error repeats the request's header (NETLINK_CAP_ACK: not its body), a DONE does not.
        skip = _INT.size + (HEADER_SIZE if kind == NLMSG_ERROR else 0)
        told = attribute_map(datagram, body + skip, end).get(_NLMSGERR_ATTR_MSG, b"")
        reason = told.rstrip(b"\0").decode(errors="replace")
    raise refused(what, -code, reason)


class Socket(Closing):
    """A netlink socket of the network namespace that the calling thread is in when it is made."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._close = self._socket.close
        self._sequence = 0
        option = self._socket.setsockopt
        option(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        option(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _TIMEOUT_S, 0))
        option(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        option(SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        # Strict: the kernel filters, leaves cached routes out, and refuses what it does not know.
        option(SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def stream(self, kind: int, body: bytes, take: Take, what: str, torn: bool = False) -> None:
        """Dump, handing each datagram to `take`, so that only one is in memory at a time. `torn`:
        never mind that things changed meanwhile.

        Raises what `take` raises, and XdpecmpError if the kernel refuses; `what` names the thing
        for the message. The socket is ready for another request after any of these.
        """
        self._send(kind, NLM_F_DUMP, body)
        finished = False
        while not finished:
            datagram = self._receive(what)
            try:
                stop = take(datagram)
                if stop < len(datagram):
                    finished = self._finished(datagram, stop, what, torn)
            except Exception:
                # An abandoned dump would make the next request on this socket fail with EBUSY.
                while not any(k in (NLMSG_DONE, NLMSG_ERROR) for k, *_ in messages(datagram)):
                    datagram = self._receive(what)
                raise

    def dump(self, kind: int, body: bytes, what: str, torn: bool = False) -> list[bytes]:
        """Dump; returns the messages without their netlink header.

        Starts again when the kernel says that things changed meanwhile; DumpInterrupted after a
        few times. `torn`: take it as it comes the last time, since the caller knows what to make of
        it.
        """
        attempts = 0

        def take(datagram: bytes) -> int:
            for message, flags, start, end in messages(datagram):
                if flags & NLM_F_DUMP_INTR and not (torn and attempts >= _TORN_ATTEMPTS):
                    raise interrupted()
                if message in (NLMSG_DONE, NLMSG_ERROR):
                    return start
                found.append(datagram[start + HEADER_SIZE : end])
            return len(datagram)

        found: list[bytes] = []

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            found.clear()
            self.stream(kind, body, take, what, torn and attempts >= _TORN_ATTEMPTS)

        uninterrupted(attempt)
        return found

    def ask(self, kind: int, body: bytes, what: str) -> bytes:
        """Ask for one thing; returns the answer without its netlink header."""
        self._send(kind, 0, body)
        datagram = self._receive(what)
        for answer, _, start, end in messages(datagram):
            if answer != NLMSG_ERROR:
                return datagram[start + HEADER_SIZE : end]
            raise_error(datagram, start, end, what)
        raise MalformedMessage(f"{what}: the kernel's answer is empty")

    def tell(self, kind: int, flags: int, body: bytes, what: str) -> None:
        """Have the kernel change something, and wait until it says that it has."""
        self._send(kind, flags | NLM_F_ACK, body)
        datagram = self._receive(what)
        for answer, _, start, end in messages(datagram):
            if answer == NLMSG_ERROR:
                raise_error(datagram, start, end, what)
                return
        raise MalformedMessage(f"{what}: the kernel's answer is no acknowledgement")

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        length = HEADER_SIZE + len(body)
        header = _HEADER.pack(length, kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)

    def _receive(self, what: str) -> bytes:
        """The next datagram for the latest request; what an earlier one left is skipped."""
        try:
            while True:
                datagram, (sender, _) = self._socket.recvfrom(_DATAGRAM)
                if sender != KERNEL:
                    continue
                if len(datagram) < HEADER_SIZE:
                    raise MalformedMessage(f"{what}: netlink datagram of {len(datagram)} bytes")
                if _HEADER.unpack_from(datagram)[3] == self._sequence:
                    return datagram
        except OSError as error:
            if error.errno == EAGAIN:
                raise KernelRefused(f"{what}: no answer in {_TIMEOUT_S} s", EAGAIN) from error
            raise refused(what, error.errno or EIO) from error

    @staticmethod
    def _finished(datagram: bytes, start: int, what: str, torn: bool) -> bool:
        """Whether the control message there ends the dump; raises the error that it may hold."""
        kind, flags, end = check_header(datagram, start)
        if flags & NLM_F_DUMP_INTR and not torn:
            raise interrupted()
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            raise_error(datagram, start, end, what)
            return True
        raise MalformedMessage(f"{what}: unexpected netlink message of type {kind}")


def uninterrupted(attempt: Callable[[], None]) -> None:
    """Call until no DumpInterrupted comes out; let the last of a few through."""
    for _ in range(_DUMP_ATTEMPTS - 1):
        try:
            return attempt()
        except DumpInterrupted:
            continue
    return attempt()
