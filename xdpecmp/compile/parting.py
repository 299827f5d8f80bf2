"""By what a flow could be parted if multipath went by a hash seed of ours: see `ownseed`."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Cause(IntEnum):
    """Why a flow could be parted. The numbers are in the map `config`: append only."""

    NONE = 0
    TUNNELS = 1
    NOT_ATTACHED = 2
    INGRESS_KIND = 3
    MERGES = 4
    CHECKSUMS = 5
    MTU = 6
    EGRESS_KIND = 7
    CANNOT_SEND = 8
    ROUTE = 9
    SOURCE_CHECK = 10
    CAPACITY = 11
    NO_WALK = 12
    FRAGMENTS = 13


class Parting(NamedTuple):
    """A cause, and the device that it is about; 0 = none."""

    cause: Cause
    ifindex: int = 0
