"""What goes wrong outside any command is one line and exit status 2 as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xdpecmp.errors import what_failed

ROOT = Path(__file__).parents[2]


def test_a_missing_python_module_is_named_with_what_installs_it() -> None:
    """As in an environment that was made for an older version."""
    code = (
        "import sys; from xdpecmp import cli; sys.modules['xdpecmp.observe.view'] = None; "
        "sys.argv = ['xdpecmp', 'status', '--help']; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("xdpecmp: the Python module xdpecmp.observe.view is missing")
    assert done.stderr.endswith("; install it: vagrant/provision.sh\n")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_named() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "xdpecmp", "doctor", "lo"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "xdpecmp: standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(105, None), "No buffer space available"),
        (OSError(28, "No space left on device", "/run/x"), "/run/x: No space left on device"),
        (FileNotFoundError(2, None, b"/run/x"), "/run/x: No such file or directory"),
        (OSError("timed out"), "timed out"),
        (TimeoutError(), "a system call failed (TimeoutError)"),
    ],
)
def test_an_error_of_the_system_is_never_none(error: OSError, says: str) -> None:
    """pyroute2 raises some that have a number alone, or nothing."""
    assert what_failed(error) == says
