"""What `attach` and `detach` do, and what they and the others refuse.

A refusal is exit status 2 and one line on stderr that names the thing and the remedy, and leaves
everything as it was: no program, no pin, no process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from testbed.netns import Namespace
from testbed.waiting import PATIENCE, wait_until
from tests.net.command import AS_NOBODY, COMMAND, ROOT, command
from tests.net.small import Small
from tests.net.topology import DEADLINE, has_ended
from xdpecmp.instance.instance import RUN

pytestmark = pytest.mark.root

FOREIGN = """
import bcc, sys
program = bcc.BPF(text="int pass(struct xdp_md *ctx) { return XDP_PASS; }")
bcc.BPF.attach_xdp(sys.argv[1], program.load_func("pass", bcc.BPF.XDP), 0)
"""
"""An XDP program of somebody else's, which stays attached when its loader ends."""


def put_foreign(namespace: Namespace, device: str) -> None:
    stubs = os.environ | {"BCC_KERNEL_SOURCE": str(ROOT / "bpf" / "uapi")}
    namespace.run(sys.executable, "-c", FOREIGN, device, env=stubs)


@pytest.fixture(scope="module")
def router() -> Iterator[Small]:
    """Besides the two veths it has a bridge, a tun device, and `foreign` with another's program."""
    with Small() as made:
        made.ns.ip("link add foreign type veth peer name foreign-peer")
        made.ns.ip("link set foreign up")
        made.ns.ip("link add br0 type bridge")
        made.ns.ip("link set br0 up")
        made.ns.ip("tuntap add dev tun0 mode tun")
        put_foreign(made.ns, "foreign")
        assert made.program_id("foreign")
        yield made


@pytest.fixture
def detached(router: Small) -> Iterator[Small]:
    """Nothing of ours is there before the test, nor after it."""
    yield router
    if router.instance.present():
        router.detach()
    left = router.remains()
    for name in ("in0", "in1", "br0"):  # for the next test's sake
        router.ns.ip(f"link set dev {name} xdp off")
    assert left == ["XDP program on foreign"]


def refuse(router: Small, *arguments: str, thing: str, remedy: str = "", **options: object) -> None:
    """Expect a refusal that changes nothing."""
    before = router.remains(), router.ns.ip("-j link show")
    done = router.run(*arguments, status=2, **options)
    assert (router.remains(), router.ns.ip("-j link show")) == before
    assert done.stdout == ""
    assert len(done.lines) == 1, done.stderr
    assert done.stderr.startswith("xdpecmp: ")
    assert thing in done.stderr
    assert remedy in done.stderr


# --- refused ------------------------------------------------------------------------------------

REFUSED = {
    "unknown interface": ("attach nosuch", "nosuch", "ip link show"),
    "one good, one unknown": ("attach in0 nosuch", "nosuch", "ip link show"),
    "loopback": ("attach lo", "lo has no Ethernet header", "ip -br link show"),
    "tun": ("attach tun0", "tun0 has no Ethernet header", "ip -br link show"),
    "one good, one tun": ("attach in0 tun0", "tun0", "ip -br link show"),
    "another's program": (
        "attach foreign",
        "foreign already has an XDP program",
        "bpftool prog show",
    ),
    "one good, one taken": ("attach in0 foreign", "foreign", "bpftool prog show"),
    "no native XDP": ("attach br0 --mode native", "br0", "--mode generic"),
    "one good, one without": ("attach in0 br0 --mode native", "br0", "--mode generic"),
    "no interface": ("attach", "IFACE", "xdpecmp attach --help"),
    "unknown mode": ("attach in0 --mode fast", "fast", "xdpecmp attach --help"),
    "unknown option": ("attach in0 --nosuch", "--nosuch", "xdpecmp attach --help"),
    "unknown command": ("frobnicate", "frobnicate", "xdpecmp --help"),
    "detach, nothing there": ("detach in0", "in0", "xdpecmp"),
    "detach all, nothing there": ("detach --all", "not attached", "xdpecmp attach IFACE"),
    "detach, unknown interface": ("detach nosuch", "nosuch", "ip link show"),
    "detach another's program": ("detach foreign", "foreign", "xdpecmp status"),
    "detach what": ("detach", "--all", "xdpecmp detach --help"),
    "detach both": ("detach --all in0", "--all", "xdpecmp detach --help"),
    "status": ("status", "not attached", "xdpecmp attach IFACE"),
    "routes": ("routes", "not attached", "xdpecmp attach IFACE"),
    "stats": ("stats -j", "not attached", "xdpecmp attach IFACE"),
    "no prefix": ("routes 10.0.0.0/33", "10.0.0.0/33", "xdpecmp routes --help"),
    "host bits": ("routes 10.0.0.1/8", "10.0.0.1/8", "xdpecmp routes --help"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(detached: Small, name: str) -> None:
    arguments, thing, remedy = REFUSED[name]
    refuse(detached, *arguments.split(), thing=thing, remedy=remedy)


@pytest.mark.parametrize("name", ["nosuch-namespace", "", "../net", "."])
def test_no_such_namespace(name: str) -> None:
    done = command("-n", name, "status")
    assert done.status == 2
    assert done.stdout == ""
    assert len(done.lines) == 1
    assert f"no network namespace named {name}" in done.stderr
    assert "ip netns list" in done.stderr


def test_no_bpf_file_system(detached: Small) -> None:
    umount = 'umount -l /sys/fs/bpf && exec "$@"'
    refuse(
        detached,
        *("attach", "in0"),
        prefix=("unshare", "-m", "-p", "-f", "--mount-proc", "sh", "-c", umount, "sh"),
        thing="no bpf file system at /sys/fs/bpf",
        remedy="mount -t bpf bpf /sys/fs/bpf",
    )


def inside(router: Small) -> tuple[str, ...]:
    """What runs a command in the namespace, with root's help."""
    return ("nsenter", f"--net={router.ns.path}", "--")


@pytest.mark.parametrize("attached", [False, True])
def test_not_root(detached: Small, attached: bool) -> None:
    """Neither from outside the namespace nor inside it."""
    refuse(detached, "status", program=AS_NOBODY, thing="entering", remedy="sudo")
    commands = ["attach in0", "detach --all"]
    if attached:
        detached.run("attach", "in0")
        commands += ["status", "routes -j", "stats", "routes 10.0.0.0/8"]
    before = detached.remains()
    for arguments in commands:
        done = command(*arguments.split(), prefix=inside(detached), program=AS_NOBODY)
        assert detached.remains() == before
        assert done.status == 2
        assert done.stdout == ""
        assert len(done.lines) == 1
        assert "not permitted" in done.stderr, arguments
        assert "sudo" in done.stderr, arguments


# --- modes --------------------------------------------------------------------------------------


def modes(router: Small) -> dict[str, str]:
    return {each["ifname"]: each["mode"] for each in router.json("status")["interfaces"]}


def test_auto_takes_what_there_is(detached: Small) -> None:
    """A bridge has no native XDP; a veth has, but leaves checksums unfinished."""
    done = detached.run("attach", "in0", "br0")
    assert modes(detached) == {"in0": "generic", "br0": "generic"}
    assert "br0: attached, generic mode" in done.lines
    why, what = [line for line in done.lines if line.startswith("note: br0")]
    assert "no native XDP" in why
    assert "gets frames without their VLAN tags: all it receives passes to Linux" in what
    assert done.stdout == ""


@pytest.mark.parametrize(("first", "second"), [("native", "generic"), ("generic", "native")])
def test_the_mode_can_be_changed(detached: Small, first: str, second: str) -> None:
    detached.run("attach", "in0", "in1", "--mode", first)
    assert modes(detached) == {"in0": first, "in1": first}
    detached.run("attach", "in1", "--mode", second)
    assert modes(detached)["in1"] == second


def test_attached_again_it_keeps_its_mode_and_covers_all(detached: Small) -> None:
    """An upgrade names one interface and renews the program on each."""
    detached.run("attach", "in0", "in1", "--mode", "native")
    before = {name: detached.program_id(name) for name in ("in0", "in1")}
    detached.run("attach", "in0")
    after = {name: detached.program_id(name) for name in ("in0", "in1")}
    assert modes(detached) == {"in0": "native", "in1": "native"}
    assert len(set(before.values())) == len(set(after.values())) == 1
    assert set(before.values()).isdisjoint(after.values())


def test_what_is_refused_later_leaves_what_was_there(detached: Small) -> None:
    detached.run("attach", "in0", "--mode", "native")
    before = detached.program_id("in0"), detached.json("status")["agent_pid"]
    refuse(detached, "attach", "in1", "nosuch", thing="nosuch")
    refuse(detached, "attach", "foreign", thing="foreign")
    assert (detached.program_id("in0"), detached.json("status")["agent_pid"]) == before


def test_a_mode_that_is_refused_later_stops_nothing(detached: Small) -> None:
    """It comes out only when the program is built and the agent told to go."""
    detached.run("attach", "in0", "--mode", "native")
    done = detached.run("attach", "br0", "--mode", "native", status=2)
    assert len(done.lines) == 1
    assert modes(detached) == {"in0": "native"}
    assert detached.json("status")["agent_pid"], "the instance has lost its agent"


def test_a_mode_that_is_refused_leaves_the_other(detached: Small) -> None:
    detached.run("attach", "br0", "in0", "--mode", "generic")
    refused = detached.run("attach", "in0", "br0", "--mode", "native", status=2)
    assert "--mode generic" in refused.stderr
    assert modes(detached) == {"br0": "generic", "in0": "generic"}
    assert detached.json("status")["agent_pid"], "the instance has lost its agent"


# --- detach -------------------------------------------------------------------------------------


def test_one_of_two(detached: Small) -> None:
    detached.run("attach", "in0", "in1")
    agent = detached.agent()
    refuse(detached, "detach", "br0", thing="br0 does not run our program", remedy="status")
    refuse(detached, "detach", "in0", "br0", thing="br0 does not run our program")
    done = detached.detach("in0")
    assert done.lines == ["in0: detached"]
    assert not detached.program_id("in0")
    assert detached.program_id("in1")
    assert not has_ended(agent)
    assert list(modes(detached)) == ["in1"]
    done = detached.detach("in1")
    assert done.lines == ["in1: detached"]
    wait_until(lambda: has_ended(agent), "agent ended", DEADLINE)
    os.close(agent)


def test_only_ours(detached: Small) -> None:
    """`detached` sees to it that the other program is still there."""
    foreign = detached.program_id("foreign")
    detached.run("attach", "in0", "in1")
    refuse(detached, "detach", "foreign", thing="foreign", remedy="xdpecmp status")
    assert sorted(detached.detach().lines) == ["in0: detached", "in1: detached"]
    assert detached.program_id("foreign") == foreign


def test_neighbours_are_given_back(detached: Small) -> None:
    """While attached, a gateway is kept resolved for us; afterwards it is as it was."""
    detached.ns.ip("addr add 10.5.0.1/24 dev in0")
    detached.peer.ip("addr add 10.5.0.2/24 dev in0")
    detached.ns.ip("route add 203.0.113.0/24 via 10.5.0.2")
    detached.run("attach", "in0")
    wait_until(lambda: "managed" in detached.ns.ip("neigh show dev in0"), "managed", DEADLINE)
    detached.detach()
    assert "managed" not in detached.ns.ip("neigh show dev in0")
    detached.ns.ip("addr flush dev in0")


# --- devices on top of each other ----------------------------------------------------------------


@pytest.fixture
def stack(detached: Small) -> Iterator[Small]:
    """A macvlan on in0, and in1 in a bridge."""
    detached.ns.ip("link add mv0 link in0 type macvlan mode private")
    detached.ns.ip("link add br1 type bridge")
    detached.ns.ip("link set in1 master br1")
    yield detached
    if detached.instance.present():
        detached.detach()
    detached.ns.ip("link del mv0")
    detached.ns.ip("link del br1")


STACK = ("in0", "in1", "mv0", "br1")


def programs(router: Small) -> dict[str, int]:
    return {name: router.program_id(name) for name in STACK}


@pytest.mark.parametrize(
    "order", [STACK, STACK[::-1], ("mv0", "in1", "br1", "in0")], ids=lambda names: "-".join(names)
)
def test_a_set_with_devices_on_top_of_each_other(stack: Small, order: Sequence[str]) -> None:
    """One after the other, upgraded, in another mode, and off again in any order."""
    for name in order:
        stack.run("attach", name)
    before = programs(stack)
    assert all(before.values())
    stack.run("attach", order[0])
    after = programs(stack)
    assert len({*after.values()}) == 1
    assert not {*after.values()} & {*before.values()}
    stack.run("attach", "in0", "in1", "--mode", "generic")
    stack.run("detach", "in0", "in1")
    assert [name for name, number in programs(stack).items() if number] == ["mv0", "br1"]
    stack.run("attach", *order)
    stack.detach()
    assert not any(programs(stack).values())


def test_a_program_of_somebody_else_on_top_is_in_the_way(stack: Small) -> None:
    """It is named, and nothing changes, neither by attaching nor by detaching."""
    stack.run("attach", "in0", "in1")
    put_foreign(stack.ns, "mv0")
    before = programs(stack)
    for arguments in (("attach", "in0"), ("attach", "in1"), ("detach", "in0"), ("detach", "--all")):
        done = stack.run(*arguments, status=2)
        assert "while mv0, on top of it, has one, which is not ours" in done.stderr
        assert "bpftool prog show id" in done.stderr
        assert programs(stack) == before
        assert stack.status()["agent_pid"]
    stack.run("detach", "in1")
    stack.ns.ip("link set dev mv0 xdpgeneric off")


def test_a_program_on_top_that_cannot_be_seen_here(stack: Small) -> None:
    """In another namespace."""
    stack.ns.ip(f"link set mv0 netns {stack.peer.name}")
    try:
        put_foreign(stack.peer, "mv0")
        done = stack.run("attach", "in0", status=2)
        assert len(done.lines) == 1
        assert "in0" in done.stderr
        assert "on top of it, in another network namespace perhaps, has one" in done.stderr
        stack.peer.ip("link set dev mv0 xdpgeneric off")
    finally:
        stack.peer.ip(f"link set mv0 netns {stack.ns.name}")


@pytest.mark.parametrize("held", [STACK, ("in0", "mv0"), ("in1", "br1"), ("in0", "in1")])
def test_what_fails_half_way_leaves_a_stack_as_it_was(stack: Small, held: Sequence[str]) -> None:
    """The veths change their mode, then what is on top of them refuses."""
    stack.run("attach", *held)
    before = programs(stack), modes(stack)
    stack.run("attach", *STACK, "--mode", "native", status=2)
    assert (programs(stack), modes(stack)) == before
    assert stack.status()["agent_pid"]


@pytest.mark.parametrize("by", ["name", "path", "process"])
def test_a_namespace_by_name_path_or_process(detached: Small, by: str) -> None:
    """Advice is for that namespace, too."""
    with subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{detached.ns.name}", "cat"], stdin=subprocess.PIPE
    ) as lives_there:
        place = {
            "name": detached.ns.name,
            "path": f"/run/netns/{detached.ns.name}",
            "process": str(lives_there.pid),
        }[by]
        prefix = {
            "name": f"ip -n {place} ",
            "path": f"nsenter --net={place} ip ",
            "process": f"nsenter --net=/proc/{place}/ns/net ip ",
        }[by]
        wait_until(
            lambda: (
                Path(f"/proc/{lives_there.pid}/ns/net").stat().st_ino
                == Path(f"/run/netns/{detached.ns.name}").stat().st_ino
            ),
            "it is there",
        )
        done = command("-n", place, "attach", "nosuch", as_typed=True)
        assert done.stderr == (f"xdpecmp: no network device nosuch; list them: {prefix}link show\n")
        done = command("-n", place, "status", as_typed=True)
        assert done.stderr.endswith(f"attach it: xdpecmp -n {place} attach IFACE\n")
        lives_there.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("delay", [0.01, 0.2, 0.25, 0.3])
def test_told_to_end_during_an_upgrade(detached: Small, number: int, delay: float) -> None:
    """Whenever that is: afterwards either program runs, it is ours, and an agent follows. `delay`
    counts from when the command has its lock."""
    detached.attach("in0")
    name = detached.ns.name
    lock = RUN / f"{detached.instance.nsid}.lock"
    with subprocess.Popen([*COMMAND, "-n", name, "attach", "in0"], stderr=subprocess.PIPE) as run:
        wait_until(lambda: lock.exists() or run.poll() is not None, "it has begun", DEADLINE)
        try:
            run.wait(delay)
        except subprocess.TimeoutExpired:
            run.send_signal(number)
        # once it was done, the signal ends it as it ends anything; Python ends itself by SIGINT
        # if the exception came while exec() made a dataclass
        assert run.wait(30 * PATIENCE) in (0, 130, -number, -signal.SIGINT)
    status = detached.json("status")
    assert [row["ifname"] for row in status["interfaces"]] == ["in0"]
    assert status["agent_pid"]
    detached.run("attach", "in0")
    detached.run("detach", "--all")
    assert detached.remains() == ["XDP program on foreign"]
