"""`xdpecmp demo` as a user runs it: its figures are right, and nothing of it is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed.waiting import PATIENCE
from tests.capabilities import Since, kernel_has, since
from xdpecmp import demo
from xdpecmp.errors import NotPermitted

root = pytest.mark.root

COMMAND = (sys.executable, "-m", "xdpecmp", "demo")
DEADLINE = 60.0 * PATIENCE
PINS = Path("/sys/fs/bpf/xdpecmp")
STATE = Path("/run/xdpecmp")


def remains() -> set[str]:
    """Everything on this host that may be a demo's: namespaces, processes, orphaned pins.

    Pins and files are kept in folders named by the inode of their network namespace: those of one
    that is still there belong to somebody else, who is at work.
    """
    pins = list(PINS.rglob("*"))
    alive = set()
    for namespace in Path("/run/netns").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed while we looked
            alive.add(str(namespace.stat().st_ino))
    found = {f"namespace {name}" for name in Path("/run/netns").glob("xdpecmp-demo-*")}
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if "xdpecmp-demo-" in command:
            found.add(f"process {process.parent.name}: {command}")
    found |= {f"file {path}" for path in STATE.glob("*") if path.stem not in alive}
    return found | {f"pin {pin}" for pin in pins if not alive & set(pin.parts)}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails a test after which there is more than before it."""
    before = remains()
    yield
    assert remains() - before == set()


@contextlib.contextmanager
def start(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A demo in a process group of its own, as a shell would start it; ended with the block."""
    with subprocess.Popen(
        (*COMMAND, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the demo prints up to and with a line that holds a text; fail if it ends first."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    pytest.fail(f"the demo ended without {text!r}:\n{printed}")


def figures(*options: str, status: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        (*COMMAND, "-j", *options), capture_output=True, text=True, check=False, timeout=DEADLINE
    )
    assert done.returncode == status, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)  # so nothing but JSON goes to stdout
    return report


@root
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("policy", ["0", pytest.param("1", marks=since(Since.HASH_SEED))])
def test_figures(policy: str) -> None:
    report = figures("--requests", "120", "--policy", policy)
    assert report["ok"]
    assert report["problems"] == []
    assert report["unanswered"] == {"IPv4": 0, "IPv6": 0}

    for family in ("IPv4", "IPv6"):
        shares = [share for share in report["shares"] if share["family"] == family]
        assert [(share["server"], share["weight"]) for share in shares] == [("s1", 1), ("s2", 2)]
        assert sum(share["seen"] for share in shares) == 120
        assert all(share["low"] <= share["seen"] <= share["high"] for share in shares)

        transfers = [transfer for transfer in report["transfers"] if transfer["family"] == family]
        assert {transfer["server"] for transfer in transfers} == {"s1", "s2"}
        for transfer in transfers:
            assert transfer["received"] == 200_000
            assert transfer["path_mtu"] == 1300
            for server, errors in transfer["icmp_errors"].items():
                assert (errors > 0) == (server == transfer["server"])

    if report["left_to_linux"]:  # an old kernel whose key cannot be read
        assert not kernel_has(Since.HASH_SEED)
        assert "hash key is not known" in report["left_to_linux"]
        return
    assert report["left_to_linux"] == ""
    received = sum(sum(transfer["icmp_errors"].values()) for transfer in report["transfers"])
    assert sum(report["counters"]["icmp_errors"].values()) == received
    for via in ("192.0.2.10", "192.0.2.14", "2001:db8:3::2", "2001:db8:4::2"):
        assert report["counters"]["nexthops"][via] > 0


@root
@pytest.mark.usefixtures("nothing_left")
def test_linux_alone_gives_the_same_answers_under_policy_0() -> None:
    report = figures("--requests", "120", "--no-attach")
    assert report["ok"]
    assert report["counters"] is None


@root
@pytest.mark.usefixtures("nothing_left")
def test_an_error_that_goes_astray_is_noticed() -> None:
    """Under policy 1 Linux hashes the error's own header: the black hole that xdpecmp avoids."""
    report = figures("--requests", "20", "--no-attach", "--policy", "1", status=1)
    assert not report["ok"]
    stuck = [transfer for transfer in report["transfers"] if not transfer["complete"]]
    assert stuck
    for transfer in stuck:
        assert transfer["received"] < 200_000
        assert transfer["path_mtu"] is None
        assert transfer["icmp_errors"][transfer["server"]] == 0


@root
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["Two servers", "attach to-hop", "1. Do the weights hold?"])
def test_an_interrupted_demo_cleans_up(number: signal.Signals, moment: str) -> None:
    """While it builds, attaches, or sends; twice, as an impatient user does it."""
    with start("--requests", "500") as process:
        read_until(process, moment)
        os.killpg(process.pid, number)
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output


@root
@pytest.mark.usefixtures("nothing_left")
def test_keep_waits_for_ctrl_c_and_still_answers() -> None:
    with start("--requests", "20", "--keep") as process:
        client = re.search(r"xdpecmp-demo-\w+-client", read_until(process, "Still running"))
        assert client
        answer = subprocess.run(
            ("nsenter", f"--net=/run/netns/{client[0]}", sys.executable, "-c", _GET),
            capture_output=True,
            text=True,
            check=True,
            timeout=10 * PATIENCE,
        )
        assert answer.stdout.strip() in {"s1", "s2"}
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output


_GET = """
from http.client import HTTPConnection
connection = HTTPConnection("192.0.2.80", timeout=5)
connection.request("GET", "/")
print(connection.getresponse().read().decode())
"""


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotPermitted, match="namespaces") as raised:
        demo.run(Console(quiet=True))
    assert "sudo" in raised.value.hint
