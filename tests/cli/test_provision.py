"""provision.sh says that all is ready only when the command runs, and repairs what does not."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.capabilities import require, require_host

ROOT = Path(__file__).parents[2]
PROJECT = ("bpf", "xdpecmp", "vagrant", "pyproject.toml", "LICENSE", "README.md")

pytestmark = pytest.mark.root


def provision(project: Path) -> str:
    """What it says. Without the tests' packages, which take most of the time."""
    done = subprocess.run(
        [project / "vagrant" / "provision.sh", "--no-test"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PIP_QUIET": "1"},
    )
    require("check the network" not in done.stderr, "the Python package index")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("xdpecmp is ready: ")
    version = subprocess.run(
        [project / ".venv" / "bin" / "xdpecmp", "--version"], capture_output=True, text=True
    )
    assert (version.returncode, version.stderr) == (0, "")
    return done.stdout


def test_a_broken_environment_is_made_again(tmp_path: Path) -> None:
    """It was complete once, and says so: what counts is that it works."""
    require_host("the Python package index")
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source,
                tmp_path / name,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        else:
            shutil.copy(source, tmp_path / name)
    # somebody has removed all of its packages
    venv = tmp_path / ".venv"
    python = "/usr/bin/python3"
    subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True)
    version = subprocess.run([python, "-V"], capture_output=True, text=True).stdout
    (venv / ".identity").write_text(f"{venv} {version}")
    digest = hashlib.sha256((tmp_path / "pyproject.toml").read_bytes()).hexdigest()
    (venv / ".installed").write_text(f"{digest}  -\n")
    assert "does not work" in provision(tmp_path)

    (packages,) = (venv / "lib").glob("python3*/site-packages")
    (packages / "click" / "core.py").unlink()  # an interrupted pip
    said = provision(tmp_path)
    assert "does not work (ModuleNotFoundError: No module named 'click.core')" in said
    assert "does not work" not in provision(tmp_path)
