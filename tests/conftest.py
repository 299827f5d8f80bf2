"""Tests marked `root` need root: without it they are skipped or, where forced, fail."""

from __future__ import annotations

import os

import pytest

from tests.capabilities import require


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of the test, which would fail for want of root in its own words."""
    if item.get_closest_marker("root"):
        require(os.geteuid() == 0, "root")
