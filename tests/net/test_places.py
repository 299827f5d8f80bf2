"""Where pins and files are: found from every mount namespace, and safe from other users."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.waiting import PATIENCE, wait_until
from tests.net.command import COMMAND, ROOT, command
from tests.net.small import Small
from tests.net.topology import DEADLINE, has_ended
from xdpecmp.instance.instance import BPFFS, RUN

NOBODY = 65534
ANOTHER_HOST = ("unshare", "-m", "-p", "-f", "--mount-proc", "sh", "-c")


@pytest.fixture
def small() -> Iterator[Small]:
    with Small() as made:
        yield made


def as_by_ip_netns_exec(small: Small) -> tuple[str, ...]:
    return ("ip", "netns", "exec", small.ns.name)


# --- mount namespaces ----------------------------------------------------------------------------


def test_under_ip_netns_exec(small: Small) -> None:
    """Every command works there, and finds what was attached from outside, and the other way."""
    there = as_by_ip_netns_exec(small)
    done = command("attach", "in0", "in1", prefix=there)
    assert done.status == 0, done.stderr
    assert any("xdpecmp -n NETNS" in line for line in done.lines)
    assert len(small.json("status")["interfaces"]) == 2
    for words in ("status", "routes", "stats", "doctor in0", "verify", "-n {} status"):
        arguments = words.format(small.ns.name).split()
        done = command(*arguments, prefix=there)
        assert done.status in (0, 1), (words, done)  # verify has nothing to compare
        assert done.stdout or words == "verify", words
    agent = small.agent()
    small.run("attach", "in0")  # takes over
    assert has_ended(agent)
    os.close(agent)
    assert command("attach", "in0", prefix=there).status == 0
    assert command("detach", "in0", prefix=there).lines == ["in0: detached"]
    small.run("detach", "--all")
    assert small.remains() == []


def test_a_bpf_file_system_mounted_there_changes_nothing(small: Small) -> None:
    mount = 'mount -t bpf bpf /sys/fs/bpf && exec "$@"'
    prefix = (*as_by_ip_netns_exec(small), "sh", "-c", mount, "sh")
    assert command("attach", "in0", prefix=prefix).status == 0
    assert [each["ifname"] for each in small.json("status")["interfaces"]] == ["in0"]
    small.detach()
    assert small.remains() == []


def test_one_that_the_host_has_not_is_refused(small: Small) -> None:
    """In a process namespace whose first process has none."""
    script = """
        umount -l /sys/fs/bpf
        unshare --mount sh -c 'mount -t bpf bpf /sys/fs/bpf && "$@"' sh "$@"
    """
    prefix = ("unshare", "-m", "-p", "-f", "--mount-proc", "sh", "-c", script, "sh")
    done = small.run("attach", "in0", status=2, prefix=prefix)
    assert len(done.lines) == 1
    assert "is this mount namespace's own" in done.stderr
    assert "xdpecmp -n NETNS" in done.stderr
    assert small.remains() == []


def test_the_agent_ends_with_a_namespace_that_was_entered_otherwise() -> None:
    """It has a name all the same."""
    small = Small()
    with small:
        command("attach", "in0", prefix=as_by_ip_netns_exec(small))
        agent = small.agent()
        small.ns.close()
        wait_until(lambda: small.gone(agent), "everything gone", DEADLINE)
        os.close(agent)


# --- other users ---------------------------------------------------------------------------------


def modes(*paths: Path) -> set[int]:
    return {stat.S_IMODE(path.lstat().st_mode) for path in paths}


def test_nobody_gets_in_whatever_the_umask(small: Small) -> None:
    small.run("attach", "in0", prefix=("sh", "-c", 'umask 0; exec "$@"', "sh"))
    directory = small.instance.run
    assert modes(RUN, directory, BPFFS / "xdpecmp", small.instance.directory) == {0o700}
    assert modes(*directory.iterdir()) == {0o600}
    assert {"agent.pid", "agent.log", "options.json"} <= {path.name for path in directory.iterdir()}


def test_a_lock_on_the_process_number_stops_nothing(small: Small) -> None:
    """As a user could hold who opened the file of an earlier version, which anybody could read."""
    small.run("attach", "in0")
    path = small.instance.run / "agent.pid"
    small.kill_agent()
    path.chmod(0o644)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert small.json("status")["agent_pid"] is None
        small.run("attach", "in0")
    assert small.json("status")["agent_pid"]


def test_a_process_number_that_is_anothers_by_now(small: Small) -> None:
    """The lock is held, but not by whom the file names."""
    small.run("attach", "in0")
    small.kill_agent()
    victim = subprocess.Popen(["sleep", "60"])
    try:
        path = small.instance.run / "agent.pid"
        path.write_text(f"{victim.pid}\n")
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert small.json("status")["agent_pid"] is None
            small.run("attach", "in0")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_log_that_is_a_symlink_is_not_followed(small: Small, tmp_path: Path) -> None:
    small.run("attach", "in0")
    small.kill_agent()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    log = small.instance.log_file
    log.unlink(missing_ok=True)
    log.symlink_to(victim)
    small.run("attach", "in0")
    assert victim.read_text() == "precious"
    assert log.is_file()
    assert not log.is_symlink()


def on_another_host(small: Small, prepare: str, *arguments: str) -> tuple[int, str]:
    """Run a command as on a host of its own: with an empty /run, bpf file system and cache that
    `prepare` does something to. Its status, and what it says."""
    handle = os.open(small.ns.path, os.O_RDONLY)
    try:
        script = f"""
            mount -t tmpfs -o mode=0755 none /run
            mount -t bpf -o mode=1777 bpf /sys/fs/bpf
            mount -t tmpfs -o mode=0700 none /var/cache
            {prepare}
            exec nsenter --net=/proc/self/fd/{handle} -- "$@"
        """
        done = subprocess.run(
            [*ANOTHER_HOST, script, "sh", *COMMAND, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=(handle,),
        )
    finally:
        os.close(handle)
    return done.returncode, done.stderr


TAKEN = {
    "pins": (
        f"mkdir /sys/fs/bpf/xdpecmp; chown {NOBODY} /sys/fs/bpf/xdpecmp",
        "/sys/fs/bpf/xdpecmp",
    ),
    "files": (f"mkdir /run/xdpecmp; chown {NOBODY} /run/xdpecmp", "/run/xdpecmp"),
    "symlink": ("mkdir /run/a; ln -s /run/a /run/xdpecmp", "/run/xdpecmp"),
    "pins below": (
        "mkdir -p /sys/fs/bpf/xdpecmp/{nsid}; chown {nobody} /sys/fs/bpf/xdpecmp/{nsid}",
        "/sys/fs/bpf/xdpecmp/{nsid}",
    ),
    "writable bpffs": ("chmod 0777 /sys/fs/bpf", "/sys/fs/bpf"),
    "writable run": ("chmod 0777 /run", "/run"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_somebody_has_taken_first_is_refused(small: Small, name: str) -> None:
    prepare, thing = (
        text.replace("{nsid}", str(small.instance.nsid)).replace("{nobody}", str(NOBODY))
        for text in TAKEN[name]
    )
    status, stderr = on_another_host(small, prepare, "attach", "in0")
    assert status == 2
    assert stderr.startswith(f"xdpecmp: {thing} is ")
    assert stderr.count("\n") == 1
    assert not small.program_id("in0")


def test_nor_does_doctor_pin_anything_there(small: Small) -> None:
    status, stderr = on_another_host(small, "chmod 0777 /sys/fs/bpf", "doctor", "in0")
    assert (status, stderr) == (1, "")


def test_what_somebody_has_taken_is_a_finding_of_doctors(small: Small) -> None:
    prepare = f"install -d -o {NOBODY} /sys/fs/bpf/xdpecmp"
    status, stderr = on_another_host(small, prepare, "doctor", "in0")
    assert (status, stderr) == (1, "")


# --- a namespace's number is used again ----------------------------------------------------------


def test_what_a_dead_namespace_left_is_not_inherited(small: Small) -> None:
    """Inode numbers are given to new namespaces; what an agent left that was killed goes."""
    small.run("attach", "in0", "--flow-label", "ignore")
    small.kill_agent()
    small.ns.ip("link set dev in0 xdpgeneric off")
    path = small.instance.run / "namespace"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"cookie": told["cookie"] + 1}))
    pins = {each.name for each in small.instance.directory.iterdir()}
    done = small.run("status", status=2)
    assert "not attached" in done.stderr
    small.run("attach", "in1")
    status = small.json("status")
    assert status["flow_label"] == "follow"
    assert status["missing"] == []
    assert [each["ifname"] for each in status["interfaces"]] == ["in1"]
    left = {each.name for each in small.instance.directory.iterdir()} & pins
    assert not [name for name in left if name.startswith("xdpecmp_")]


def test_leftovers_of_namespaces_that_are_gone_are_swept(small: Small) -> None:
    """65 MiB each. Not those of one that is there, though its agent is dead."""
    with Small() as dead:
        dead.run("attach", "in0")
        dead.kill_agent()
        nsid = dead.instance.nsid
        small.run("attach", "in0")
        assert (BPFFS / "xdpecmp" / str(nsid)).exists()
        dead.ns.close()
    small.run("attach", "in0")
    assert not (BPFFS / "xdpecmp" / str(nsid)).exists()
    assert not (RUN / str(nsid)).exists()
    assert small.json("status")["agent_pid"]


# --- a namespace that has no name ----------------------------------------------------------------


def test_an_agent_alone_does_not_keep_its_namespace() -> None:
    """Nobody else could get into it, nor would its pins ever go."""
    script = (
        "ip link add a0 type veth peer name a1; ip link set a0 up; ip link set a1 up; "
        f"{' '.join(COMMAND)} attach a0 && {' '.join(COMMAND)} status -j"
    )
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60 * PATIENCE,
    )
    agent = os.pidfd_open(json.loads(done.stdout)["agent_pid"])
    try:
        wait_until(lambda: has_ended(agent), "the agent gone", 6 * DEADLINE)
    finally:
        os.close(agent)
