"""dataplane: what of it needs no maps."""

from __future__ import annotations

from xdpecmp.compile import Interface
from xdpecmp.dataplane.ingress import _seated


def test_of_two_interfaces_with_one_place_the_lower_has_it_for_good() -> None:
    """Whichever comes first, and also once the other one has gone."""
    low, high, other = (Interface(bytes([2, 0, 0, 0, 0, i]), 1, 0, i) for i in range(3))
    for found in ({7: low, 4103: high, 8: other}, {4103: high, 8: other, 7: low}):
        assert _seated(found, 4096) == ({7: low, 8: other}, [4103])
    assert _seated({4103: high, 8: other}, 4096) == ({4103: high, 8: other}, [])
