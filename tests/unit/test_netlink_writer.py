"""Whatever goes wrong while one neighbour is changed is an error about that neighbour."""

from __future__ import annotations

import struct
from errno import EIO, ENOBUFS, ENODEV

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from xdpecmp.errors import KernelRefused, NoSuchInterface, XdpecmpError
from xdpecmp.netlink.writer import Writer


class Failing:
    """Stands in for IPRoute."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed = False

    def neigh(self, *_: object, **__: object) -> None:
        raise self.error

    def close(self) -> None:
        self.closed = True


def failing(error: Exception) -> tuple[Writer, Failing]:
    writer, route = Writer(-1), Failing(error)
    writer._route = route  # type: ignore[assignment]
    return writer, route


@pytest.mark.parametrize(
    ("error", "errno", "says"),
    [
        (OSError(ENOBUFS, None), ENOBUFS, "No buffer space available"),
        (TimeoutError(), EIO, "Input/output error"),
        (KeyError("header"), EIO, "KeyError: 'header'"),
        (struct.error("unpack requires 4 bytes"), EIO, "error: unpack requires 4 bytes"),
    ],
)
def test_a_strange_error(error: Exception, errno: int, says: str) -> None:
    """And the socket that it came from, which may be out of step, is not used again."""
    writer, route = failing(error)
    with pytest.raises(KernelRefused) as caught:
        writer.neighbour(bytes([10, 0, 0, 2]), 3, flags=0, extended=1)
    assert caught.value.message == f"neighbour 10.0.0.2 on device #3: {says}"
    assert caught.value.errno == errno
    assert route.closed
    assert writer._route is None


@pytest.mark.parametrize(
    ("errno", "kind"), [(ENOBUFS, KernelRefused), (ENODEV, NoSuchInterface), (12, KernelRefused)]
)
def test_what_the_kernel_says(errno: int, kind: type[XdpecmpError]) -> None:
    writer, route = failing(NetlinkError(errno))
    with pytest.raises(kind):
        writer.neighbour(bytes([10, 0, 0, 2]), 3, flags=0, extended=1)
    assert not route.closed
