"""Attaching and detaching: the order in which an instance comes to life and goes.

Attach: build, and read the kernel meanwhile; stop the agent that may run, sync the maps, lease,
then the program on the NIC, then an agent of our own, which has heard all changes since the kernel
was read. So no packet meets a program whose maps are not right, and what fails before the NIC is
touched leaves nothing. Detach goes the other way.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import places
from ..agent import journal
from ..agent.signals import ended_by_exception, undisturbed
from ..dataplane import counters
from ..errors import NoSuchInterface, NotPermitted, XdpecmpError
from ..instance.instance import BPFFS, Busy, Instance, NotAttached, machine_seed
from ..model.options import Options, Wanted
from ..model.values import Link
from ..netlink import Changes, Kernel, Monitor, netns
from ..observe import losses
from ..observe.missing import missing
from ..program import libbpf
from ..program.build import Build, Variant, new_generation
from .astray import take_off
from .attachment import (
    Attached,
    attach_all,
    bottom_up,
    check_above,
    check_interfaces,
    detach_all,
    detach_one,
    expanded,
)
from .leftovers import sweep

if TYPE_CHECKING:
    from ..agent.mirror import Mirror

# --- attach -------------------------------------------------------------------------------------


class Wishes(NamedTuple):
    """How to attach; None: as it was."""

    mode: str = "auto"
    """One of attachment.MODES."""
    set_seed: bool = False
    """Where Linux keeps its hash seed to itself, give it one that is known."""
    flow_label: str | None = None
    """One of options.FLOW_LABEL."""
    own_seed: bool | None = None
    """Whether to hash with a seed of ours where Linux's is not known."""
    bypass_firewall: bool | None = None
    """Whether to forward past a firewall, NAT, connection tracking and traffic control."""

    def wanted(self, before: Mapping[str, Wanted], links: Sequence[Link]) -> dict[str, Wanted]:
        """The interfaces that are to run our program from now on: these and those of before."""
        wanted = dict(before)
        for link in links:
            earlier = before.get(link.name, Wanted())
            mode = earlier.mode if self.mode == "auto" else self.mode
            wanted[link.name] = Wanted(mode, link.ifindex)
        return wanted

    def options(self, before: Options) -> Options:
        """What holds from now on."""
        options = before.updated(flow_label=self.flow_label, bypass_firewall=self.bypass_firewall)
        if self.own_seed is not None:
            options = replace(options, own_seed=machine_seed() if self.own_seed else None)
        return options


def attach(
    names: Sequence[str],
    wishes: Wishes | None = None,
    namespace: str | None = None,
    foreground: Callable[[Attached], None] | None = None,
) -> Attached:
    """Attach to the named interfaces of the current namespace, or upgrade what is attached.

    `namespace` is the name the user gave it, if any: the agent ends with it. With `foreground` the
    agent runs in this process once that was called; otherwise it is left running behind.
    Raises XdpecmpError; then nothing has changed, but for interfaces attached before.
    """
    if os.geteuid() != 0:
        raise NotPermitted("attaching an XDP program")
    instance = Instance()
    sweep(instance.nsid)
    with ExitStack() as until_ended:
        with ended_by_exception(), instance.changing(), Kernel() as kernel:
            links = check_interfaces(kernel.links(), instance.program_ids(), names)
            fresh, generation = not instance.present(), new_generation()
            fresh_version, done = not instance.directory.is_dir(), False
            monitor = until_ended.enter_context(kernel.monitor())
            attempt = _Attempt(instance, kernel, monitor, links, wishes or Wishes(), generation)
            try:
                mirror = _prepare(attempt)
                with undisturbed():
                    result = _switch(attempt, mirror)
                    if not foreground:
                        _fork_agent(instance, mirror, monitor, namespace)
                        done = True
            except BaseException:
                if done:
                    raise  # told to end when all was done
                with undisturbed():
                    if fresh:
                        _tear_down(instance, kernel)
                    else:
                        _undo(attempt, fresh_version)
                        _resume(instance, kernel, monitor, namespace)
                raise
        if foreground:
            foreground(result)
            journal.to_stderr()
            _run_agent(instance, mirror, monitor, namespace, in_front=True)
    return result


class _Attempt(NamedTuple):
    """What one `attach` works with."""

    instance: Instance
    kernel: Kernel
    monitor: Monitor
    links: Sequence[Link]
    wishes: Wishes
    generation: str


def _undo(attempt: _Attempt, fresh_version: bool) -> None:
    """An upgrade failed: what runs on the interfaces stays, and nothing else."""
    instance, generation = attempt.instance, attempt.generation
    running = {link.xdp_prog_id for link in attempt.kernel.links().values() if link.xdp_prog_id}
    if instance.program_id(generation) in running:  # the new program is there already
        instance.remove_other_versions(generation)
        with suppress(FileNotFoundError):
            instance.commit()
        return
    instance.unstage()
    instance.forget_generation(generation)
    if fresh_version:
        instance.forget_version()


def _prepare(attempt: _Attempt) -> Mirror:
    """All that can be done before an earlier agent is disturbed: build, and read the kernel."""
    instance, kernel, _, links, wishes, generation = attempt
    instance.prepare()
    options = wishes.options(instance.options())
    ours = {link.ifindex for link in links}
    with ExitStack() as builds:
        build = Build(instance.directory, generation)
        builds.callback(build.abandon)
        mirror = _new_mirror(instance, kernel, generation, options)
        builds.callback(mirror.abandon)
        mirror.begin()
        mirror.compile(ours)
        instance.save_layout(build.result())
        mirror.complete()
    instance.stage(options, wishes.wanted(instance.wanted(), links))
    return mirror


def _switch(attempt: _Attempt, mirror: Mirror) -> Attached:
    """Bring the data path up, taking over from an earlier one if there is one."""
    from ..agent.loop import EVERYTHING
    from .check import notes

    instance, kernel, monitor, links, wishes, generation = attempt
    ours = {link.ifindex for link in links}
    instance.stop_agent()
    if monitor.drain():
        mirror.pull(EVERYTHING)  # building took its time
    _open(mirror, instance)
    mirror.push(ours)
    mirror.settle_buckets()
    mirror.renew_lease()
    program = instance.open_program(generation)
    try:
        result = attach_all(kernel, links, program, wishes.mode, mirror.snapshot.links)
    finally:
        os.close(program)
    if wishes.set_seed and mirror.snapshot.settings.seed is None:
        kernel.set_seed(1 + int.from_bytes(os.urandom(8), "little") % 0xFFFFFFFF)
    # now with the programs and their modes; what changes from here on the agent will hear of
    changed = bool(monitor.drain())
    mirror.pull(EVERYTHING if changed else Changes(links=True, settings=True, neighbours=True))
    mirror.push()
    mirror.keep_resolved()
    mirror.renew_lease()
    _carry_counters(instance)
    instance.remove_other_versions(generation)
    _record_losses(instance, kernel)
    instance.commit()
    if places.root().borrowed:
        result.notes.append(
            "this process has a /sys of its own, as under `ip netns exec`: everything is pinned in "
            f"the host's {BPFFS}, as by `xdpecmp -n NETNS`"
        )
    result.notes += notes(mirror)
    return result


def _carry_counters(instance: Instance) -> None:
    """Of programs with another layout of the maps, which run on no interface any more."""
    others = instance.other_versions()
    if others:
        libbpf.wait_for_readers()  # of packets that they still have in hand
        with instance.open_maps() as maps:
            for directory, layout in others:
                counters.carry_over(directory, layout, maps)


def _record_losses(instance: Instance, kernel: Kernel) -> None:
    with suppress(XdpecmpError, OSError), instance.open_maps() as maps:
        losses.record(kernel, maps, instance.program_ids(), instance.run)


def _new_mirror(instance: Instance, kernel: Kernel, generation: str, options: Options) -> Mirror:
    # numpy's linear algebra, of no use here, would start threads, which a fork loses
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ..agent.mirror import (
        Mirror,
    )  # numpy takes 0.1 s to import, which detaching needs not wait for

    return Mirror(
        kernel,
        instance.record_managed,
        lambda: Build(instance.directory, generation, Variant.DEEP),
        options,
    )


def _open(mirror: Mirror, instance: Instance) -> None:
    mirror.open(
        instance.open_maps(),
        instance.open_clock(),
        instance.program_ids().__contains__,
    )


def _resume(instance: Instance, kernel: Kernel, monitor: Monitor, namespace: str | None) -> None:
    """An upgrade failed: what was attached before goes on as it was, under an agent."""
    if instance.agent_pid() is not None or not instance.generation():
        return
    mirror = _new_mirror(instance, kernel, instance.generation(), instance.options())
    _open(mirror, instance)
    mirror.push()
    mirror.renew_lease()
    instance.stage(instance.options(), instance.wanted())
    _fork_agent(instance, mirror, monitor, namespace)


_ALONE_SECONDS = 10.0
"""How often the agent of a namespace without a name looks whether anybody else is there."""

NICE = -10
"""Of the agent: where the machine is busy and it falls behind, more packets take the slow path."""


# --- the agent's process -------------------------------------------------------------------------


def _fork_agent(
    instance: Instance, mirror: Mirror, monitor: Monitor, namespace: str | None
) -> None:
    """Leave an agent behind, detached from the terminal; returns once it has taken over."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            if os.fork() == 0:
                root = places.root().descriptor
                keep = {write, *mirror.descriptors(), *monitor.descriptors()}
                _become_daemon(keep if root is None else keep | {root})
                journal.to_file(instance.log_file)
                _run_agent(
                    instance, mirror, monitor, namespace, started=lambda: os.write(write, b"1")
                )
            status = 0
        except Exception:
            logging.getLogger("xdpecmp.agent").exception("the agent cannot go on")
        finally:
            os._exit(status)
    os.close(write)
    os.waitpid(pid, 0)
    started = os.read(read, 1)
    os.close(read)
    if not started:
        raise XdpecmpError(f"the agent did not start: {_last_words(instance)}", "try again")


def _last_words(instance: Instance) -> str:
    """The last line that an agent logged; the file goes with a fresh instance."""
    try:
        lines = places.read_file(instance.log_file).split("\n")
    except (OSError, XdpecmpError):
        lines = []
    return next((line for line in reversed(lines) if line), "it says nothing")


def _become_daemon(keep: Collection[int]) -> None:
    """Let go of the caller's terminal, pipes and folder, and run before what can wait."""
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with suppress(OSError):  # where sessions share the CPU evenly (sched(7), autogroup)
        Path("/proc/self/autogroup").write_text(str(NICE))
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            with suppress(OSError):
                os.close(fd)


def _run_agent(
    instance: Instance,
    mirror: Mirror,
    monitor: Monitor,
    namespace: str | None,
    started: Callable[[], object] = lambda: None,
    in_front: bool = False,
) -> None:
    """Be the agent. Where the namespace or the last interface goes, so does the instance.
    `in_front`: somebody keeps this process, so it is reason enough for its namespace to be."""
    from ..agent.loop import Agent
    from .reattach import Reattacher

    claim = instance.claim_agent()
    names = [namespace] if namespace else netns.names(instance.nsid)
    with Kernel() as kernel, ExitStack() as stack:
        stack.callback(mirror.abandon)
        mirror.kernel = kernel
        started()

        look_again, alone = time.monotonic() + _ALONE_SECONDS, False

        def namespace_gone() -> bool:
            """Whether it has lost its name or, where it had none, all else that was in it: then
            only the agent itself keeps it."""
            nonlocal look_again, alone
            if not names:
                if not in_front and time.monotonic() >= look_again:
                    look_again = time.monotonic() + _ALONE_SECONDS
                    alone = not netns.is_in_use(instance.nsid)
                return alone
            still = any(netns.has_name(name, instance.nsid) for name in names)
            return not still and not netns.names(instance.nsid)

        reattacher = Reattacher(instance, kernel)

        def tend() -> tuple[bool, bool]:
            """See `Reattacher.tend`."""
            return reattacher.tend(mirror.snapshot.links, mirror.attached())

        agent = Agent(mirror, monitor, namespace_gone, tend)
        while agent.run():
            # unless a command is at it: then that goes first, and may have attached again
            with suppress(Busy), instance.changing():
                if namespace_gone() or not _stays(instance, kernel):
                    _tear_down(instance, kernel)
                    break
    os.close(claim)


# --- detach -------------------------------------------------------------------------------------


def detach(names: Sequence[str]) -> list[str]:
    """Detach from the named interfaces, or from all where none is named; the names of those.

    With the last one the agent ends and everything is unpinned. Raises NotAttached where there is
    nothing of ours, XdpecmpError for an interface without our program.
    """
    if os.geteuid() != 0:
        raise NotPermitted("detaching an XDP program")
    instance = Instance()
    sweep(instance.nsid)
    with instance.changing(), Kernel() as kernel:
        links = kernel.links()
        ours, wanted = instance.program_ids(), instance.wanted()
        attached = {link.name: link for link in links.values() if link.xdp_prog_id in ours}
        by_name = {link.name: link for link in links.values()}
        chosen = list(attached) + list(wanted.keys() - attached.keys())
        if names:
            chosen = []
        for name in names:
            found = expanded([by_name[name]], links) if name in by_name else []
            mine = [link.name for link in found if link.name in attached or link.name in wanted]
            if name in attached or name in wanted:  # a bond that an earlier version attached to
                mine.append(name)
            if not mine:
                _explain_not_attached(name, links)
            chosen += mine
        if not instance.present():
            raise NotAttached
        chosen = list(dict.fromkeys(chosen))
        leaving = [attached[name] for name in chosen if name in attached]
        for link in leaving:
            check_above(link, links, ours)
        left = {name: each for name, each in wanted.items() if name not in chosen}
        waiting = [each for each in missing(left, links.values(), ours) if each.returns]
        if not wanted.keys() & set(chosen) <= by_name.keys():
            take_off(instance.nsid, ours)  # which an agent has done, if there was one
        if attached.keys() <= set(chosen) and not waiting:
            instance.stop_agent()
            _tear_down(instance, kernel)
        else:
            instance.record_wanted(left)  # first, so that the agent attaches nothing again
            detach_all(kernel, leaving, links, ours)
        return chosen


def _explain_not_attached(name: str, links: Mapping[int, Link]) -> None:
    if all(link.name != name for link in links.values()):
        raise NoSuchInterface(name)
    raise XdpecmpError(
        f"{name} does not run our program", "see which interfaces do: xdpecmp status"
    )


def _attached(instance: Instance, kernel: Kernel) -> bool:
    """Whether an interface runs a program of ours."""
    ours = instance.program_ids()
    return any(link.xdp_prog_id in ours for link in kernel.links().values() if link.xdp_prog_id)


def _stays(instance: Instance, kernel: Kernel) -> bool:
    """Whether an interface runs a program of ours, or one that did may come back."""
    if _attached(instance, kernel):
        return True
    ours, links = instance.program_ids(), kernel.links().values()
    waiting = any(each.returns for each in missing(instance.wanted(), links, ours))
    return waiting and netns.is_in_use(instance.nsid)


def _tear_down(instance: Instance, kernel: Kernel) -> None:
    """Take everything of the instance away: programs, managed neighbours, pins, files."""
    ours, links = instance.program_ids(), kernel.links()
    attached = [link for link in links.values() if link.xdp_prog_id in ours]
    failed: list[Exception] = []
    for link in reversed(bottom_up(attached, links)):
        try:
            detach_one(kernel, link)
        except (XdpecmpError, OSError) as error:  # perhaps the device has just gone
            failed.append(error)
    if failed and _attached(instance, kernel):
        raise failed[0]
    managed = {key for key, entry in kernel.neighbours().items() if entry.managed}
    for nexthop in instance.managed():
        if (nexthop.via, nexthop.ifindex) in managed:
            with suppress(XdpecmpError):  # one that has just gone is no reason to leave the rest
                kernel.release_neighbour(nexthop.via, nexthop.ifindex)
    instance.remove()
