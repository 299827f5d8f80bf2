"""Makes a data path choose wrongly, behind its agent's back: for tests of what should see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from testbed.waiting import wait_until
from tests.net.topology import VIP_PREFIX, Anycast
from xdpecmp.model.values import Prefix


def set_policy(net: Anycast, number: int) -> None:
    """The hash policy, at work: some take another program, which is built then."""
    net.policy(number)
    with net.instance.open_maps() as maps:
        control, configs = maps["control"].entries[0], maps["config"].entries

        def works() -> bool:
            config = configs[control.config_slot]
            return not config.pass_multipath4 and not config.pass_multipath6

        wait_until(works, f"policy {number} at work", 15.0)


@contextmanager
def sabotaged(net: Anycast, field: str) -> Iterator[None]:
    """With a wrong word in an array of the configuration in force."""
    with net.instance.open_maps() as maps:
        slot = maps["control"].entries[0].config_slot
        array = getattr(maps["config"].entries[slot], field)
        array[0] ^= 1 << 17
        try:
            yield
        finally:
            array[0] ^= 1 << 17


@contextmanager
def rotated(net: Anycast, *prefixes: str) -> Iterator[None]:
    """With the next hops of these multipath routes (the anycast ones) in each other's places."""
    with net.instance.open_maps() as maps:
        paths = []
        for prefix in prefixes or VIP_PREFIX.values():
            number = maps.group_of(Prefix.parse(prefix))
            assert number is not None
            group = maps["groups"].entries[number]
            paths.append(maps["paths"].entries[group.first : group.first + group.count])
        numbers = [[path.nexthop for path in each] for each in paths]

        def place(shift: int) -> None:
            for each, kept in zip(paths, numbers, strict=True):
                for i, path in enumerate(each):
                    path.nexthop = kept[(i + shift) % len(kept)]

        place(1)
        try:
            yield
        finally:
            place(0)
