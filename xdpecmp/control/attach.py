"""Attaching: read, compile, open the maps, then the mirror, then its agent.

The kernel is read and the tables are compiled while the compiler runs, and before an earlier agent
is disturbed. Then that agent is stopped, the maps are synced, the lease begins, the program goes
on the NIC, and an agent takes over that has heard all changes since the kernel was read. So no
packet meets a program whose maps are not right, and what fails before the NIC is touched leaves
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .. import places
from ..agent.deep import DeepProgram
from ..agent.signals import ended_by_exception, undisturbed
from ..dataplane import counters
from ..errors import NotPermitted, XdpecmpError
from ..instance.instance import BPFFS, Instance, machine_seed
from ..model.options import Options, Wanted
from ..model.values import Link
from ..netlink import Changes, Kernel, Monitor
from ..observe import losses
from ..program import libbpf
from ..program.build import Build, Variant, new_generation
from ..program.clock import Clock
from .attachment import Attached, attach_all, check_interfaces
from .detach import tear_down
from .hashkey import key_finder
from .leftovers import sweep
from .process import Running, leave_agent, run_agent

if TYPE_CHECKING:
    from ..agent.live import LiveRouting
    from ..agent.mirror import Mirror


class Wishes(NamedTuple):
    """How to attach; None: as it was."""

    mode: str = "auto"
    """One of attachment.MODES."""
    set_seed: bool = False
    """If Linux does not tell its hash seed, give it one that is known."""
    flow_label: str | None = None
    """One of options.FLOW_LABEL."""
    own_seed: bool | None = None
    """Whether to hash with a seed of ours if Linux's key is not known."""
    find_key: bool | None = None
    """Whether to read or search Linux's hash key if the sysctl does not tell it."""
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
        options = before.updated(
            flow_label=self.flow_label,
            bypass_firewall=self.bypass_firewall,
            find_key=self.find_key,
        )
        if self.own_seed is not None:
            options = replace(options, own_seed=machine_seed() if self.own_seed else None)
        return options


class _Attempt(NamedTuple):
    """What one `attach` works with."""

    instance: Instance
    kernel: Kernel
    monitor: Monitor
    links: Sequence[Link]
    wishes: Wishes
    generation: str
    namespace: str | None


def attach(
    names: Sequence[str],
    wishes: Wishes | None = None,
    namespace: str | None = None,
    foreground: Callable[[Attached], None] | None = None,
) -> Attached:
    """Attach to the named interfaces of the current namespace, or upgrade what is attached.

    `namespace` is the name the user gave it, if any: the agent ends with it. With `foreground` the
    agent runs in this process once that was called; otherwise it is left running behind.
    Raises XdpecmpError; then nothing has changed, except interfaces attached before.
    """
    if os.geteuid() != 0:
        raise NotPermitted("attaching an XDP program")
    # numpy's linear algebra, of no use here, would start threads, which a fork loses
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    instance = Instance()
    sweep(instance.nsid)
    with ExitStack() as until_ended:
        with ended_by_exception(), instance.changing():
            kernel = until_ended.enter_context(Kernel())
            links = check_interfaces(kernel.links(), instance.program_ids(), names)
            fresh, generation = not instance.present(), new_generation()
            fresh_version, done = not instance.directory.is_dir(), False
            monitor = until_ended.enter_context(kernel.monitor())
            attempt = _Attempt(
                instance, kernel, monitor, links, wishes or Wishes(), generation, namespace
            )
            try:
                live, deep = _prepare(attempt)
                with undisturbed():
                    mirror, result = _switch(attempt, live, deep)
                    running = Running(instance, mirror, monitor, namespace)
                    if not foreground:
                        leave_agent(running)
                        done = True
            except BaseException:
                if done:
                    raise  # told to end when all was done
                with undisturbed():
                    if fresh:
                        tear_down(instance, kernel)
                    else:
                        _undo(attempt, fresh_version)
                        _resume(attempt)
                raise
        if foreground:
            foreground(result)
            run_agent(running)
    return result


def _prepare(attempt: _Attempt) -> tuple[LiveRouting, DeepProgram]:
    """All that can be done before an earlier agent is disturbed: build, read, compile."""
    instance, kernel, generation = attempt.instance, attempt.kernel, attempt.generation
    instance.prepare()
    options = attempt.wishes.options(instance.options())
    with ExitStack() as builds:
        build = Build(instance.directory, generation)
        builds.callback(build.abandon)
        finder = key_finder(options, is_set=attempt.wishes.set_seed)
        builds.callback(finder.close)
        snapshot = kernel.snapshot()
        deep = _deep_program(instance, generation)
        builds.callback(deep.abandon)
        deep.begin(snapshot.settings)
        from ..agent.live import LiveRouting  # takes 0.1 s: while the compiler runs

        ours = {link.ifindex for link in attempt.links}
        live = LiveRouting(snapshot, options, ours, deep.is_ready, finder.result())
        instance.save_layout(build.result())
        deep.complete()
    instance.stage(options, attempt.wishes.wanted(instance.wanted(), attempt.links))
    return live, deep


def _switch(attempt: _Attempt, live: LiveRouting, deep: DeepProgram) -> tuple[Mirror, Attached]:
    """Bring the data path up, taking over from an earlier one if there is one."""
    from ..agent.loop import EVERYTHING
    from .check import notes

    instance, kernel, monitor = attempt.instance, attempt.kernel, attempt.monitor
    instance.stop_agent()
    mirror = _open_mirror(instance, kernel, live, deep)
    if monitor.drain():
        mirror.pull(EVERYTHING)  # building took its time
    mirror.push({link.ifindex for link in attempt.links})
    mirror.settle_buckets()
    mirror.lease.renew()
    result = _attach_program(attempt, mirror)
    # now with the programs and their modes; what changes from here on the agent will hear of
    changed = bool(monitor.drain())
    mirror.pull(EVERYTHING if changed else Changes(links=True, settings=True, neighbours=True))
    mirror.push()
    mirror.keep_resolved()
    mirror.lease.renew()
    _carry_counters(instance)
    instance.remove_other_versions(attempt.generation)
    instance.record_key_state(mirror.key_state)
    _record_losses(instance, kernel)
    instance.commit()
    if places.root().borrowed:
        result.notes.append(
            "this process has a /sys of its own, as under `ip netns exec`: everything is pinned in "
            f"the host's {BPFFS}, as by `xdpecmp -n NETNS`"
        )
    result.notes += notes(mirror)
    return mirror, result


def _attach_program(attempt: _Attempt, mirror: Mirror) -> Attached:
    """Put the program on the interfaces, and set Linux's seed if that was asked for."""
    kernel, wishes = attempt.kernel, attempt.wishes
    program = attempt.instance.open_program(attempt.generation)
    try:
        links = mirror.snapshot.links
        result = attach_all(kernel, attempt.links, program, wishes.mode, links)
    finally:
        os.close(program)
    if wishes.set_seed and mirror.snapshot.settings.seed is None:
        kernel.set_seed(1 + int.from_bytes(os.urandom(8), "little") % 0xFFFFFFFF)
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


# --- when it fails --------------------------------------------------------------------------------


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


def _resume(attempt: _Attempt) -> None:
    """An upgrade failed: what was attached before goes on as it was, under an agent."""
    instance, kernel = attempt.instance, attempt.kernel
    generation = instance.generation()
    if instance.agent_pid() is not None or not generation:
        return
    from ..agent.live import LiveRouting

    snapshot, ours = kernel.snapshot(), instance.program_ids()
    attached = {link.ifindex for link in snapshot.links.values() if link.xdp_prog_id in ours}
    deep = _deep_program(instance, generation)
    options = instance.options()
    with closing(key_finder(options)) as finder:
        live = LiveRouting(snapshot, options, attached, deep.is_ready, finder.result())
    mirror = _open_mirror(instance, kernel, live, deep)
    mirror.push()
    mirror.lease.renew()
    instance.record_key_state(mirror.key_state)
    instance.stage(options, instance.wanted())
    leave_agent(Running(instance, mirror, attempt.monitor, attempt.namespace))


# --- what both need -------------------------------------------------------------------------------


def _deep_program(instance: Instance, generation: str) -> DeepProgram:
    return DeepProgram(lambda: Build(instance.directory, generation, Variant.DEEP))


def _open_mirror(
    instance: Instance, kernel: Kernel, live: LiveRouting, deep: DeepProgram
) -> Mirror:
    """Take the maps over, with what an earlier agent left in them."""
    from ..agent.mirror import Mirror
    from ..dataplane.plane import Dataplane

    return Mirror(
        kernel,
        live,
        Dataplane(instance.open_maps()),
        Clock(instance.open_clock()),
        deep,
        instance.program_ids(),
        instance.record_managed,
    )
