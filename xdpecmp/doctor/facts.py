"""All that the checks go by, as plain values. None stands for what could not be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..compile import Tables
from ..errors import XdpecmpError
from ..model.hashkey import NO_KEY, KeyState
from ..model.values import Link, Prefix, Snapshot
from ..observe.state import Status


@dataclass(frozen=True, slots=True)
class Host:
    """The machine and the process, whatever the network namespace."""

    root: bool
    missing_capabilities: tuple[str, ...]
    """Of those that attaching takes."""
    machine: str
    """`uname -m`."""
    release: str
    """`uname -r`."""
    bcc: str
    """The version of Python's module bcc, "" if there is none."""
    bcc_is_ours: bool
    """Whether it is the BPF Compiler Collection."""
    libbpf: str
    """The version of libbpf.so.1, "" if it does not load."""
    bpffs: XdpecmpError | None
    """What `attach` would say of the bpf file system."""
    trial: Trial | None
    """None if it was not tried."""
    tickless: str
    """CPUs without timer tick (nohz_full=), "" for none."""

    @property
    def kernel(self) -> tuple[int, int]:
        """Version of Linux: 6.18 is (6, 18); (0, 0) if it cannot be read."""
        numbers = self.release.split("-")[0].split(".")[:2]
        if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
            return 0, 0
        return int(numbers[0]), int(numbers[1])


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of building and loading the programs, as `attach` does."""

    error: XdpecmpError | None = None
    errno: int = 0
    """Why, if it was the kernel that refused."""
    seconds: float = 0.0
    compiled: bool = True
    """Whether the kernel turned it into machine code."""


@dataclass(frozen=True, slots=True)
class Device:
    """What only `ethtool` and /sys know of an interface."""

    driver: str = ""
    """"" for a device without hardware."""
    features: frozenset[str] = frozenset()
    """Those that are on, by the names of `ethtool -k`'s kernel strings (rx-gro-hw, rx-hashing)."""
    native_xdp: bool | None = None
    """Whether its driver runs XDP programs; None if the kernel cannot tell (before 6.3)."""
    queue_pairs: int = 0
    """Combined channels in use, 0 if the driver has none."""
    max_queue_pairs: int = 0
    virtio: frozenset[int] | None = None
    """VIRTIO_NET_F_* bits that host and guest agreed upon; None for another driver."""
    peer: str = ""
    """Of a veth: its other end, if that is in this namespace too."""
    stacked: Mapping[str, str] = field(default_factory=dict)
    """Devices on top of it, name → kind: VLANs, macvlans, ipvlans."""


@dataclass(frozen=True, slots=True)
class Running:
    """The instance of this namespace."""

    seen: bool = True
    """Whether it could be looked at."""
    status: Status | None = None
    """None if nothing is attached, or it could not be read."""
    error: XdpecmpError | None = None
    """Why it could not."""
    programs: frozenset[int] = frozenset()
    """Ids of our programs."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything."""

    host: Host
    snapshot: Snapshot
    tables: Tables
    """What the maps would hold with `interfaces` attached."""
    interfaces: tuple[Link, ...]
    """What is looked at, in the mode that it has or would have."""
    devices: Mapping[int, Device]
    """By ifindex."""
    running: Running
    bypasses_firewall: bool = False
    """Whether `attach` was told to (--bypass-firewall)."""
    disagreement: Prefix | None = None
    """A route for which Linux chooses otherwise than we compute."""
    key_state: KeyState = NO_KEY
    """What `attach` would find out about Linux's hash key beside its sysctl."""
    has_seed_setting: bool = True
    """Whether the kernel knows net.ipv4.fib_multipath_hash_seed."""
    cpus: int = 1
    """Possible CPUs (nr_cpu_ids)."""
    unseen: tuple[str, ...] = ()
    """What could not be looked at for want of privileges."""
