"""Sysctls: which hash policy, which seed, which interfaces forward.

The kernel announces no change of most of them, and reading them takes some 6 µs a file, ten files
an interface. So the agent keeps those open of which there is no event (`Watch`): comparing takes
2 µs a file. The five that decide which way flows go it compares ten times a second, the others
twice. All are read again every few seconds.

/proc/sys/net shows the namespace of the *thread that looks*, whatever was mounted or opened where.
Looking in from another namespace works too, through a directory opened inside, but takes up to
400 µs a file, since no lookup is cached. A file that is open stays that of the namespace that it
was opened in.

Source: Documentation/networking/ip-sysctl.rst; how `all` and the interface combine is in
include/linux/inetdevice.h (IN_DEV_ORCONF, IN_DEV_MAXCONF) and ip6_forward().
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from errno import ENOENT

from ..errors import KernelRefused
from ..model.values import InterfaceSettings, Link, Settings

_ROOT = "/proc/sys/net"


def _read(path: str, absent: int = 0) -> int:
    """One sysctl; `absent` where this kernel, or this interface (any more), has none.

    The path has a directory for each level, since interface names may contain dots.
    """
    try:
        descriptor = os.open(f"{_ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return absent
    try:
        return int(os.read(descriptor, 64))
    except (OSError, ValueError):  # the interface has gone between the two
        return absent
    finally:
        os.close(descriptor)


def read_settings(links: Iterable[Link]) -> Settings:
    """The settings of the calling thread's namespace, and of those of its interfaces."""
    all_redirects = bool(_read("ipv4/conf/all/send_redirects"))
    all_rp_filter = _read("ipv4/conf/all/rp_filter")
    all_linkdown = bool(_read("ipv4/conf/all/ignore_routes_with_linkdown"))
    all_accept = bool(_read("ipv4/conf/all/accept_redirects"))
    all_forwarding6 = bool(_read("ipv6/conf/all/forwarding"))

    def interface(name: str) -> InterfaceSettings:
        ipv4, ipv6 = f"ipv4/conf/{name}", f"ipv6/conf/{name}"
        # No ipv6 directory (MTU below 1280, ipv6.disable=1): no IPv6 on the interface.
        enabled6 = not _read(f"{ipv6}/disable_ipv6", absent=1)
        forwarding4 = bool(_read(f"{ipv4}/forwarding"))
        accepts4 = bool(_read(f"{ipv4}/accept_redirects"))
        return InterfaceSettings(
            forwarding4=forwarding4,
            # IN_DEV_RX_REDIRECTS; rt6_do_redirect() asks whether the interface itself forwards
            learns_redirects4=(all_accept and accepts4)
            if forwarding4
            else (all_accept or accepts4),
            learns_redirects6=enabled6
            and bool(_read(f"{ipv6}/accept_redirects"))
            and not _read(f"{ipv6}/forwarding"),
            forwarding6=enabled6
            and (all_forwarding6 or bool(_read(f"{ipv6}/force_forwarding"))),  # Linux 6.17
            rp_filter=max(all_rp_filter, _read(f"{ipv4}/rp_filter")),
            send_redirects=all_redirects or bool(_read(f"{ipv4}/send_redirects")),
            ignore_linkdown4=all_linkdown or bool(_read(f"{ipv4}/ignore_routes_with_linkdown")),
            # IPv6 does not consult `all`: writing to it sets every interface (addrconf.c).
            ignore_linkdown6=bool(_read(f"{ipv6}/ignore_routes_with_linkdown")),
            mtu6=_read(f"{ipv6}/mtu"),
        )

    return Settings(
        policy4=_read("ipv4/fib_multipath_hash_policy"),
        policy6=_read("ipv6/fib_multipath_hash_policy"),
        fields4=_read("ipv4/fib_multipath_hash_fields"),
        fields6=_read("ipv6/fib_multipath_hash_fields"),
        seed=read_seed(),
        use_neigh=bool(_read("ipv4/fib_multipath_use_neigh")),
        ip_forward_use_pmtu=bool(_read("ipv4/ip_forward_use_pmtu")),
        proxy_ndp=bool(_read("ipv6/conf/all/proxy_ndp")),
        interfaces={link.ifindex: interface(link.name) for link in links},
    )


_DECISIVE = (
    "ipv4/fib_multipath_hash_policy",
    "ipv6/fib_multipath_hash_policy",
    "ipv4/fib_multipath_hash_fields",
    "ipv6/fib_multipath_hash_fields",
    "ipv4/fib_multipath_hash_seed",
)
"""No event tells of them, and when they change flows move."""

_WATCHED = (
    "ipv4/fib_multipath_use_neigh",
    "ipv4/ip_forward_use_pmtu",
    "ipv4/conf/all/send_redirects",
    "ipv4/conf/all/accept_redirects",
    "ipv6/conf/all/proxy_ndp",
)
"""What else `read_settings` reads of the namespace and no event tells of."""

_WATCHED_INTERFACE = (
    "ipv4/conf/{}/send_redirects",
    "ipv4/conf/{}/accept_redirects",
    "ipv6/conf/{}/accept_redirects",
    "ipv6/conf/{}/mtu",
    "ipv6/conf/{}/disable_ipv6",
)
"""Likewise of an interface. Of the others RTM_NEWNETCONF tells."""

MOST_INTERFACES = 60
"""That are watched."""
_FILES_AT_ONCE = 40


class Watch:
    """Sees cheaply whether sysctls have changed of which there is no event.

    Of interfaces a few files are read each time, in turn: with up to eight interfaces all of them.
    What it does often is kept short: after a sleep of 100 ms each line is paid for by cache misses.
    """

    def __init__(self) -> None:
        self.interfaces: tuple[str, ...] | None = None
        """Those that are watched; None: nothing is open."""
        self._files: list[int] = []
        self._decisive: list[int] = []
        self._batches: list[list[int]] = []
        """Which files are read together."""
        self._seen_decisive: list[bytes] = []
        self._seen: list[list[bytes]] = []
        """What was read last."""
        self._turn = 0

    def descriptors(self) -> set[int]:
        """The open files."""
        return set(self._files)

    def close(self) -> None:
        """Close the files. May be called again."""
        self._decisive, self._batches = [], []
        while self._files:
            os.close(self._files.pop())
        self.interfaces = None

    def open(self, interfaces: tuple[str, ...]) -> None:
        """Watch the calling thread's namespace and these interfaces of it, the most important ones
        first."""
        self.close()
        self._decisive = self._open_all(_DECISIVE)
        shared = self._open_all(_WATCHED)
        rest = self._open_all(
            path.format(name)
            for name in interfaces[:MOST_INTERFACES]
            for path in _WATCHED_INTERFACE
        )
        starts = range(0, max(1, len(rest)), _FILES_AT_ONCE)
        self._batches = [[*shared, *rest[start : start + _FILES_AT_ONCE]] for start in starts]
        self._seen_decisive = _read_all(self._decisive)
        self._seen = [_read_all(batch) for batch in self._batches]
        self.interfaces = interfaces

    def _open_all(self, paths: Iterable[str]) -> list[int]:
        opened = []
        for path in paths:
            with suppress(OSError):  # this kernel or this interface has none
                opened.append(os.open(f"{_ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC))
        self._files += opened
        return opened

    def decisive_changed(self) -> bool:
        """Whether one of those that decide most has changed since `open`, or since it was said
        that it has."""
        found = _read_all(self._decisive)
        if found == self._seen_decisive:
            return False
        self._seen_decisive = found
        return True

    def changed(self) -> bool:
        """The same of the others, as far as it is their turn."""
        if not self._batches:
            return True
        turn = self._turn = (self._turn + 1) % len(self._batches)
        try:
            found = _read_all(self._batches[turn])
        except OSError:  # an interface has gone, or has another name
            self.close()
            return True
        if found == self._seen[turn]:
            return False
        self._seen[turn] = found
        return True


def _read_all(files: list[int]) -> list[bytes]:
    return [os.pread(file, 64, 0) for file in files]


def read_seed() -> int | None:
    """net.ipv4.fib_multipath_hash_seed; None where there is none, or Linux keeps it to itself."""
    return _read("ipv4/fib_multipath_hash_seed") or None


def has_seed() -> bool:
    """Whether this kernel lets its multipath hash seed be known (Linux 6.11)."""
    return os.path.exists(f"{_ROOT}/ipv4/fib_multipath_hash_seed")


def write_seed(seed: int) -> None:
    """Set net.ipv4.fib_multipath_hash_seed (1 to 2^32 - 1) of the calling thread's namespace.

    Raises KernelRefused on a kernel before 6.11, which has no such setting.
    """
    try:
        with open(f"{_ROOT}/ipv4/fib_multipath_hash_seed", "w") as file:
            file.write(str(seed))
    except FileNotFoundError as error:
        raise KernelRefused(
            "this kernel has no net.ipv4.fib_multipath_hash_seed (it came with Linux 6.11)",
            ENOENT,
            "have xdpecmp hash with a seed of its own: xdpecmp attach IFACE --own-seed",
        ) from error
