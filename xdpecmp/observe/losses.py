"""What was lost behind a redirect: counted as forwarded, and sent by no device.

XDP_REDIRECT is a request. The kernel drops the frame if the device's queue is full, or if a
veth's peer has just lost what it takes (GRO, a program), and tells the program nothing. Drivers
count some of that (`ethtool -S`, tx_dropped). A veth whose peer takes no frames counts nothing, but
it does count what it took: what was forwarded to it and not taken is lost. That can be said while
native programs alone forward; in generic mode frames are sent as Linux's own are.

All is shown as it grew since the first attach, so values at attach are kept in a file.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import places
from ..dataplane import counters
from ..model.values import Link
from ..netlink import Kernel
from ..netlink.devicestats import DeviceCounters
from ..program.maps import Maps
from .devices import our_links

_SETTLE_SECONDS = 0.01
"""After this, what a program has redirected has been handed to the device."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What one device lost since the first attach."""

    ifname: str
    lost: int | None
    """Packets forwarded to it and not sent; None if that cannot be known."""
    xdp_drops: int
    """XDP frames that its driver dropped."""
    tx_dropped: int
    """Packets dropped on sending, Linux's included."""
    tx_errors: int

    def __bool__(self) -> bool:
        return bool(self.lost or self.xdp_drops or self.tx_dropped or self.tx_errors)


def report(kernel: Kernel, maps: Maps, ours: Collection[int], run: Path) -> list[Losses]:
    """Of each device that we receive from or send to. `ours`: ids of our programs; `run`: the
    directory that `record` left its file in."""
    links = kernel.links()
    before = _load(run)
    native = bool(before.get("native")) and _all_native(links, ours)
    forwarded = _forwarded(maps, links)
    devices = set(forwarded) | {link.ifindex for link in our_links(links.values(), ours)}
    now = kernel.device_counters(links[ifindex] for ifindex in sorted(devices & links.keys()))
    rows = _rows(now, forwarded, before, native)
    if any(row.lost for row in rows):
        time.sleep(_SETTLE_SECONDS)
        now = kernel.device_counters(links[ifindex] for ifindex in now)
        rows = _rows(now, forwarded, before, native)
    return rows


def sentence(losses: Losses) -> str:
    """What there is to say of such a device."""
    parts = []
    if losses.lost:
        parts.append(f"{losses.lost:,} packets forwarded to it were not sent")
    if losses.xdp_drops:
        parts.append(f"its driver dropped {losses.xdp_drops:,} XDP frames")
    unsent = losses.tx_dropped + losses.tx_errors
    if unsent:
        parts.append(f"{unsent:,} packets, Linux's included, were dropped on sending")
    return f"{losses.ifname}: {'; '.join(parts)} (since the first attach)"


def record(kernel: Kernel, maps: Maps, ours: Collection[int], run: Path) -> None:
    """Keep the values of now, with what has grown so far, since programs may run in other modes
    from here on. A file that cannot be written is no reason to fail."""
    rows = report(kernel, maps, ours, run)
    links = kernel.links()
    # in this order: what is forwarded meanwhile must not look lost
    now = kernel.device_counters(links.values())
    forwarded = _forwarded(maps, links)
    state = {
        "native": _all_native(links, ours),
        "earlier": {row.ifname: _counts(row) for row in rows},
        "devices": {
            ifindex: {
                "name": each.name,
                "tx_dropped": each.tx_dropped,
                "tx_errors": each.tx_errors,
                "xdp_drops": each.xdp_drops,
                "xdp_sent": each.xdp_sent,
                "forwarded": forwarded.get(ifindex, 0),
            }
            for ifindex, each in now.items()
        },
    }
    with suppress(OSError, places.Untrusted):
        places.write_file(run / "devices.json", json.dumps(state))


def _counts(losses: Losses) -> dict[str, int]:
    return {key: value or 0 for key, value in asdict(losses).items() if key != "ifname"}


def _load(run: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, places.Untrusted):
        state = json.loads(places.read_file(run / "devices.json"))
        if isinstance(state, dict):
            return state
    return {}


def _all_native(links: Mapping[int, Link], ours: Collection[int]) -> bool:
    modes = {link.xdp_mode for link in our_links(links.values(), ours)}
    return modes == {"native"}


def _forwarded(maps: Maps, links: Mapping[int, Link]) -> dict[int, int]:
    """Packets by the device that sends them, of next hops that are known."""
    counted = counters.read(maps)
    found: dict[int, int] = defaultdict(int)
    for rows in (counted.nexthops, counted.former):
        for nexthop, traffic in rows.items():
            if not nexthop.via:
                continue
            link = links.get(nexthop.ifindex)
            while link is not None and link.kind == "vlan":
                link = links.get(link.lower)
            if link is not None:
                found[link.ifindex] += traffic.packets
    return found


def _rows(
    now: Mapping[int, DeviceCounters],
    forwarded: Mapping[int, int],
    before: Mapping[str, Any],
    native: bool,
) -> list[Losses]:
    rows = []
    for ifindex, each in now.items():
        then = before.get("devices", {}).get(str(ifindex), {})
        if then.get("name") != each.name:  # it came later
            then = {}
        earlier = before.get("earlier", {}).get(each.name, {})
        rows.append(_device_losses(each, forwarded.get(ifindex, 0), then, earlier, native))
    return rows


def _device_losses(
    now: DeviceCounters,
    forwarded: int,
    then: Mapping[str, Any],
    earlier: Mapping[str, int],
    native: bool,
) -> Losses:
    """`then`: what `record` kept of the device; `earlier`: what had grown until then."""

    def grown(key: str) -> int:
        growth: int = getattr(now, key) - then.get(key, 0)
        return max(0, growth) + earlier.get(key, 0)

    lost = None
    sent_then = then.get("xdp_sent") or 0
    if now.xdp_sent is not None and sent_then <= now.xdp_sent and (native or earlier.get("lost")):
        unsent = forwarded - then.get("forwarded", 0) - (now.xdp_sent - sent_then)
        lost = (max(0, unsent) if native else 0) + earlier.get("lost", 0)
    return Losses(now.name, lost, grown("xdp_drops"), grown("tx_dropped"), grown("tx_errors"))
