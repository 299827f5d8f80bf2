"""What a test needs of the machine: where it is missing a test is skipped, saying how to force it.

XDPECMP_FORCE_ROOT_TESTS=1, as in CI, turns what is missing into an error: there nothing is skipped
unnoticed.
"""

from __future__ import annotations

import os

import pytest

FORCE = "XDPECMP_FORCE_ROOT_TESTS"


def require(capable: bool, what: str) -> None:
    """Skip the running test, or fail it where forced, unless `capable`; `what` names the need."""
    if capable:
        return
    if os.environ.get(FORCE) == "1":
        pytest.fail(f"needs {what}, and {FORCE}=1 forbids to skip", pytrace=False)
    pytest.skip(f"needs {what} ({FORCE}=1: fail, don't skip)")
