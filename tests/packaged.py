"""Libraries in the versions that the supported distributions package, for tests that run the
command line with them: pip puts them into a folder that goes to the front of PYTHONPATH."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.capabilities import require, require_host

DISTRIBUTIONS = {
    "debian-12": {"click": "8.1.3", "pyroute2": "0.7.2", "rich": "13.3.1", "numpy": "1.24.2"},
    "ubuntu-24.04": {"click": "8.1.6", "pyroute2": "0.7.11", "rich": "13.7.1", "numpy": "1.26.4"},
    "debian-13": {"click": "8.1.8", "pyroute2": "0.8.1", "rich": "13.9.4", "numpy": "2.2.4"},
}
_PYTHON = {"debian-12": (3, 11), "ubuntu-24.04": (3, 12), "debian-13": (3, 13)}
"""numpy has wheels for its own time's Pythons only."""

LATER = {"click-8.2": {"click": "8.2.0"}, "click-8.3": {"click": "8.3.0"}}
"""Of which each broke something."""


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Gone when the tests end."""
    return tempfile.TemporaryDirectory(prefix="xdpecmp-packaged-")


@cache
def install(name: str) -> dict[str, str]:
    """Install a set of versions; returns the environment in which Python finds them."""
    folder = Path(_folder().name) / name
    versions = dict((DISTRIBUTIONS | LATER)[name])
    if sys.version_info[:2] != _PYTHON.get(name):
        versions.pop("numpy", None)
    require_host("the Python package index")
    wanted = [f"{package}=={version}" for package, version in versions.items()]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-input", "--no-deps", "--no-compile", "--target", str(folder), *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    require(done.returncode == 0, f"the Python package index, for {' '.join(wanted)}")
    return os.environ | {"PYTHONPATH": str(folder)}
