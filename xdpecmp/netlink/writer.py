"""Changes to neighbours, by pyroute2.

pyroute2 is imported, and its socket opened, with the first change only: that takes 0.15 s, which
commands that only read need not wait for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from errno import EIO
from typing import TYPE_CHECKING

from ..errors import KernelRefused
from . import wire
from .namespace import inside

if TYPE_CHECKING:
    from pyroute2 import IPRoute


class Writer:
    """Changes things in the network namespace behind a file descriptor (the caller closes it)."""

    def __init__(self, namespace: int) -> None:
        self._namespace = namespace
        self._route: IPRoute | None = None

    def close(self) -> None:
        """Close the socket, if there is one. May be called again."""
        if self._route is not None:
            self._route.close()
            self._route = None

    def neighbour(self, address: bytes, ifindex: int, flags: int, extended: int) -> None:
        """Update a neighbour's NTF_* and NTF_EXT_* flags, or create it unresolved."""
        text = str(ipaddress.ip_address(address))
        self._call(
            f"neighbour {text} on device #{ifindex}",
            lambda route: route.neigh(
                "replace", dst=text, ifindex=ifindex, state=0, flags=flags, flags_ext=extended
            ),
        )

    def open(self) -> IPRoute:
        """The socket, opened now unless it is."""
        from pyroute2 import IPRoute

        if self._route is None:
            with inside(self._namespace):
                self._route = IPRoute()
        return self._route

    def _call(self, what: str, change: Callable[[IPRoute], object]) -> None:
        """Make a change; whatever goes wrong becomes an error of ours about that one thing.

        pyroute2 raises more than NetlinkError: OSError without a message for ENOBUFS (the neighbour
        table is full), TimeoutError, and errors of its own parser. After those its socket may be
        out of step, so the next change opens another one.
        """
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            change(self.open())
        except NetlinkError as error:
            raise wire.refused(what, error.code) from error
        except OSError as error:
            self._abandon()
            raise wire.refused(what, error.errno or EIO) from error
        except Exception as error:
            self._abandon()
            raise KernelRefused(f"{what}: {type(error).__name__}: {error}", EIO) from error

    def _abandon(self) -> None:
        with suppress(Exception):
            self.close()
        self._route = None
