"""`xdpecmp` as a user runs it: a process, its exit status and what it prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "xdpecmp")
AS_NOBODY = (
    sys.executable,
    "-c",
    "import importlib, os\n"
    "from xdpecmp import cli\n"
    "for name in cli.COMMANDS:\n"  # now, since nobody may not be allowed to read the checkout
    "    importlib.import_module(f'xdpecmp.cli.{name}')\n"
    "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    "cli.main()\n",
)
"""The same, with the privileges of `nobody`."""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return self.stderr.splitlines()


def command(
    *arguments: str,
    prefix: Sequence[str] = (),
    program: Sequence[str] = COMMAND,
    as_typed: bool = False,
    **options: Any,
) -> Done:
    """Run `xdpecmp ARGUMENTS`; `prefix` is what stands before it, such as `unshare -m`. What
    advice repeats of `-n NETNS` is left out, so that tests read alike, except with `as_typed`."""
    done = subprocess.run(
        (*prefix, *program, *arguments),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60 * PATIENCE,
        **options,
    )
    assert "Traceback" not in done.stderr, done.stderr
    said = [done.stdout, done.stderr]
    if arguments[:1] == ("-n",) and not as_typed:
        said = [text.replace(f" -n {arguments[1]}", "") for text in said]
        said = [text.replace(f"nsenter --net=/run/netns/{arguments[1]} ", "") for text in said]
    return Done(done.returncode, *said)
