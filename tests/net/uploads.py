"""Bulk TCP from the client of a topology to its servers: segments as large as there are."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from testbed.waiting import wait_until
from tests.net.topology import DEADLINE, VIP, Anycast
from tests.net.traffic import AF, ANSWER_SECONDS, IP_FREEBIND

UPLOAD = 200_000
"""Bytes of each."""

_PORT = 81
_AT_ONCE = 60_000


@contextmanager
def _listening(net: Anycast, family: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as cleanup:
        made = []
        for namespace in net.servers:
            with namespace.enter():
                opened = cleanup.enter_context(socket.socket(AF[family]))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((VIP[family], _PORT))
            opened.listen(1)
            opened.settimeout(0)
            made.append(opened)
        yield made


def upload(net: Anycast, family: int, source: str) -> int:
    """Bytes that arrived over one connection; raises OSError where it breaks or stalls."""
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(_listening(net, family))
        with net.client.enter():
            client = cleanup.enter_context(socket.socket(AF[family]))
        client.setsockopt(*IP_FREEBIND[family], 1)
        client.settimeout(ANSWER_SECONDS)
        client.bind((source, 0))
        client.connect((VIP[family], _PORT))
        accepted: list[socket.socket] = []

        def has_accepted() -> bool:
            for server in servers:
                try:
                    accepted.append(cleanup.enter_context(server.accept()[0]))
                except BlockingIOError:
                    continue
            return bool(accepted)

        wait_until(has_accepted, "the connection accepted", DEADLINE)
        (server,) = accepted
        server.settimeout(ANSWER_SECONDS)
        received = 0
        while received < UPLOAD:
            sent = client.send(bytes(min(UPLOAD - received, _AT_ONCE)))
            while sent:
                got = len(server.recv(sent))
                if not got:
                    return received
                sent, received = sent - got, received + got
        return received
