"""Checks of the machine: whether the programs can be built, loaded and kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from errno import EACCES, ENOMEM, EPERM

from .facts import Host
from .finding import Finding, from_error, note, ok, problem

OLDEST_KERNEL = (6, 1)
"""Older ones may do, but no test runs under them."""

_PROVISION = "vagrant/provision.sh"

_PRIVILEGED = "docker run --privileged"
_REFUSED = {
    EPERM: f"in a container, start it privileged: {_PRIVILEGED}",
    EACCES: f"see why: dmesg; in a container, start it privileged: {_PRIVILEGED}",
    ENOMEM: "see what memory is left (a namespace takes 65 MiB): free -m",
}
"""What helps if the kernel does not load the programs, by errno."""
_REPORT = "please report it with what these say: uname -a; xdpecmp doctor -j"


def check_host(host: Host) -> Iterator[Finding]:
    """All of them."""
    yield _privileges(host)
    yield _bcc(host)
    yield _libbpf(host)
    yield from _bpffs(host)
    yield from _trial(host)
    yield from _kernel(host)


def _privileges(host: Host) -> Finding:
    if not host.root:
        return problem(
            "privileges",
            "not root, as attaching needs; nor can everything be seen here",
            "sudo xdpecmp doctor",
        )
    if host.missing_capabilities:
        return problem(
            "privileges",
            f"root without {', '.join(host.missing_capabilities)}: in a container, start it "
            "privileged",
            _PRIVILEGED,
        )
    return ok("privileges", "root")


def _bcc(host: Host) -> Finding:
    if not host.bcc:
        return problem("bcc", f"{sys.executable} has no module bcc", _PROVISION)
    if not host.bcc_is_ours:
        return problem(
            "bcc",
            "the module bcc is not the BPF Compiler Collection but an unrelated library that the "
            "Python index has under that name",
            f"{sys.executable} -m pip uninstall bcc && {_PROVISION}",
        )
    return ok("bcc", f"bcc {host.bcc}")


def _libbpf(host: Host) -> Finding:
    if not host.libbpf:
        return problem("libbpf", "libbpf.so.1 does not load", "apt-get install libbpf1")
    return ok("libbpf", f"libbpf {host.libbpf}")


def _bpffs(host: Host) -> Iterator[Finding]:
    if host.bpffs:
        yield from_error("bpffs", host.bpffs)
    else:
        yield ok("bpffs", "bpf file system mounted")


def _trial(host: Host) -> Iterator[Finding]:
    """What the kernel says of our very programs counts more than any sysctl."""
    if host.trial is None:
        return
    if host.trial.error:
        fix = _REFUSED.get(host.trial.errno, _REPORT) if host.trial.errno else None
        yield problem("build", host.trial.error.message, fix or host.trial.error.hint)
        return
    yield ok("build", f"the programs compile and load ({host.trial.seconds:.1f} s)")
    if not host.trial.compiled:
        yield note(
            "jit",
            "the kernel interprets BPF programs, which is several times slower than to compile "
            "them",
            "sysctl -w net.core.bpf_jit_enable=1",
        )


def _kernel(host: Host) -> Iterator[Finding]:
    if (0, 0) < host.kernel < OLDEST_KERNEL:
        oldest = ".".join(map(str, OLDEST_KERNEL))
        yield note("kernel", f"Linux {host.release}: tested is {oldest} and newer")
    else:
        yield ok("kernel", f"Linux {host.release}")
    if host.machine != "x86_64":
        yield note(
            "machine",
            f"{host.machine}: packets may see the agent's changes in another order than on x86-64, "
            "for which that order is right",
        )
    if host.tickless:
        yield note(
            "nohz_full",
            f"CPUs {host.tickless} run without timer tick (nohz_full=), where membarrier(2) is "
            "unavailable: a change that uses a place in the maps again waits 0.2 s",
        )
