"""/run is full: what only records stops nothing, and `attach` leaves nothing half done."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.waiting import wait_until
from tests.net.small import Small
from tests.net.topology import DEADLINE
from xdpecmp.instance.instance import RUN


class SmallRun:
    """A mount namespace in which /run/xdpecmp is a file system of 256 KiB."""

    def __init__(self) -> None:
        mount = "mount -t tmpfs -o size=256k,mode=0700 none /run/xdpecmp"
        # removing the directory that is mounted over would unmount it: so that is never empty
        self._kept = RUN / f"test-{secrets.token_hex(4)}"
        RUN.mkdir(mode=0o700, exist_ok=True)
        self._kept.touch()
        script = f"{mount} && echo ready && read end"
        self._holder = subprocess.Popen(
            ["unshare", "-m", "--propagation", "slave", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.prefix = ("nsenter", "-t", str(self._holder.pid), "-m")
        self.path = Path(f"/proc/{self._holder.pid}/root/run/xdpecmp")

    def fill(self) -> None:
        with (self.path / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def close(self) -> None:
        self._holder.communicate("\n")
        self._kept.unlink()
        with suppress(OSError):
            RUN.rmdir()  # where nothing else is in it


@pytest.fixture
def run() -> Iterator[SmallRun]:
    made = SmallRun()
    yield made
    made.close()


@pytest.fixture
def small(run: SmallRun) -> Iterator[Small]:
    with Small() as made:
        yield made
        with suppress(AssertionError):
            made.run("detach", "--all", prefix=run.prefix)


def attached(small: Small, run: SmallRun) -> list[str]:
    status = json.loads(small.run("status", "-j", prefix=run.prefix).stdout)
    assert status["agent_pid"]
    assert status["lease_s"] > 0
    return [each["ifname"] for each in status["interfaces"]]


def test_attach(small: Small, run: SmallRun) -> None:
    run.fill()
    done = small.run("attach", "in0", status=2, prefix=run.prefix)
    assert len(done.lines) == 1
    assert "No space left on device" in done.stderr
    assert not small.program_id("in0")
    assert small.remains() == []


BROKEN = (
    sys.executable,
    "-c",
    "from xdpecmp import cli\nfrom xdpecmp.instance import claim\n"
    "def take(_): raise RuntimeError('it is broken')\n"
    "claim.Claim.take = take\n"
    "cli.main()\n",
)


def test_an_agent_that_does_not_start_says_why(small: Small) -> None:
    """What it logged is gone with the rest."""
    done = small.run("attach", "in0", status=2, program=BROKEN)
    assert done.lines == ["xdpecmp: the agent did not start: RuntimeError: it is broken; try again"]
    assert small.remains() == []


def test_attaching_again(small: Small, run: SmallRun) -> None:
    """What runs goes on."""
    small.run("attach", "in0", prefix=run.prefix)
    before = small.program_id("in0")
    run.fill()
    done = small.run("attach", "in1", status=2, prefix=run.prefix)
    assert len(done.lines) == 1
    assert "No space left on device" in done.stderr
    assert small.program_id("in0") == before
    assert not small.program_id("in1")
    assert attached(small, run) == ["in0"]


def test_a_new_gateway(small: Small, run: SmallRun) -> None:
    """It is kept resolved though that cannot be recorded, and recorded when there is space."""
    small.ns.ip("addr add 10.5.0.1/24 dev in0")
    for host in (2, 3):
        small.peer.ip(f"addr add 10.5.0.{host}/24 dev in0")
    small.run("attach", "in0", prefix=run.prefix)
    run.fill()

    def route(prefix: str, via: str) -> None:
        small.ns.ip(f"route add {prefix} via {via}")
        wait_until(lambda: "managed" in small.ns.ip(f"neigh show {via}"), "managed", DEADLINE)

    route("203.0.113.0/24", "10.5.0.2")
    assert attached(small, run) == ["in0"]
    log = (run.path / str(small.instance.nsid) / "agent.log").read_text()
    assert "lease" not in log
    (run.path / "filler").unlink()
    route("198.51.100.0/24", "10.5.0.3")
    assert attached(small, run) == ["in0"]
    small.run("detach", "--all", prefix=run.prefix)
    assert "managed" not in small.ns.ip("neigh show dev in0")
