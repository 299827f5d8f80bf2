"""Network namespaces with random names, removed afterwards even after a failure.

    with Namespace("client") as client, Namespace("router") as router:
        veth(client, "eth0", router, "eth1")
        client.ip("addr add 10.0.0.1/24 dev eth0")
        with router.enter():
            ...  # this thread, and it alone, is in the router's network

Only the *network* namespace is entered (`setns`, `nsenter --net=`), never with `ip netns exec`,
which would mount a fresh /sys and hide the pinned maps in /sys/fs/bpf. Needs root and iproute2.
Processes started with `start` are ended with the namespace; nothing else is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    """Move the calling thread into the network namespace that the descriptor stands for."""
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def _run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command; one that fails raises AssertionError with what it printed."""
    done = subprocess.run(command, check=False, text=True, capture_output=True, **options)
    if check and done.returncode != 0:
        raise AssertionError(
            f"{shlex.join(command)}: exit status {done.returncode}\n"
            f"{done.stdout[-1000:]}{done.stderr[-1000:]}"
        )
    return done


class Namespace:
    """A network namespace that exists from `__enter__` to `__exit__`, with loopback up.

    IPv6 duplicate address detection is off, so that addresses work at once.
    """

    def __init__(self, label: str = "ns") -> None:
        self.name = f"xdpecmp-{label}-{secrets.token_hex(4)}"
        self.path = Path("/run/netns") / self.name
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.name)
        try:
            for interface in ("all", "default"):
                self.sysctl(f"net/ipv6/conf/{interface}/accept_dad", 0)
            # a host that forwards passes that on to new namespaces
            self.sysctl("net/ipv4/ip_forward", 0)
            self.ip("link set lo up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that `start` started and remove the namespace. May be called again."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started.clear()
        _run("ip", "netns", "del", self.name, check=False)

    def ip(self, arguments: str) -> str:
        """`ip -n NAME ARGUMENTS` (as one string, split like a shell does); returns its output."""
        return _run("ip", "-n", self.name, *shlex.split(arguments)).stdout

    def run(
        self, *command: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace, wait for it and return what it printed."""
        return _run(*self._inside(command), check=check, **options)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in the namespace; it is killed with the namespace at the latest."""
        process: subprocess.Popen[str] = subprocess.Popen(
            self._inside(command), text=True, **options
        )
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Put the calling thread into the namespace for the length of a `with` block.

        Sockets opened inside keep belonging to the namespace afterwards.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def sysctl(self, key: str, value: int | str | None = None) -> str:
        """Set a sysctl (`net.ipv4.ip_forward`; with slashes where a name holds a dot) or read it.

        Returns its text, after the change if there was one.
        """
        path = Path("/proc/sys") / (key if "/" in key else key.replace(".", "/"))
        with self.enter():
            if value is not None:
                try:
                    path.write_text(f"{value}\n")
                except OSError:
                    # Linux 6.1.192 sets IPv6's ignore_routes_with_linkdown, and says EINVAL
                    if path.read_text().strip() != str(value):
                        raise
            return path.read_text().strip()

    def ifindex(self, interface: str) -> int:
        """The index of one of the namespace's devices; OSError where there is none."""
        with self.enter():
            return socket.if_nametoindex(interface)

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        return ["nsenter", f"--net={self.path}", "--", *command]


def veth(a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
    """Make a veth pair, one end in each namespace (which may be the same), both up.

    GRO is on at both ends: without it (or an XDP program) a veth does not take redirected frames.
    """
    a.ip(f"link add {a_name} type veth peer name {b_name} netns {b.name}")
    for namespace, name in ((a, a_name), (b, b_name)):
        namespace.ip(f"link set {name} up")
        namespace.run("ethtool", "-K", name, "gro", "on")
