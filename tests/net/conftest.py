"""Every test in here needs root, namespaces and BPF.

`servers` and `flows` belong to the `net` that a module's own fixture of that name makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.topology import Anycast
from tests.net.traffic import Flows, Servers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them all."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="module")
def servers(net: Anycast) -> Iterator[Servers]:
    """They answer requests for the module's length."""
    with Servers(net) as made:
        yield made


@pytest.fixture(scope="module")
def flows(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Flows]:
    """As many of each family as the module's FLOWS says. Their sockets stay open, so that each
    keeps its flow label."""
    count: int = request.module.FLOWS
    with servers.flows(4, count) as ipv4, servers.flows(6, count) as ipv6:
        yield {4: ipv4, 6: ipv6}
