"""No reason without a test: where reasons.def grows and the tables don't, this fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bpf import (
    test_encapsulation,
    test_groups_linux,
    test_header_reasons,
    test_lease,
    test_partial_checksums,
    test_quotes,
    test_route_reasons,
    test_tags,
)
from tests.bpf.harness import Plane
from tests.bpf.packets import frame, to
from xdpecmp.program.abi import ICMP_ERROR_INDEX, Reason

SPECIAL: dict[str, Callable[..., None]] = {
    "BEHIND": test_lease.test_behind,
    "BUCKET_USE": test_groups_linux.test_the_first_packet_of_a_bucket_passes,
    "LEASE_EXPIRED": test_lease.test_lease,
    "TABLE_FULL": test_route_reasons.test_table_full,
    "NO_HEADROOM": test_tags.test_no_headroom,
}
"""Reasons that no row of a table gives, since they take more than a snapshot and a frame."""


def test_every_reason_has_a_test() -> None:
    rows = [
        *test_encapsulation.PASSED,
        *test_header_reasons.ROWS,
        *test_partial_checksums.ROWS,
        *test_route_reasons.ROWS,
        *test_tags.PASSED,
    ]
    assert {row.reason for row in rows} | SPECIAL.keys() == {reason.name for reason in Reason}
    assert not {row.reason for row in rows} & SPECIAL.keys()


def test_every_icmp_error_has_a_test() -> None:
    assert {row.icmp for row in test_quotes.ROWS} == {*ICMP_ERROR_INDEX}


@pytest.mark.root
def test_forwarding_is_counted_by_next_hop_alone(plane: Plane) -> None:
    """FORWARDED has no counter of its own: packets forwarded are the sum over next hops."""
    plane.run(frame(to("single")))
    assert sum(value.value for value in plane.maps.per_cpu("reason_stats", 0)) == 0
