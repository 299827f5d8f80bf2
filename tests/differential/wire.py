"""Frames on the wire, and what comes out of the router at any of its links.

Frames are sent by AF_PACKET in small batches, each followed by one *sentinel* for every link: a
frame that can leave by that link alone. The next batch goes when all sentinels are out, so no queue
ever holds more than a batch, and a frame that is missing at the end was dropped by the router and
not by us. What may have been lost on the way is counted by the kernel, and looked at.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import NamedTuple, Self

from testbed.netns import Namespace
from testbed.waiting import PATIENCE
from tests.differential import packets as p
from tests.differential.design import (
    DEVICES,
    INGRESS,
    ROUTER_MAC,
    SENDER_MAC,
    SENTINEL_SOURCE,
    sentinel_target,
)
from tests.differential.frames import Frame, key_of
from tests.differential.routers import Lab

BATCH = 60
"""Frames sent at once; a veth's ring holds 256."""
DEADLINE_S = 10.0 * PATIENCE
_RECEIVE_BUFFER = 32 << 20
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_STATISTICS, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 6, 8, 23
_SO_RCVBUFFORCE = 33
_PACKET_VNET_HDR = 15
_VNET_HDR = struct.Struct("=BBHHHH")
"""virtio_net_hdr: flags, GSO type, header length, GSO size, start and place of the checksum."""
_NEEDS_CSUM = 1
_UDP_SEGMENT = 103
_PMTUDISC_PROBE = 3
_SOCKET = {
    4: (socket.AF_INET, socket.SOL_IP, 19, 10),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6, 75, 23),
}
"""By family: IP_TRANSPARENT and IP_MTU_DISCOVER, IPV6_TRANSPARENT and IPV6_MTU_DISCOVER."""
_TP_STATUS_VLAN_VALID = 1 << 4


class HarnessLostFrames(AssertionError):
    """Frames were lost by what is around the router, so that nothing is known about the router."""


class Out(NamedTuple):
    """A frame as it left the router."""

    device: int
    """Index in DEVICES."""
    frame: bytes
    tag: int
    """The VLAN tag that the kernel took off, 0 if there was none."""

    @property
    def path(self) -> tuple[int, bytes]:
        """By which link and to which neighbour."""
        return self.device, self.frame[:6]

    @property
    def header(self) -> tuple[int, bytes, bytes, bytes, int]:
        """All of the link layer: device, destination, source, type, tag."""
        return self.device, self.frame[:6], self.frame[6:12], self.frame[12:14], self.tag

    @property
    def l3(self) -> bytes:
        return self.frame[14:]

    def __str__(self) -> str:
        return f"{DEVICES[self.device]} {self.frame.hex()}" + (f" tag {self.tag}" * bool(self.tag))


class Wire:
    """The far ends of the router's links."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._close = ExitStack()
        self._sentinels = 0
        self._lost_by_socket = 0
        self.rounds = 0
        """How often sentinels were sent, one by each link."""
        self._device = dict(zip(DEVICES, range(len(DEVICES)), strict=True))
        with lab.outside.enter():
            self._sender = self._packet_socket(0)
            self._sender.bind((INGRESS, 0))
            self._telling = self._packet_socket(0)
            self._telling.bind((INGRESS, 0))
            self._capture = self._packet_socket(_ETH_P_ALL)
        self._sender.setblocking(True)
        self._telling.setblocking(True)
        self._telling.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        for option in (_PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING):
            self._capture.setsockopt(_SOL_PACKET, option, 1)
        self._poll = select.poll()
        self._poll.register(self._capture, select.POLLIN)

    def _packet_socket(self, protocol: int) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        opened.setblocking(False)
        return self._close.enter_context(opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    # --- a run ------------------------------------------------------------------------------------

    def send(self, frames: Sequence[Frame]) -> list[Out]:
        """Send all frames, and return all that came out. Raises HarnessLostFrames."""
        found: list[Out] = []
        before = self._drops()
        with _one_cpu():
            self._receive(found)
            found.clear()  # what was said before, by whomever
            for start in range(0, len(frames), BATCH):
                for frame in frames[start : start + BATCH]:
                    self._send_one(frame)
                self._send_sentinels(found)
            self._send_sentinels(found)  # what GRO held back has come by now
        lost = {name: n - before[name] for name, n in self._drops().items() if n != before[name]}
        if lost:
            raise HarnessLostFrames(f"frames dropped on the way: {lost}")
        return found

    def _send_one(self, frame: Frame) -> None:
        if frame.segment:
            self._send_merged(frame)
        elif frame.unfinished:
            proto = frame.data[23] if frame.l3[0] >> 4 == 4 else frame.data[20]
            place = 6 if proto == p.UDP else 16
            header = _VNET_HDR.pack(_NEEDS_CSUM, 0, 0, 0, frame.unfinished, place)
            self._telling.send(header + frame.data)
        else:
            self._sender.send(frame.data)

    def _send_merged(self, frame: Frame) -> None:
        """By a socket of the address that the packet says; all bytes of it come to be the same each
        time."""
        family = frame.l3[0] >> 4
        source, target = (str(ip_address(end)) for end in key_of(frame.l3) or ())
        udp = frame.l3[p.IP_HEADER[family] :]
        kind, level, transparent, discover = _SOCKET[family]
        with self._lab.outside.enter(), socket.socket(kind, socket.SOCK_DGRAM) as made:
            made.setsockopt(level, transparent, 1)
            made.setsockopt(level, discover, _PMTUDISC_PROBE)
            made.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, frame.segment)
            made.bind((source, int.from_bytes(udp[:2], "big")))
            made.sendto(udp[8:], (target, int.from_bytes(udp[2:4], "big")))

    def _send_sentinels(self, found: list[Out]) -> None:
        """Send one by each link and read until all are out; they are no part of the result."""
        self.rounds += 1
        waiting = set()
        for device in range(len(DEVICES)):
            self._sentinels += 1
            source = int(SENTINEL_SOURCE[0]) + self._sentinels % 0xFFFF
            target = socket.inet_aton(sentinel_target(device))
            ends = source.to_bytes(4, "big"), target
            l3 = p.ipv4(*ends, p.UDP, bytes(20))
            self._sender.send(ROUTER_MAC + SENDER_MAC + b"\x08\x00" + l3)
            waiting.add((device, b"".join(ends)))
        end = time.monotonic() + DEADLINE_S
        while waiting:
            if time.monotonic() > end:
                links = [DEVICES[device] for device, _ in waiting]
                raise HarnessLostFrames(f"no sentinel within {DEADLINE_S} s by {links}")
            self._poll.poll(100)
            start = len(found)
            self._receive(found)
            for at in range(len(found) - 1, start - 1, -1):
                sentinel = (found[at].device, found[at].frame[26:34])
                if sentinel in waiting:
                    waiting.remove(sentinel)
                    del found[at]

    def _receive(self, found: list[Out]) -> None:
        """Take all that waits."""
        while True:
            try:
                frame, ancillary, _, address = self._capture.recvmsg(2048, 64)
            except BlockingIOError:
                return
            device = self._device.get(address[0])
            if device is None:
                continue  # loopback
            tag = 0
            for _, kind, data in ancillary:
                if kind == _PACKET_AUXDATA:
                    status, *_, tci, _ = struct.unpack("=IIIHHHH", data)
                    tag = (tci | 1 << 16) if status & _TP_STATUS_VLAN_VALID else 0
            found.append(Out(device, frame, tag))

    # --- what may be lost -------------------------------------------------------------------------

    def _drops(self) -> dict[str, int]:
        """Every counter of frames that a link, a ring or our socket dropped for lack of space."""
        _, drops = struct.unpack(
            "=II", self._capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        )
        self._lost_by_socket += drops  # reading it sets it to 0
        counters = {"capture": self._lost_by_socket}
        for side, namespace in (("router", self._lab.ns), ("outside", self._lab.outside)):
            for link in json.loads(namespace.ip("-s -j link show")):
                dropped = link["stats64"]["tx"]["dropped"] + link["stats64"]["rx"]["over_errors"]
                counters[f"{side} {link['ifname']}"] = dropped
            for name in self._lab.ends if side == "router" else DEVICES:
                counters |= _ring_drops(namespace, side, name)
        return counters


def _ring_drops(namespace: Namespace, side: str, name: str) -> dict[str, int]:
    """The counters of a veth's queues that mean a frame was dropped for lack of space."""
    text = namespace.run("ethtool", "-S", name).stdout
    rows = re.findall(r"^\s*(\w+?_(?:drops|xdp_xmit_errors|xdp_tx_errors)): (\d+)$", text, re.M)
    return {f"{side} {name} {counter}": int(value) for counter, value in rows}


@contextmanager
def _one_cpu() -> Iterator[None]:
    """This thread on one CPU: then everything it sends takes the same queues, in order."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
