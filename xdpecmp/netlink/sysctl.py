"""Sysctls: which hash policy, which seed, which interfaces forward.

The kernel announces no change of most of them, so the agent reads them every second: some 6 µs a
file, eight files an interface, 0.9 ms for 20 interfaces. /proc/sys/net shows the namespace of the
*thread that looks*, whatever was mounted or opened where; looking in from another namespace works
too, through a directory opened inside, but takes up to 400 µs a file, since no lookup is cached.

Source: Documentation/networking/ip-sysctl.rst; how `all` and the interface combine is in
include/linux/inetdevice.h (IN_DEV_ORCONF, IN_DEV_MAXCONF) and ip6_forward().
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import ENOENT

from ..errors import KernelRefused
from ..model import InterfaceSettings, Link, Settings

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
    all_forwarding6 = bool(_read("ipv6/conf/all/forwarding"))

    def interface(name: str) -> InterfaceSettings:
        ipv4, ipv6 = f"ipv4/conf/{name}", f"ipv6/conf/{name}"
        # No ipv6 directory (MTU below 1280, ipv6.disable=1): no IPv6 on the interface.
        enabled6 = not _read(f"{ipv6}/disable_ipv6", absent=1)
        return InterfaceSettings(
            forwarding4=bool(_read(f"{ipv4}/forwarding")),
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
        seed=_read("ipv4/fib_multipath_hash_seed") or None,
        use_neigh=bool(_read("ipv4/fib_multipath_use_neigh")),
        ip_forward_use_pmtu=bool(_read("ipv4/ip_forward_use_pmtu")),
        proxy_ndp=bool(_read("ipv6/conf/all/proxy_ndp")),
        interfaces={link.ifindex: interface(link.name) for link in links},
    )


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
