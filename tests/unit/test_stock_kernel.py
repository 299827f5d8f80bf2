"""`make test-vm`: what it does before there is a virtual machine, and what it says of failures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vagrant.stock_kernel import images, machine
from vagrant.stock_kernel.errors import VmDied, VmError

ROOT = Path(__file__).parents[2]
IMAGE = images.Image(Path("/nowhere"), "6.1.0-amd64")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vagrant.stock_kernel", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_list_of_kernels() -> None:
    """The oldest that we promise, and one from backports."""
    known = images.known()
    assert run("--list").stdout.split() == list(known)
    assert known["6.1"] == (["bookworm", "bookworm-security"], "linux-image-amd64")
    assert any("-backports" in suite for suites, _ in known.values() for suite in suites)


def test_an_unknown_kernel_is_refused_with_the_list() -> None:
    with pytest.raises(VmError, match=r"no kernel '2\.6' .* choose: 6\.1, "):
        images.find("2.6")


@pytest.mark.parametrize(
    "arguments",
    [(), ("6.1",), ("6.1", "--"), ("--accel", "xen", "6.1"), ("--env", "A", "6.1", "--", "true")],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "VERSION -- COMMAND" in done.stderr


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs them."""
    monkeypatch.setattr(shutil, "which", lambda need: None)
    with pytest.raises(VmError, match=r"qemu-system-x86 .*kmod; .*: vagrant/provision\.sh --vm"):
        machine.check_packages()


def test_the_packages_are_those_that_are_installed() -> None:
    script = (ROOT / "vagrant" / "provision.sh").read_text()
    (installed,) = re.findall(r"--vm\) vm_packages=\((.*?)\)", script)
    assert installed.split() == list(machine.PACKAGES.values())


@pytest.mark.parametrize(
    ("answer", "accelerator"),
    [
        (b"stock-kernel: alive\r\n", "kvm"),
        (b"Kernel panic", "tcg"),
        (subprocess.TimeoutExpired("qemu", 10), "tcg"),
    ],
)
def test_kvm_has_to_prove_itself(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception, accelerator: str
) -> None:
    """/dev/kvm may be there and what runs by it hang."""

    def boot(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert "kvm" in command
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, answer)

    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr(subprocess, "run", boot)
    assert machine.accelerator(IMAGE, Path("/nowhere")) == accelerator


def test_without_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert machine.accelerator(IMAGE, Path("/nowhere")) == "tcg"


# --- how it ends ----------------------------------------------------------------------------------


def run_in(
    monkeypatch: pytest.MonkeyPatch,
    work: Path,
    ended: int | subprocess.TimeoutExpired = 0,
    status: str | None = None,
    console: str = "Linux\n",
) -> int:
    """machine.run() with a QEMU that ends so, in a guest that left this status and this output."""

    def boot(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        (work / "qemu").write_text("qemu: warning: a hub\nqemu: no such machine\nand more\n")
        (work / "console").write_text(console)
        if status is not None:
            (work / "control" / "status").write_text(status)
        if isinstance(ended, Exception):
            raise ended
        return subprocess.CompletedProcess(command, ended)

    monkeypatch.setattr(subprocess, "run", boot)
    archive = work / "initrd.cpio"
    return machine.run("tcg", IMAGE, archive, ["true"], {"A": "b c"}, work, "1G", 7)


@pytest.mark.parametrize("status", [0, 1, 5, 137])
def test_the_commands_exit_status_is_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    assert run_in(monkeypatch, tmp_path, status=f"{status}\n") == status
    assert "export A='b c'\n" in (tmp_path / "control" / "command").read_text()


@pytest.mark.parametrize(
    ("ended", "status", "why"),
    [
        (0, None, "QEMU ended with 0"),
        (0, "", "QEMU ended with 0"),  # killed while it was writing
        (-9, None, "QEMU ended with -9"),
        (subprocess.TimeoutExpired("qemu", 7), None, "it took more than 7 s"),
    ],
)
def test_no_exit_status_is_a_failure_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ended: Any, status: str | None, why: str
) -> None:
    with pytest.raises(VmDied, match=f"did not finish: {why}") as caught:
        run_in(monkeypatch, tmp_path, ended, status)
    assert caught.value.status == 125


def test_a_machine_that_does_not_begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(VmError, match=r"QEMU does not start: qemu: no such machine;") as caught:
        run_in(monkeypatch, tmp_path, 1, console="")
    assert caught.value.status == 2
