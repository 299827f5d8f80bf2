"""`python -m vagrant.stock_kernel VERSION -- COMMAND…`: see the package's docstring.

The exit status is that of the command; 125 if the virtual machine died or took too long, 2 if it
could not be started.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from . import images, initrd, machine
from .errors import VmDied, VmError

_TAIL = 40
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where some of what it takes is; a root that came by `su` has no such folders in its PATH."""


def main() -> int:
    """Returns the exit status."""
    arguments = _arguments()
    if arguments.list:
        print(*images.known(), sep="\n")
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    start = time.monotonic()
    try:
        status = _run(arguments)
    except VmError as error:
        print(f"stock-kernel: {error}", file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print("stock-kernel: interrupted", file=sys.stderr)
        return 130
    else:
        print(f"stock-kernel: exit status {status} after {time.monotonic() - start:.0f} s")
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vagrant.stock_kernel",
        usage="%(prog)s [OPTIONS] VERSION -- COMMAND…",
        description="Run a command under a stock kernel, over this host's own user space.",
    )
    parser.add_argument("version", nargs="?", help="of those that --list prints")
    parser.add_argument("--list", action="store_true", help="print the versions in pyproject.toml")
    parser.add_argument("--timeout", type=float, default=10800, help="seconds (default: 10800)")
    parser.add_argument("--memory", default="3G", help="of the guest (default: 3G)")
    parser.add_argument("--accel", choices=["kvm", "tcg"], help="default: KVM where it works")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    words, command = sys.argv[1:], []
    if "--" in words:
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1 :]
    arguments = parser.parse_args(words)
    arguments.command = command
    if not arguments.list and not arguments.version:
        parser.error(f"which kernel? {', '.join(images.known())}")
    if not arguments.list and not arguments.command:
        parser.error("nothing to run: give a command after --")
    for each in arguments.env:
        if "=" not in each:
            parser.error(f"--env {each}: no NAME=VALUE")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise VmError("needs root, to share the whole file system with the guest: use sudo")
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SBIN))
    machine.check_packages()
    image = images.find(arguments.version)
    with tempfile.TemporaryDirectory(prefix="stock-kernel-") as temporary:
        work = Path(temporary)
        archive = initrd.build(image, work)
        accel = arguments.accel or machine.accelerator(image, archive)
        print(f"stock-kernel: Linux {image.release} by {accel.upper()}", flush=True)
        try:
            return machine.run(
                accel,
                image,
                archive,
                arguments.command,
                _environment(arguments.env, accel),
                work,
                arguments.memory,
                arguments.timeout,
            )
        except VmDied:
            for log in ("qemu", "console"):
                _show(work / log)
            raise


def _environment(given: Sequence[str], accel: str) -> dict[str, str]:
    """XDPECMP_STOCK_KERNEL tells tests where they are."""
    chosen = dict(each.split("=", 1) for each in given)
    return {"XDPECMP_STOCK_KERNEL": accel} | chosen


def _show(log: Path) -> None:
    """The last of what somebody said."""
    lines = log.read_text(errors="replace").splitlines()[-_TAIL:] if log.exists() else []
    if lines:
        print(f"stock-kernel: the last of {log.name}:", *lines, sep="\n  ", file=sys.stderr)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
