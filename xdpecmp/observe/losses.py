"""What was lost behind a redirect: counted as forwarded, and sent by no device.

XDP_REDIRECT is a request. The kernel drops the frame where the device's queue is full, or where a
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
from pathlib import Path
from typing import Any

from .. import places
from ..dataplane import counters
from ..model.values import Link
from ..netlink import Kernel
from ..netlink.devicestats import DeviceCounters
from ..program.maps import Maps

KEYS = ("lost", "xdp_drops", "tx_dropped", "tx_errors")
_SETTLE_SECONDS = 0.01
"""After this, what a program has redirected has been handed to the device."""


def report(kernel: Kernel, maps: Maps, ours: Collection[int], run: Path) -> list[dict[str, Any]]:
    """For each device that we receive from or send to: {"ifname", *KEYS}, grown since the first
    attach. `lost` is None where it cannot be known. `ours`: ids of our programs; `run`: where
    `record` left its file."""
    links = kernel.links()
    before = _load(run)
    native = bool(before.get("native")) and _all_native(links, ours)
    forwarded = _forwarded(maps, links)
    devices = set(forwarded) | {i for i, link in links.items() if link.xdp_prog_id in ours}
    now = kernel.device_counters(links[ifindex] for ifindex in sorted(devices & links.keys()))
    rows = _rows(now, forwarded, before, native)
    if any(row["lost"] for row in rows):
        time.sleep(_SETTLE_SECONDS)
        now = kernel.device_counters(links[ifindex] for ifindex in now)
        rows = _rows(now, forwarded, before, native)
    return rows


def losing(rows: Collection[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of a report with something to say."""
    return [row for row in rows if any(row[key] for key in KEYS)]


def sentence(row: Mapping[str, Any]) -> str:
    """What there is to say of such a device."""
    parts = []
    if row["lost"]:
        parts.append(f"{row['lost']:,} packets forwarded to it were not sent")
    if row["xdp_drops"]:
        parts.append(f"its driver dropped {row['xdp_drops']:,} XDP frames")
    unsent = row["tx_dropped"] + row["tx_errors"]
    if unsent:
        parts.append(f"{unsent:,} packets, Linux's included, were dropped on sending")
    return f"{row['ifname']}: {'; '.join(parts)} (since the first attach)"


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
        "earlier": {row["ifname"]: {key: row[key] or 0 for key in KEYS} for row in rows},
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


def _load(run: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, places.Untrusted):
        state = json.loads(places.read_file(run / "devices.json"))
        if isinstance(state, dict):
            return state
    return {}


def _all_native(links: Mapping[int, Link], ours: Collection[int]) -> bool:
    modes = {link.xdp_mode for link in links.values() if link.xdp_prog_id in ours}
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
) -> list[dict[str, Any]]:
    rows = []
    for ifindex, each in now.items():
        then = before.get("devices", {}).get(str(ifindex), {})
        if then.get("name") != each.name:  # it came later
            then = {}
        earlier = before.get("earlier", {}).get(each.name, {})
        row: dict[str, Any] = {"ifname": each.name, "lost": None}
        for key in KEYS[1:]:
            row[key] = max(0, getattr(each, key) - then.get(key, 0)) + earlier.get(key, 0)
        if each.xdp_sent is not None and (then.get("xdp_sent") or 0) <= each.xdp_sent:
            sent = each.xdp_sent - (then.get("xdp_sent") or 0)
            grown = forwarded.get(ifindex, 0) - then.get("forwarded", 0)
            lost = max(0, grown - sent) if native else 0
            if native or earlier.get("lost"):
                row["lost"] = lost + earlier.get("lost", 0)
        rows.append(row)
    return rows
