"""Real HTTP over real TCP: a server in each server namespace, a client with many source addresses.

No child processes: a socket belongs to the namespace in which it was opened, for good. So the
servers' sockets are opened inside theirs and served by threads, and the client's threads live in
its own.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import socketserver
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .topology import FAMILIES, IPV6, Family, Topology

BODY_SIZE = 200_000

_PORT = 80
_TIMEOUT = 15.0  # seconds of silence; tells a black hole from an emulated machine
_CLIENTS = 16
_MANY_FAILURES = 2 * _CLIENTS


class _Handler(BaseHTTPRequestHandler):
    """`/` answers with the server's name, `/big` with a body that fills many packets."""

    timeout = _TIMEOUT
    server: _Server

    def do_GET(self) -> None:
        """Answer a request."""
        body = bytes(BODY_SIZE) if self.path == "/big" else f"{self.server.name}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """The name goes into the Server header, which arrives even if a big body does not."""
        return self.server.name

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the client's side counts."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 would drop SYNs, and a retry takes a second

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.address_family = socket.AF_INET6 if family is IPV6 else socket.AF_INET
        super().__init__((family.vip, _PORT), _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name: there is no DNS in here."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.name, _PORT

    def handle_error(self, request: object, client_address: object) -> None:
        """A transfer that stalls or breaks off is the client's to report; all else is a bug."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextlib.contextmanager
def servers(topology: Topology, names: Sequence[str]) -> Iterator[None]:
    """HTTP servers on the shared addresses in the named namespaces, for a `with` block."""
    with contextlib.ExitStack() as cleanup:
        for name in names:
            for family in FAMILIES:
                with topology.inside(name):
                    server = cleanup.enter_context(_Server(name, family))
                threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
                cleanup.callback(server.shutdown)
        yield


@dataclass(frozen=True)
class Answer:
    """What came back for one request: from whom (None: nobody), how much, and what went wrong."""

    source: str
    server: str | None
    received: int
    error: str | None


def fetch(family: Family, source: str, path: str) -> Answer:
    """GET a path from the servers' shared address; the caller's thread is in the client."""
    server, received = None, 0
    connection = http.client.HTTPConnection(
        family.vip, _PORT, timeout=_TIMEOUT, source_address=(source, 0)
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        server = response.getheader("Server")
        while chunk := response.read1():
            received += len(chunk)
    except (OSError, http.client.HTTPException) as error:
        return Answer(source, server, received, f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    return Answer(source, server, received, None)


def fetch_from_all(topology: Topology, family: Family, sources: Sequence[str]) -> Generator[Answer]:
    """One small request from each source address, some at a time; answers as they arrive.

    After many failures the rest is not tried: each would only wait for its time-out.
    """
    pool = ThreadPoolExecutor(_CLIENTS, initializer=topology.enter, initargs=("client",))
    try:
        requests: list[Future[Answer]] = [
            pool.submit(fetch, family, source, "/") for source in sources
        ]
        failures = 0
        for done in as_completed(requests):
            answer = done.result()
            yield answer
            failures += answer.error is not None
            if failures >= _MANY_FAILURES:
                return
    finally:
        pool.shutdown(cancel_futures=True)
