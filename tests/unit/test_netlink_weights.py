"""The route that is to replace one with other weights: nothing else of it changes."""

from __future__ import annotations

import struct

import pytest

from tests.unit.route_messages import (
    CACHEINFO,
    EXPIRES,
    GATEWAY,
    GATEWAY1,
    GATEWAY2,
    GATEWAY6,
    METRICS,
    MULTIPATH,
    NH_ID,
    PRIORITY,
    TO_TEN,
    V6,
    VIA,
    VIA_ONE,
    hop,
    route,
    u16,
    u32,
)
from xdpecmp.errors import RouteNotWeighable
from xdpecmp.netlink.routeweights import with_weights
from xdpecmp.netlink.wire import attribute, attribute_map

BLOCK = hop(7, (GATEWAY, GATEWAY1), hops=1, flags=0x10) + hop(8, (VIA, u16(V6) + GATEWAY6), flags=4)


def test_new_weights_change_nothing_else() -> None:
    more = ((7, GATEWAY2), (METRICS, attribute(8, u32(1400))), (11, u32(3)), (20, b"\1"))
    before = route(*TO_TEN, (PRIORITY, u32(5)), *more, (MULTIPATH, BLOCK), flags=0x4000, tos=4)
    after = with_weights(before, [10, 256])
    expected = hop(7, (GATEWAY, GATEWAY1), hops=9) + hop(
        8, (VIA, u16(V6) + GATEWAY6), hops=255, flags=4
    )
    assert after == route(*TO_TEN, (PRIORITY, u32(5)), *more, (MULTIPATH, expected), flags=0, tos=4)


@pytest.mark.parametrize(("ticks", "seconds"), [(0, None), (50, 1), (30_000, 300)])
def test_the_rest_of_an_ipv6_routes_life_goes_on(
    monkeypatch: pytest.MonkeyPatch, ticks: int, seconds: int | None
) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    cache = struct.pack("=IIiIIIII", 0, 0, ticks, 0, 0, 0, 0, 0)
    after = with_weights(route(*TO_TEN, (MULTIPATH, BLOCK), (CACHEINFO, cache)), [1, 1])
    found = attribute_map(after, 12, len(after))
    assert CACHEINFO not in found
    assert found.get(EXPIRES) == (None if seconds is None else u32(seconds))


def test_routes_without_weights_of_their_own() -> None:
    with pytest.raises(RouteNotWeighable, match="nexthop object"):
        with_weights(route(*TO_TEN, (NH_ID, u32(1)), (MULTIPATH, BLOCK)), [1, 1])
    with pytest.raises(RouteNotWeighable, match="not a multipath"):
        with_weights(route(*TO_TEN, *VIA_ONE), [1])
