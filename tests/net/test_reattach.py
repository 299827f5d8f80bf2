"""Interfaces that go and come back: attached to again, unless somebody took our program off."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from testbed.netns import Namespace, veth
from testbed.waiting import wait_until
from tests.net.command import ROOT
from tests.net.small import Small
from tests.net.test_attach import FOREIGN
from tests.net.topology import DEADLINE, agents, has_ended
from xdpecmp.netlink.netns import current_id


@pytest.fixture
def small() -> Iterator[Small]:
    with Small() as made:
        yield made


def shown(small: Small) -> tuple[dict[str, str], dict[str, str]]:
    """By name, the mode of what is attached and what is said of what is missing."""
    status = small.json("status")
    attached = {each["ifname"]: each["mode"] for each in status["interfaces"]}
    return attached, {each["ifname"]: each["why"] for each in status["missing"]}


def wait_for(small: Small, attached: dict[str, str], **missing: str) -> None:
    """Until just these are attached, and these are missing for that reason."""

    def holds() -> bool:
        found, why = shown(small)
        return (
            found == attached
            and why.keys() == missing.keys()
            and all(text in why[name] for name, text in missing.items())
        )

    wait_until(holds, f"{attached}, {missing}", DEADLINE)


def test_deleted_and_made_again(small: Small) -> None:
    """In the mode that was asked for; `status`, `doctor` and the log tell."""
    small.run("attach", "in0", "in1", "--mode", "native")
    small.ns.ip("link del in0")
    wait_for(small, {"in1": "native"}, in0="no such interface")
    assert "in0: there is no such interface" in small.run("status").stdout
    assert "in0 does not run our program" in small.run("doctor", "in1").stdout
    veth(small.ns, "in0", small.peer, "in0")
    wait_for(small, {"in0": "native", "in1": "native"})
    log = small.instance.log_file.read_text()
    assert "in0 is gone" in log
    assert "in0 is back: attached again, native mode" in log


def test_all_are_deleted_and_one_is_made_again(small: Small) -> None:
    small.run("attach", "in0", "in1")
    agent = small.agent()
    for name in ("in0", "in1"):
        small.ns.ip(f"link del {name}")
    wait_for(small, {}, in0="no such interface", in1="no such interface")
    veth(small.ns, "in1", small.peer, "in1")
    wait_for(small, {"in1": "generic"}, in0="no such interface")
    assert not has_ended(agent)
    os.close(agent)


def test_moved_away_and_back(small: Small) -> None:
    small.run("attach", "in0", "in1")
    with Namespace("elsewhere") as elsewhere:
        small.ns.ip(f"link set in0 netns {elsewhere.name}")
        wait_for(small, {"in1": "generic"}, in0="no such interface")
        wait_until(lambda: "prog/xdp" not in elsewhere.ip("link show in0"), "taken off", DEADLINE)
        elsewhere.ip(f"link set in0 netns {small.ns.name}")
        small.ns.ip("link set in0 up")
        wait_for(small, {"in0": "generic", "in1": "generic"})


def test_renamed(small: Small) -> None:
    """A program stays with its device, and so does the wish; the old name is forgotten."""
    small.run("attach", "in0", "in1")
    small.ns.ip("link set in0 down")  # before Linux 6.2 none is renamed while it is up
    small.ns.ip("link set in0 name lan0")
    small.ns.ip("link set lan0 up")
    wait_for(small, {"lan0": "generic", "in1": "generic"})
    wait_until(lambda: "lan0" in small.instance.wanted(), "recorded", DEADLINE)
    small.ns.ip("link del lan0")
    wait_for(small, {"in1": "generic"}, lan0="no such interface")
    small.ns.ip("link add new0 type veth peer name new1")
    small.ns.ip("link set new0 name lan0")  # as udev does; no event tells of a device that is down
    wait_for(small, {"lan0": "generic", "in1": "generic"})
    small.wait_for_status(passed=[])
    assert "taken off" not in small.instance.log_file.read_text()


def test_what_somebody_takes_off_stays_off(small: Small) -> None:
    small.run("attach", "in0", "in1")
    small.ns.ip("link set dev in0 xdpgeneric off")
    wait_for(small, {"in1": "generic"}, in0="somebody has taken the program off")
    wait_until(
        lambda: "in0 does not run our program any more" in small.instance.log_file.read_text(),
        "logged",
        DEADLINE,
    )
    small.ns.ip("link set in1 alias x")  # an event, and so another look at all
    small.run("attach", "in1")  # by the next agent neither
    assert shown(small)[0] == {"in1": "generic"}
    small.run("attach", "in0")
    assert shown(small) == ({"in0": "generic", "in1": "generic"}, {})


def test_anothers_program_is_not_touched(small: Small) -> None:
    """It was there first when the interface came back."""
    small.run("attach", "in0", "in1")
    agent = small.instance.agent_pid()
    small.kill_agent()
    small.ns.ip("link del in0")
    small.ns.ip("link add in0 type veth peer name in0-peer")
    stubs = os.environ | {"BCC_KERNEL_SOURCE": str(ROOT / "bpf" / "uapi")}
    small.ns.run(sys.executable, "-c", FOREIGN, "in0", env=stubs)
    theirs = small.program_id("in0")
    small.run("attach", "in1")
    assert small.instance.agent_pid() != agent
    wait_for(small, {"in1": "generic"}, in0=f"another XDP program (id {theirs})")
    wait_until(
        lambda: (
            "cannot attach to in0 again: in0 already has" in small.instance.log_file.read_text()
        ),
        "logged",
        DEADLINE,
    )
    assert small.program_id("in0") == theirs
    small.ns.ip("link set dev in0 xdp off")
    wait_for(small, {"in0": "generic", "in1": "generic"})


def test_detach_forgets(small: Small) -> None:
    small.run("attach", "in0", "in1")
    small.ns.ip("link del in0")
    wait_for(small, {"in1": "generic"}, in0="no such interface")
    assert small.run("detach", "in0").lines == ["in0: detached"]
    assert shown(small) == ({"in1": "generic"}, {})
    small.run("detach", "in1")
    assert small.remains() == []


def test_in_a_namespace_that_nobody_could_use_again_nothing_stays() -> None:
    """One without a name, and without a process."""
    script = """
        ip link add in0 type veth peer name in1 && {python} -m xdpecmp attach in0 2>&1 &&
        readlink /proc/self/ns/net && ip link del in0
    """
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script.format(python=sys.executable)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    nsid = int(done.stdout.split("net:[")[1].rstrip("]\n"))
    assert nsid != current_id()
    wait_until(lambda: not agents(nsid), "the agent ended", 3 * DEADLINE)
