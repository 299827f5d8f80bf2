"""Streams over TCP from the servers of a topology to its client, and the ICMP errors they meet."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from testbed.netns import Namespace
from tests.net.topology import VIP, Anycast
from tests.net.traffic import AF, ANSWER_SECONDS, IP_FREEBIND

PORT = 80


@dataclass
class Streams:
    """Servers on the anycast address that send a body to whoever connects."""

    topology: Anycast
    family: int
    _close: ExitStack = field(repr=False)
    opened: list[Stream] = field(default_factory=list)

    def connect(self, source: str) -> Stream:
        """Connect from one of the client's addresses; the server says at once which one it is."""
        with self.topology.client.enter():
            made = self._close.enter_context(socket.socket(AF[self.family]))
        made.setsockopt(*IP_FREEBIND[self.family], 1)
        made.settimeout(ANSWER_SECONDS)
        made.bind((source, 0))
        made.connect((VIP[self.family], PORT))
        self.opened.append(Stream(made.recv(1)[0], made))
        return self.opened[-1]


@dataclass(frozen=True)
class Stream:
    """A connection to one of the servers."""

    server: int
    socket: socket.socket

    def read(self) -> bytes:
        """All of the body. Raises TimeoutError where it stops arriving."""
        with self.socket, self.socket.makefile("rb") as file:
            return file.read()


@contextmanager
def streams(topology: Anycast, family: int, body: bytes) -> Iterator[Streams]:
    """Start the servers; end them and close all connections with the block."""
    with ExitStack() as cleanup:
        for number, namespace in enumerate(topology.servers, 1):
            with namespace.enter():
                listener = cleanup.enter_context(socket.socket(AF[family]))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(body) + 100_000)
            listener.bind((VIP[family], PORT))
            listener.listen(64)
            thread = threading.Thread(target=_serve, args=(listener, number, body))
            thread.start()
            cleanup.callback(thread.join)
            cleanup.callback(listener.shutdown, socket.SHUT_RDWR)
        yield Streams(topology, family, cleanup)


def _serve(listener: socket.socket, number: int, body: bytes) -> None:
    """Until the listener is shut down. The send buffer takes the whole body, so that a stream that
    stalls is the kernel's and holds up no other."""
    with ExitStack() as connections:
        while True:
            try:
                connection = connections.enter_context(listener.accept()[0])
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(ANSWER_SECONDS)
            # Closing a stream that has stalled ends it: no retransmission in a later test.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            with suppress(OSError):
                connection.send(bytes([number]))  # alone, so that it fits through any link
                connection.sendall(body)
                connection.shutdown(socket.SHUT_WR)


def too_big_errors(server: Namespace, family: int) -> int:
    """How many "fragmentation needed" or "packet too big" errors a server has received so far.

    "thread-self", since /proc/net shows the namespace of the main thread.
    """
    with server.enter():
        text = Path("/proc/thread-self/net", "snmp" if family == 4 else "snmp6").read_text()
    if family == 6:
        return int(dict(line.split() for line in text.splitlines())["Icmp6InPktTooBigs"])
    names, values = (line.split() for line in text.splitlines() if line.startswith("Icmp:"))
    return int(values[names.index("InDestUnreachs")])


_ETH_P_IPV6 = 0x86DD


def reflects_labels(server: Namespace) -> bool:
    """Whether connections to that server have the client's flow label from its first data on.

    Linux 7.3 has it in the SYN-ACK, and then goes on with a label of its own until it looks the
    route up again.
    """
    with ExitStack() as cleanup:
        with server.enter():
            capture = cleanup.enter_context(
                socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IPV6))
            )
            capture.bind(("lo", _ETH_P_IPV6))
            listener = cleanup.enter_context(socket.create_server(("::1", 0), family=AF[6]))
            port = listener.getsockname()[1]
            client = cleanup.enter_context(socket.create_connection(("::1", port)))
        accepted = cleanup.enter_context(listener.accept()[0])
        accepted.send(b"x")
        client.recv(1)
        capture.settimeout(ANSWER_SECONDS)
        asked = None
        while True:
            packet = capture.recv(1 << 16)
            if packet[6] != socket.IPPROTO_TCP:
                continue
            label = int.from_bytes(packet[1:4], "big") & 0xFFFFF
            source, destination = struct.unpack_from("!HH", packet, 40)
            headers = 40 + (packet[52] >> 4) * 4
            if destination == port:
                asked = label
            elif source == port and len(packet) > headers:
                return label == asked
