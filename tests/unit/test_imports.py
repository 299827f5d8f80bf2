"""What takes long to import is imported by those alone who need it."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = ("detach", "explain", "routes", "stats", "status", "verify", "weights", "attach")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_only_reads_does_without_numpy(name: str) -> None:
    """And `attach` imports it while the compiler runs."""
    code = f"import sys, xdpecmp.cli.{name}, xdpecmp.control.attach; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["routes", "stats", "status"])
def test_a_command_that_explains_nothing_does_without_explain(name: str) -> None:
    code = f"import sys, xdpecmp.cli.{name}; print('xdpecmp.observe.explain' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
