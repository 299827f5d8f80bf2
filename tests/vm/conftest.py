"""Tests of devices that a distribution's kernel has and a tailor-made one may lack.

Each needs root and namespaces; `make test-vm KERNEL=…` runs them under a stock kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them all."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
