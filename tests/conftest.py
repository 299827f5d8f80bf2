"""Tests marked `root` need root: without it they are skipped or, where forced, fail."""

from __future__ import annotations

import os
import signal
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

from tests.capabilities import require

# How long an example takes is the machine's affair: under emulation that is seconds.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure() -> None:
    """A run that is told to end ends as with Ctrl-C: fixtures take down what they made."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of the test, which would otherwise fail with a message of another kind."""
    if item.get_closest_marker("root"):
        require(os.geteuid() == 0, "root")
