"""Runs the real program on frames: built, loaded and fed by the real code, without traffic.

BPF_PROG_TEST_RUN gives the verdict and every byte of the frame; the counters tell the reason and
the next hop. `Case` is one row of a table of expectations, `Plane.check` what is compared: the
verdict, all bytes, and *all* counters, so that one that moves without being asked to is seen too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from scapy.packet import Packet

from xdpecmp.compile import Tables, compile_tables
from xdpecmp.dataplane.plane import Dataplane
from xdpecmp.hashing import bounds, flow_key, select
from xdpecmp.model.options import Options
from xdpecmp.model.values import NextHop, Snapshot
from xdpecmp.program import libbpf
from xdpecmp.program.abi import ICMP_ERROR_INDEX, STAT_COUNT, Reason
from xdpecmp.program.build import CLOCK, PROGRAM, Build, Variant, pin_name
from xdpecmp.program.maps import Maps

from .world import SEED, World

VERDICTS = {0: "ABORTED", 1: "DROP", 2: "PASS", 3: "TX", 4: "REDIRECT"}
STATS = {reason.name: int(reason) for reason in Reason} | ICMP_ERROR_INDEX
"""Name → entry of `reason_stats`. Those that have no name must never count."""
FOREVER = 1 << 62
"""A lease that outlives the tests."""


class Outcome(NamedTuple):
    """What became of one frame."""

    verdict: str
    frame: bytes
    stats: dict[str, int]
    """Reasons and ICMP errors whose counters moved, and by how much."""
    traffic: dict[str, tuple[int, int]]
    """Next hops whose counters moved: packets and bytes."""


@dataclass(frozen=True)
class Case:
    """A frame and what must become of it."""

    name: str
    frame: Packet | bytes
    reason: str = "FORWARDED"
    out: bytes = b""
    """The frame as it leaves; what is passed must be as it came."""
    via: str = ""
    """The next hop that counts it."""
    icmp: str = ""
    """The ICMP error that is counted."""
    setup: Mapping[str, Any] = field(default_factory=dict)
    """What is different from the usual router: arguments of World.snapshot, and `options`."""

    def __str__(self) -> str:
        return self.name

    def expected(self) -> Outcome:
        if self.reason != "FORWARDED":
            return Outcome("PASS", bytes(self.frame), {self.reason: 1}, {})
        stats = {self.icmp: 1} if self.icmp else {}
        return Outcome("REDIRECT", self.out, stats, {self.via: (1, len(self.out))})


class Plane:
    """The program and its maps."""

    def __init__(self, directory: Path, world: World) -> None:
        """`directory`: where to pin, in a bpffs."""
        self.world = world
        self.directory = directory
        self.layout = Build(directory, "test").result()
        Build(directory, "test", Variant.DEEP).result()
        self.program = libbpf.get_pinned(directory / pin_name(PROGRAM, "test"))
        self.clock = libbpf.get_pinned(directory / pin_name(CLOCK, "test"))
        self.maps = Maps(directory, self.layout)
        self.dataplane = Dataplane(self.maps)
        self.tables: Tables | None = None
        self._compiled: dict[str, Tables] = {}
        self._loaded = False

    def close(self) -> None:
        self.maps.close()
        os.close(self.program)
        os.close(self.clock)

    # --- contents -------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what a test before loaded: unless told otherwise, the usual router comes next.

        It is loaded when it is needed, since a change of the configuration takes a grace period."""
        self._loaded = False

    def load(self, snapshot: Snapshot, attached: Collection[str] = ("in",)) -> Tables:
        """Make the maps say what this snapshot says, with a lease; returns what was compiled."""
        tables = compile_tables(snapshot, [self.world.ifindex[name] for name in attached])
        self.load_tables(tables)
        return tables

    def load_tables(self, tables: Tables) -> None:
        """Likewise from what `compile` would have said."""
        if tables is not self.tables and tables != self.tables:
            self.dataplane.sync(tables)
            self.tables = tables
        self.dataplane.set_lease(FOREVER)
        self._loaded = True

    def _load_usual(self) -> None:
        if not self._loaded:
            self.load_tables(self._compile({}))

    def _compile(self, setup: Mapping[str, Any]) -> Tables:
        """Of the router with these changes; each compiled once."""
        key = repr(setup)
        if key not in self._compiled:
            changes = dict(setup)
            options = Options(**changes.pop("options", {}))
            snapshot = self.world.snapshot(**changes)
            self._compiled[key] = compile_tables(snapshot, [self.world.ifindex["in"]], options)
        return self._compiled[key]

    @contextmanager
    def without_device(self, slot: int) -> Iterator[None]:
        """With nothing in that entry of the devmap."""
        fd, key = self.maps.fds["devices"], slot.to_bytes(4, "little")
        value = libbpf.map_lookup(fd, key, 4)
        assert value is not None
        libbpf.map_delete(fd, key)
        try:
            yield
        finally:
            libbpf.map_update(fd, key, value)

    @contextmanager
    def without_deep(self) -> Iterator[None]:
        """Without the program that the main one calls for a hash that takes a walk."""
        programs = libbpf.get_pinned(self.directory / pin_name("programs", "test"))
        number = libbpf.map_lookup(programs, bytes(4), 4)
        assert number is not None
        deep = libbpf.program_by_id(int.from_bytes(number, "little"))
        libbpf.map_delete(programs, bytes(4))
        try:
            yield
        finally:
            libbpf.map_update(programs, bytes(4), deep.to_bytes(4, "little"))
            os.close(deep)
            os.close(programs)

    # --- running --------------------------------------------------------------------------------

    def run(self, frame: bytes, ingress: str = "in") -> tuple[str, bytes]:
        """Verdict and frame afterwards. The calling thread must be in the world's namespace."""
        self._load_usual()
        result = libbpf.run_program(self.program, frame, self.world.ifindex[ingress])
        return VERDICTS[result.verdict], result.frame

    def run_behind_metadata(self, frame: bytes, size: int) -> tuple[str, bytes]:
        """As `run`, with `size` bytes of metadata in front, which take the frame's headroom."""
        data = ctypes.create_string_buffer(bytes(size) + frame, size + len(frame))
        out = ctypes.create_string_buffer(len(data) + 256)
        context = libbpf.Context(
            data=size, data_end=len(data), ingress_ifindex=self.world.ifindex["in"]
        )
        options = libbpf.RunOptions(
            data_in=ctypes.addressof(data),
            data_size_in=len(data),
            data_out=ctypes.addressof(out),
            data_size_out=len(out),
            ctx_in=ctypes.addressof(context),
            ctx_size_in=ctypes.sizeof(context),
            repeat=1,
        )
        libbpf.run(self.program, options)
        return VERDICTS[options.retval], out.raw[size : options.data_size_out]

    def observe(self, frame: bytes, metadata: int = 0, device: str = "in") -> Outcome:
        """Run it, and see which counters moved."""
        self._load_usual()
        stats, traffic = self._stats(), self._traffic()
        run = self.run_behind_metadata(frame, metadata) if metadata else self.run(frame, device)
        moved = {name: n - stats[name] for name, n in self._stats().items() if n != stats[name]}
        counted = {
            name: (packets - traffic[name][0], size - traffic[name][1])
            for name, (packets, size) in self._traffic().items()
            if (packets, size) != traffic[name]
        }
        return Outcome(*run, moved, counted)

    def check(self, case: Case) -> None:
        """Load the case's router, run its frame and compare everything."""
        self.load_tables(self._compile(case.setup))
        outcome, expected = self.observe(bytes(case.frame)), case.expected()
        assert outcome._replace(frame=b"") == expected._replace(frame=b""), case.name
        assert outcome.frame.hex(" ") == expected.frame.hex(" "), case.name

    # --- counters -------------------------------------------------------------------------------

    def _stats(self) -> dict[str, int]:
        names = {index: name for name, index in STATS.items()}
        return {
            names.get(index, f"entry {index}, which has no name"): count
            for index, (count,) in enumerate(self.maps.totals("reason_stats", STAT_COUNT))
        }

    def _traffic(self) -> dict[str, tuple[int, int]]:
        names = {slot: _via(nexthop) for nexthop, slot in self.dataplane.nexthop_slots.items()}
        used = self.maps["control"].entries[0].nexthops_used
        return {
            names.get(slot, f"slot {slot}, not in use"): (packets, size)
            for slot, (packets, size) in enumerate(self.maps.totals("path_stats", used))
        }

    def traffic(self, slot: int) -> tuple[int, int]:
        """Packets and bytes that an entry of `path_stats` counts."""
        values = self.maps.per_cpu("path_stats", slot)
        return sum(value.packets for value in values), sum(value.bytes for value in values)


def _via(nexthop: NextHop) -> str:
    return str(ip_address(nexthop.via)) if nexthop.via else f"dev #{nexthop.ifindex}"


def choose(l3: bytes, paths: Collection[tuple[str, int]], policy: int = 0) -> str:
    """The next hop that Linux would choose among (via, weight), by the reference model."""
    vias, weights = zip(*paths, strict=True)
    hash31 = flow_key(l3, policy).hash(SEED)
    return str(vias[select(bounds(weights), hash31)])
