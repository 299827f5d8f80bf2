"""`doctor` in real namespaces: what it sees, its exit status, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.netns import Namespace
from testbed.waiting import wait_until
from tests.capabilities import Since, kernel_has, since
from tests.net.command import AS_NOBODY, COMMAND, ROOT, command
from tests.net.doctor import bad, findings, foreign_program, healthy_router, ip, saying, sysctl
from tests.net.small import Small
from tests.net.topology import DEADLINE
from xdpecmp.doctor.gather import _trial
from xdpecmp.instance.instance import BPFFS
from xdpecmp.netlink import Kernel

pytestmark = pytest.mark.root

KEYS = {"check", "interface", "verdict", "found", "fix"}


@pytest.fixture(scope="module")
def router() -> Iterator[Small]:
    with healthy_router() as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_left(router: Small) -> Iterator[None]:
    """Neither of an instance nor of a trial."""
    yield
    assert router.remains() == []
    trials = [path.name.split("-") for path in BPFFS.glob("xdpecmp-doctor-*")]
    assert all(Path("/proc", process).exists() for _, _, process, _ in trials)


USUAL = {(check, name) for check in ("mode", "tso") for name in ("in0", "in1")}
"""What there is to say of any two veths."""


def test_all_is_well(router: Small) -> None:
    rows = findings(router)
    assert all(row.keys() == KEYS for row in rows)
    assert {row["verdict"] for row in rows} == {"ok", "note"}
    assert bad(rows) == USUAL
    (build,) = (row for row in rows if row["check"] == "build")
    assert build["found"].startswith("the programs compile and load")


@since(Since.HASH_SEED)
def test_a_known_seed(router: Small) -> None:
    (seed,) = (row for row in findings(router) if row["check"] == "seed")
    assert seed == {
        "check": "seed",
        "interface": None,
        "verdict": "ok",
        "found": "the kernel's hash seed is known",
        "fix": None,
    }


def test_only_the_named_one(router: Small) -> None:
    assert {row["interface"] for row in findings(router, "in1")} == {None, "in1"}


def test_for_people(router: Small) -> None:
    """Problems stand first, with what helps below, and nothing is cut in a pipe."""
    with foreign_program(router, "in1"):
        done = router.run("doctor", status=1)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("problem  in1 already has an XDP program that is not ours")
    assert lines[1].lstrip().startswith("→ ")
    assert "bpftool prog show id " in lines[1]
    verdicts = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert verdicts == sorted(verdicts, key=["problem", "note", "ok"].index)
    assert "…" not in done.stdout


def test_foreign_program(router: Small) -> None:
    """It stops attaching there, and there alone."""
    with foreign_program(router, "in1"):
        number = router.program_id("in1")
        (said,) = saying(findings(router, status=1), "interface")
        assert said["interface"] == "in1"
        assert said["verdict"] == "problem"
        assert f"id {number}" in said["found"]
        assert f"bpftool prog show id {number}" in said["fix"]
        findings(router, "in0")


def test_what_attach_refuses_too(router: Small) -> None:
    """In the same words."""
    (said,) = saying(findings(router, "lo", status=1), "interface")
    done = router.run("attach", "lo", status=2)
    assert done.stderr.strip() == f"xdpecmp: {said['found']}; {said['fix']}"


def test_unknown_interface(router: Small) -> None:
    done = router.run("doctor", "in0", "nosuch", status=2)
    assert done.stdout == ""
    assert done.lines == ["xdpecmp: no network device nosuch; list them: ip link show"]


def test_nothing_to_attach_to() -> None:
    with Namespace("bare") as bare:
        done = command("-n", bare.name, "doctor")
    assert done.status == 0
    assert "no Ethernet interface to attach to is up here" in done.stdout


@since(Since.XDP_FEATURES)
def test_a_device_without_native_xdp(router: Small) -> None:
    with ip(router, "link add m0 link in0 type macvlan", "link del m0"):
        rows = findings(router, "m0")
    (said,) = saying(rows, "mode")
    assert said["found"].startswith("macvlan: generic XDP, slower: no native XDP in its driver")


# --- attached ------------------------------------------------------------------------------------


@pytest.fixture
def attached(router: Small) -> Iterator[Small]:
    router.run("attach", "in0")
    yield router
    if router.instance.present():
        router.detach()


def test_attached(attached: Small) -> None:
    rows = findings(attached)
    assert bad(rows) == USUAL
    (said,) = [row for row in rows if row["check"] == "agent"]
    assert said["found"] == f"agent {attached.instance.agent_pid()} keeps in0 in sync"


def test_agent_killed(attached: Small) -> None:
    attached.kill_agent()
    (said,) = saying(findings(attached, status=1), "agent")
    assert said["verdict"] == "problem"
    assert said["fix"] == "xdpecmp attach in0"
    attached.run("attach", "in0")
    assert not saying(findings(attached), "agent")


def test_another_version(attached: Small) -> None:
    (attached.instance.run / "source").write_text("another")
    (said,) = saying(findings(attached), "instance")
    assert "of another version" in said["found"]
    assert "xdpecmp attach IFACE" in said["fix"]


def test_native_program_and_a_deaf_device(attached: Small) -> None:
    """Which a veth is while its peer has GRO off."""
    attached.run("attach", "in0", "--mode", "native")
    attached.peer.run("ethtool", "-K", "in1", "gro", "off")
    try:
        attached.ns.ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:00:02 dev in1")
        rows = saying(findings(attached, "in0"), "egress")
        # before Linux 6.3, which does not tell, it is said of in0 too
        (said,) = [row for row in rows if row["interface"] == "in1"]
        assert len(rows) == 1 or not kernel_has(Since.XDP_FEATURES)
        assert said["found"].startswith("what leaves by in1 passes to Linux")
        tells = kernel_has(Since.XDP_FEATURES)
        helps = "ethtool -K PEER gro on" if tells else "xdpecmp attach in0 --mode generic"
        assert said["fix"] == helps
    finally:
        attached.ns.ip("neigh del 10.1.0.2 dev in1")
        attached.peer.run("ethtool", "-K", "in1", "gro", "on")


# --- another user, another host ------------------------------------------------------------------


@since(Since.HASH_SEED)
@pytest.mark.parametrize("is_attached", [False, True])
def test_not_root(router: Small, is_attached: bool) -> None:
    """It says what it could not look at, and all that it could."""
    if is_attached:
        router.run("attach", "in0")
    try:
        with sysctl(router, "net.ipv4.fib_multipath_hash_seed", 0):
            done = command(
                "doctor", prefix=("nsenter", f"--net={router.ns.path}", "--"), program=AS_NOBODY
            )
    finally:
        if is_attached:
            router.detach()
    assert done.status == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines].count("problem") == 1
    assert lines[0].startswith("problem  not root")
    assert "sudo xdpecmp doctor" in lines[1]
    (unseen,) = [line for line in lines if "not looked at" in line]
    assert "IPsec policies" in unseen
    assert "nftables" in unseen
    # systemd mounts it so that nobody else can tell
    hidden = not os.stat("/sys/fs/bpf").st_mode & stat.S_IXOTH
    hidden = hidden or os.path.exists("/sys/fs/bpf/xdpecmp")  # with another's instance
    assert ("what is attached" in unseen) == (is_attached or hidden)
    assert "which takes root to look for" in done.stdout
    assert "nothing attached" not in done.stdout or not is_attached


def test_no_bpf_file_system(router: Small) -> None:
    umount = 'umount -l /sys/fs/bpf && exec "$@"'
    prefix = ("unshare", "-m", "-p", "-f", "--mount-proc", "sh", "-c", umount, "sh")
    done = router.run("doctor", status=1, prefix=prefix)
    first, second, *_ = done.stdout.splitlines()
    assert first == "problem  no bpf file system at /sys/fs/bpf"
    assert "mount -t bpf bpf /sys/fs/bpf" in second


def test_the_unrelated_bcc(router: Small, tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("'Crystal lattices.'\n")
    done = router.run("doctor", status=1, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("problem  the module bcc is not the BPF Compiler Collection")
    assert "pip uninstall bcc" in second


def test_privileges_missing(router: Small) -> None:
    """As in a container: root, but not of everything."""
    done = router.run("doctor", status=1, program=("setpriv", *DROP, *COMMAND))
    assert done.stdout.startswith("problem  root without CAP_NET_ADMIN")


DROP = ("--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")


def test_told_to_end(router: Small, tmp_path: Path) -> None:
    """In the middle of the trial, whose pins go."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "version.py").write_text("__version__ = '0'\n")
    (tmp_path / "bcc" / "libbcc.py").touch()
    # a compiler that takes forever
    (tmp_path / "bcc" / "__init__.py").write_text("import signal; signal.pause()\n")
    process = subprocess.Popen(
        [*COMMAND, "-n", router.ns.name, "doctor"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def trial() -> list[Path]:
        return list(BPFFS.glob(f"xdpecmp-doctor-{process.pid}-*"))

    wait_until(lambda: bool(trial()), "the trial", DEADLINE)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (128 + signal.SIGTERM, b"", b"")
    assert trial() == []


def test_told_to_end_right_behind_the_first_thing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def make_and_end(path: Path, mode: int) -> None:
        make(path, mode)
        sys.exit(128 + signal.SIGTERM)  # as the handler of the signal does

    monkeypatch.setattr(Path, "mkdir", make_and_end)
    with Kernel() as kernel, pytest.raises(SystemExit):
        _trial(kernel.settings(()))
    assert not list(BPFFS.glob(f"xdpecmp-doctor-{os.getpid()}-*"))
