"""Request and answer over UDP between the namespaces of a topology.

Everything happens in the test's own process: a socket belongs to the namespace in which it was
opened. An answer tells which server gave it and how the request had arrived there. A request is
sent once and never again, so one that is lost shows.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from ipaddress import ip_address, ip_network
from math import comb
from typing import Self

from testbed.netns import Namespace
from testbed.waiting import PATIENCE
from tests.net.topology import SOURCES, VIP, Anycast
from xdpecmp.hashing import FlowKey

PORT = 7
ANSWER_SECONDS = 5.0 * PATIENCE
PAYLOAD = 64
FRAME = {4: 14 + 20 + 8 + PAYLOAD, 6: 14 + 40 + 8 + PAYLOAD}
"""Bytes of a request's frame."""
_BATCH = 64
_PAUSE = 0.02  # between rounds: some thousand packets a second, and time for what is tested
_IP_RECVTTL = 12
_IPV6_FLOWINFO = 11
_IPV6_FLOWINFO_SEND = 33
IP_FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}
"""Socket option: an address need not be on an interface to be ours."""
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_tokens = itertools.count(1)


def _sum16(data: bytes) -> int:
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


@dataclass(frozen=True)
class Flow:
    """A client's socket with an address and a port of its own, and for IPv6 a flow label.

    Not connected, and with a label that we choose: otherwise the socket's own random hash goes
    along in the skb, over a veth and as far as the router, where under policy 1 Linux goes by it
    instead of the packet. Hosts that are a wire apart have nothing of that.
    """

    family: int
    source: str
    port: int
    label: int
    socket: socket.socket = field(repr=False)

    def send(self) -> int:
        """Send a request; its answer will bring back the number that this returns."""
        token = next(_tokens)
        while self._looks_unfinished(token):
            token = next(_tokens)
        to = (VIP[self.family], PORT) + ((self.label, 0) if self.family == 6 else ())
        with suppress(ConnectionRefusedError):  # an ICMP error for an earlier request
            self.socket.sendto(struct.pack("!Q", token).ljust(PAYLOAD, b"\0"), to)
        return token

    def _looks_unfinished(self, token: int) -> bool:
        """Whether the request's UDP checksum would equal the sum over its pseudo-header, as one
        request's in 65,536 does: then a veth's native XDP leaves it to Linux, and counts are off.
        """
        addresses = ip_address(self.source).packed + ip_address(VIP[self.family]).packed
        pseudo = _sum16(addresses) + socket.IPPROTO_UDP + 8 + PAYLOAD
        rest = self.port + PORT + 8 + PAYLOAD + _sum16(token.to_bytes(8, "big"))
        return (2 * pseudo + rest) % 0xFFFF == 0

    def key(self, policy: int) -> FlowKey:
        """What the router hashes of it."""
        return FlowKey(
            family=self.family,
            source=ip_address(self.source).packed,
            destination=ip_address(VIP[self.family]).packed,
            proto=socket.IPPROTO_UDP,
            sport=self.port,
            dport=PORT,
            flow_label=self.label,
        ).for_policy(policy)


Flows = dict[int, list[Flow]]
"""By family, 4 or 6."""


@dataclass(frozen=True)
class Answer:
    """Which server answered, and the request's TTL (hop limit) and flow label on arrival."""

    server: int
    ttl: int
    label: int


class Servers:
    """A UDP socket in each server's namespace for each family, on the anycast address."""

    def __init__(self, topology: Anycast) -> None:
        self._sockets: dict[int, tuple[int, int, socket.socket]] = {}
        self._client = topology.client
        self._close = ExitStack()
        for number, namespace in enumerate(topology.servers, 1):
            for family in (4, 6):
                opened = self._close.enter_context(_server_socket(namespace, family))
                self._sockets[opened.fileno()] = (number, family, opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    @contextmanager
    def flows(self, family: int, count: int, first: int = 0) -> Iterator[list[Flow]]:
        """Flows from as many addresses of the client's, from the `first` one on."""
        network = ip_network(SOURCES[family])
        with ExitStack() as cleanup, self._client.enter():
            made = []
            for i in range(first, first + count):
                source, port = str(network[i + 1]), 10_000 + i
                opened = cleanup.enter_context(socket.socket(AF[family], socket.SOCK_DGRAM))
                opened.setsockopt(*IP_FREEBIND[family], 1)
                opened.bind((source, port))
                label = 0
                if family == 6:
                    opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FLOWINFO_SEND, 1)
                    label = 1 + i * 3571 % 0xFFFFF
                opened.setblocking(False)
                made.append(Flow(family, source, port, label, opened))
            yield made

    def ask(self, flows: Sequence[Flow]) -> list[Answer | None]:
        """Send one request on each flow; the answers in the same order, None where none came."""
        answers: list[Answer | None] = []
        for start in range(0, len(flows), _BATCH):
            answers += self._ask(flows[start : start + _BATCH])
        return answers

    def all_answers(self, flows: Sequence[Flow]) -> list[Answer]:
        """The same, and every one has to come."""
        answers = self.ask(flows)
        lost = [flow for flow, answer in zip(flows, answers, strict=True) if answer is None]
        assert not lost, f"{len(lost)} of {len(flows)} requests unanswered: {lost[:3]}"
        return [answer for answer in answers if answer is not None]

    def _ask(self, flows: Sequence[Flow]) -> list[Answer | None]:
        poll = select.poll()
        for fd in self._sockets:
            poll.register(fd, select.POLLIN)
        pending: dict[int, tuple[int, int]] = {}  # client's descriptor → index, token
        for i, flow in enumerate(flows):
            poll.register(flow.socket, select.POLLIN)
            pending[flow.socket.fileno()] = (i, flow.send())
        answers: list[Answer | None] = [None] * len(flows)
        end = time.monotonic() + ANSWER_SECONDS
        while pending and (left := end - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                if fd in self._sockets:
                    _serve(*self._sockets[fd])
                elif fd in pending:
                    index, token = pending[fd]
                    answer = _read_answer(flows[index], token)
                    if answer is not None:
                        answers[index] = answer
                        del pending[fd]
                        poll.unregister(fd)
        return answers


def _server_socket(namespace: Namespace, family: int) -> socket.socket:
    with namespace.enter():
        opened = socket.socket(AF[family], socket.SOCK_DGRAM)
    if family == 4:
        opened.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FLOWINFO, 1)
    opened.bind((VIP[family], PORT))
    opened.setblocking(False)
    return opened


def _serve(number: int, family: int, opened: socket.socket) -> None:
    """Answer what waits on a server's socket."""
    with suppress(BlockingIOError, ConnectionRefusedError):
        while True:
            request, ancillary, _, client = opened.recvmsg(PAYLOAD, 256)
            ttl = label = 0
            for _, kind, data in ancillary:
                if kind == (socket.IP_TTL if family == 4 else socket.IPV6_HOPLIMIT):
                    ttl = struct.unpack("=i", data)[0]
                elif kind == _IPV6_FLOWINFO:
                    label = struct.unpack("!I", data)[0] & 0xFFFFF
            opened.sendto(request[:8] + struct.pack("!III", number, ttl, label), client)


def _read_answer(flow: Flow, token: int) -> Answer | None:
    """The answer to that request; anything else that arrived is thrown away."""
    try:
        reply = flow.socket.recv(PAYLOAD)
    except (BlockingIOError, ConnectionRefusedError):
        return None
    got, *values = struct.unpack("!QIII", reply)
    return Answer(*values) if got == token else None


class Load:
    """Requests on some flows, round after round, until the end of the `with` block.

    Afterwards `rounds` holds the answers of each.
    """

    def __init__(self, servers: Servers, flows: Sequence[Flow]) -> None:
        self.rounds: list[list[Answer | None]] = []
        self._servers = servers
        self._flows = flows
        self._stop = threading.Event()
        self._done = threading.Condition()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for_rounds(2)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE):
            answers = self._servers.ask(self._flows)
            with self._done:
                self.rounds.append(answers)
                self._done.notify_all()

    def wait_for_rounds(self, more: int = 2) -> None:
        """Until so many rounds more have ended; of two, the second began after the call."""
        with self._done:
            goal = len(self.rounds) + more
            enough = self._done.wait_for(lambda: len(self.rounds) >= goal, 30 * PATIENCE)
            assert enough, "the load is stuck"

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return sum(answer is None for answers in self.rounds for answer in answers)

    def servers(self, number: int) -> list[int | None]:
        """Who answered in that round."""
        return [answer.server if answer else None for answer in self.rounds[number]]

    @property
    def moves(self) -> list[int]:
        """For each flow, how often its server changed."""
        by_flow = zip(*self.rounds, strict=True)
        return [
            sum(a.server != b.server for a, b in itertools.pairwise(filter(None, answers)))
            for answers in by_flow
        ]


def by_server(answers: Sequence[Answer | None]) -> Counter[int]:
    """How many answers each server gave."""
    return Counter(answer.server for answer in answers if answer is not None)


def chance(count: int, trials: int, share: Fraction) -> Fraction:
    """The exact binomial chance of a count this far out on its side of the mean, times two."""
    side = range(count + 1) if count < trials * share else range(count, trials + 1)
    chances = (comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in side)
    return 2 * sum(chances, Fraction())
