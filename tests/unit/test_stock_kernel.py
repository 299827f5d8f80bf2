"""`make test-vm`: what it does before there is a virtual machine, and what it says of failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vagrant.stock_kernel import images, machine
from vagrant.stock_kernel.errors import VmError

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


@pytest.mark.parametrize("arguments", [(), ("6.1",), ("6.1", "--"), ("--accel", "xen", "6.1")])
def test_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "VERSION -- COMMAND" in done.stderr


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs them."""
    monkeypatch.setattr(machine.shutil, "which", lambda need: None)
    with pytest.raises(VmError, match=r"qemu-system-x86 .*kmod; .*: vagrant/provision\.sh --vm"):
        machine.check_packages()


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

    monkeypatch.setattr(machine.os, "access", lambda *_: True)
    monkeypatch.setattr(machine.subprocess, "run", boot)
    assert machine.accelerator(IMAGE, Path("/nowhere")) == accelerator


def test_without_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert machine.accelerator(IMAGE, Path("/nowhere")) == "tcg"
