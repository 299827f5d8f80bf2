"""Attaching and detaching: the order in which an instance comes to life and goes.

Attach: build, and read the kernel meanwhile; stop the agent that may run, sync the maps, lease,
then the program on the NIC, then an agent of our own, which has heard all changes since the kernel
was read. So no packet meets a program whose maps are not right, and what fails before the NIC is
touched leaves nothing. Detach goes the other way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from . import libbpf, netns
from .errors import ForeignProgram, KernelRefused, NoSuchInterface, NotPermitted, XdpecmpError
from .instance import FOLLOW, Busy, Instance, NotAttached, machine_seed
from .model import Link
from .netlink import Changes, Kernel, Monitor
from .program import Build, Variant, new_generation

if TYPE_CHECKING:
    from .mirror import Mirror

MODES = ("auto", "native", "generic")
BETTER_GENERIC = ("veth", "bond")
"""On a veth the peer's unfinished checksums survive a redirect in generic mode only; on a bond a
native program runs on each of its links, where nothing is the bond's yet."""


@dataclass
class Attached:
    """What `attach` did, and what its user should know."""

    modes: dict[str, str] = field(default_factory=dict)
    """Interface name → "native" or "generic"."""
    notes: list[str] = field(default_factory=list)


# --- attach -------------------------------------------------------------------------------------


class _Wishes(NamedTuple):
    """How to attach: see `attach`."""

    mode: str
    set_seed: bool
    flow_label: str | None
    own_seed: bool | None


def attach(
    names: Sequence[str],
    mode: str = "auto",
    namespace: str | None = None,
    set_seed: bool = False,
    flow_label: str | None = None,
    own_seed: bool | None = None,
    foreground: Callable[[Attached], None] | None = None,
) -> Attached:
    """Attach to the named interfaces of the current namespace, or upgrade what is attached.

    `namespace` is the name the user gave it, if any: the agent ends with it. `set_seed`: where
    Linux keeps its hash seed to itself, give it one that is known. `flow_label`: one of FLOW_LABEL;
    `own_seed`: whether to hash with a seed of ours where Linux's is not known; None for what it
    was. With `foreground` the agent runs in this process once that was called; otherwise it is left
    running behind.
    Raises XdpecmpError; then nothing has changed, but for interfaces attached before.
    """
    if os.geteuid() != 0:
        raise NotPermitted("attaching an XDP program")
    instance = Instance()
    with ExitStack() as until_ended:
        with instance.changing(), Kernel() as kernel:
            links = _check_interfaces(kernel.links(), instance.program_ids(), names)
            fresh, generation = not instance.present(), new_generation()
            fresh_version = not instance.directory.is_dir()
            monitor = until_ended.enter_context(kernel.monitor())
            try:
                wishes = _Wishes(mode, set_seed, flow_label, own_seed)
                mirror, result = _start(instance, kernel, monitor, links, wishes, generation)
                if not foreground:
                    _fork_agent(instance, mirror, monitor, namespace)
            except BaseException:
                if fresh:
                    _tear_down(instance, kernel)
                else:
                    instance.forget_generation(generation)
                    if fresh_version:
                        instance.forget_version()
                    _resume(instance, kernel, monitor, namespace)
                raise
        if foreground:
            foreground(result)
            _run_agent(instance, mirror, monitor, namespace)
    return result


def _check_interfaces(
    links: Mapping[int, Link], ours: Collection[int], names: Sequence[str]
) -> list[Link]:
    """The links to attach to: the named ones and those that are attached already."""
    by_name = {link.name: link for link in links.values()}
    for name in names:
        if name not in by_name:
            raise NoSuchInterface(name)
        check_interface(by_name[name], links, ours)
    attached = [link.name for link in links.values() if link.xdp_prog_id in ours]
    return [by_name[name] for name in dict.fromkeys([*names, *attached])]


def check_interface(link: Link, links: Mapping[int, Link], ours: Collection[int]) -> None:
    """Raises XdpecmpError where a program of ours cannot be attached; `ours`: ids of those."""
    if len(link.mac) != 6 or link.name == "lo":
        raise XdpecmpError(
            f"{link.name} has no Ethernet header to forward by",
            "choose an Ethernet device: ip -br link show",
        )
    if link.kind == "vlan" and link.lower in links:
        below = links[link.lower].name
        raise XdpecmpError(
            f"{link.name} is a VLAN device",
            f"attach to the device below it, which covers it: xdpecmp attach {below}",
        )
    if link.xdp_prog_id and link.xdp_prog_id not in ours:
        raise ForeignProgram(
            f"{link.name} already has an XDP program that is not ours (id {link.xdp_prog_id})",
            f"see it: bpftool prog show id {link.xdp_prog_id}; remove it: {removal(link)}",
        )


def removal(link: Link) -> str:
    """The command that takes an XDP program off. `xdp off` means native mode where the driver has
    it, and detaches nothing else."""
    mode = {"generic": "xdpgeneric", "offload": "xdpoffload"}.get(link.xdp_mode, "xdp")
    return f"ip link set dev {link.name} {mode} off"


def _start(
    instance: Instance,
    kernel: Kernel,
    monitor: Monitor,
    links: Sequence[Link],
    wishes: _Wishes,
    generation: str,
) -> tuple[Mirror, Attached]:
    """Bring the data path up, taking over from an earlier one if there is one."""
    instance.prepare()
    kernel.own_seed = instance.own_seed()
    if wishes.own_seed is not None:
        kernel.own_seed = machine_seed() if wishes.own_seed else None
    build = Build(instance.directory, generation)
    ours = {link.ifindex for link in links}
    try:
        # what takes time, while the compiler runs
        from .agent import EVERYTHING
        from .notes import notes

        kernel.prepare_to_write()
        mirror = _new_mirror(instance, kernel, generation)
        mirror.compile(ours)
        instance.save_layout(build.result())
    finally:
        build.abandon()
    instance.stop_agent()
    if monitor.drain():
        mirror.pull(EVERYTHING)  # building took its time
    flow_label = wishes.flow_label or instance.flow_label()
    _open(mirror, instance, flow_label)
    mirror.push(ours)
    mirror.settle_buckets()
    mirror.renew_lease()
    program = instance.open_program(generation)
    try:
        result = _attach_all(kernel, links, program, wishes.mode)
    finally:
        os.close(program)
    settings = mirror.snapshot.settings
    if wishes.set_seed and (settings.seed is None or settings.own_seed):
        kernel.set_seed(1 + int.from_bytes(os.urandom(8), "little") % 0xFFFFFFFF)
    # now with the programs and their modes; what changes from here on the agent will hear of
    changed = bool(monitor.drain())
    mirror.pull(EVERYTHING if changed else Changes(links=True, settings=True, neighbours=True))
    mirror.push()
    mirror.keep_resolved()
    mirror.renew_lease()
    instance.remove_other_versions(generation)
    instance.record_source()
    instance.record_flow_label(flow_label)
    instance.record_own_seed(kernel.own_seed)
    result.notes += notes(mirror, flow_label)
    return mirror, result


def _new_mirror(instance: Instance, kernel: Kernel, generation: str) -> Mirror:
    # numpy's linear algebra, of no use here, would start threads, which a fork loses
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from .mirror import Mirror  # numpy takes 0.1 s to import, which detaching needs not wait for

    return Mirror(
        kernel,
        instance.record_managed,
        lambda: Build(instance.directory, generation, Variant.DEEP).result(),
    )


def _open(mirror: Mirror, instance: Instance, flow_label: str) -> None:
    mirror.open(
        instance.open_maps(),
        instance.open_clock(),
        instance.program_ids().__contains__,
        flow_label == FOLLOW,
    )


def _resume(instance: Instance, kernel: Kernel, monitor: Monitor, namespace: str | None) -> None:
    """An upgrade failed: what was attached before goes on as it was, under an agent."""
    if instance.agent_pid() is not None or not instance.generation():
        return
    kernel.own_seed = instance.own_seed()
    mirror = _new_mirror(instance, kernel, instance.generation())
    _open(mirror, instance, instance.flow_label())
    mirror.push()
    mirror.renew_lease()
    _fork_agent(instance, mirror, monitor, namespace)


def _attach_all(kernel: Kernel, links: Sequence[Link], program: int, mode: str) -> Attached:
    """On all of them or, where one refuses, on none that had no program of ours before."""
    result = Attached()
    try:
        for link in links:
            result.modes[link.name] = _attach_one(kernel, link, program, mode, result.notes)
    except BaseException:
        for link in links:
            if link.name in result.modes:
                _undo_one(kernel, link, program, result.modes[link.name])
        raise
    return result


def _undo_one(kernel: Kernel, link: Link, program: int, mode: str) -> None:
    """The interface gets back what it had: `link` is how it was, `mode` how our program runs."""
    if not link.xdp_prog_id:
        kernel.detach_xdp(link.ifindex, mode, program)
        return
    before = libbpf.program_by_id(link.xdp_prog_id)
    try:
        if mode == link.xdp_mode:
            kernel.attach_xdp(link.ifindex, before, mode, program)
        else:
            kernel.detach_xdp(link.ifindex, mode, program)
            kernel.attach_xdp(link.ifindex, before, link.xdp_mode)
    finally:
        os.close(before)


def _attach_one(kernel: Kernel, link: Link, program: int, mode: str, notes: list[str]) -> str:
    """The mode it ended in. A program of ours is replaced in one step, so that no packet misses it;
    only a change of mode takes two."""
    current = libbpf.program_by_id(link.xdp_prog_id) if link.xdp_prog_id else None
    try:
        if current is not None and mode in ("auto", link.xdp_mode):
            kernel.attach_xdp(link.ifindex, program, link.xdp_mode, current)
            return link.xdp_mode
        if current is not None:
            _change_mode(kernel, link, current, program, mode)
            return mode
    finally:
        if current is not None:
            os.close(current)
    if mode == "auto" and link.kind in BETTER_GENERIC:
        mode = "generic"
    if mode == "auto":
        try:
            kernel.attach_xdp(link.ifindex, program, "native")
            return "native"
        except KernelRefused as error:
            why = os.strerror(error.errno).lower()
            notes.append(f"{link.name}: no native XDP ({why}); generic mode")
            mode = "generic"
    kernel.attach_xdp(link.ifindex, program, mode)
    return mode


def _change_mode(kernel: Kernel, link: Link, current: int, program: int, mode: str) -> None:
    """Where the new mode is refused, the program of before is back in its own."""
    kernel.detach_xdp(link.ifindex, link.xdp_mode, current)
    try:
        kernel.attach_xdp(link.ifindex, program, mode)
    except BaseException:
        kernel.attach_xdp(link.ifindex, current, link.xdp_mode)
        raise


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
                _become_daemon(instance, {write, *mirror.descriptors(), *monitor.descriptors()})
                _run_agent(
                    instance, mirror, monitor, namespace, started=lambda: os.write(write, b"1")
                )
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    os.waitpid(pid, 0)
    started = os.read(read, 1)
    os.close(read)
    if not started:
        raise XdpecmpError("the agent did not start", f"see why: cat {instance.log_file}")


def _become_daemon(instance: Instance, keep: Collection[int]) -> None:
    """Let go of the caller's terminal, pipes and folder."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(instance.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
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
) -> None:
    """Be the agent. Where the namespace or the last interface goes, so does the instance."""
    import logging

    from .agent import Agent

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    claim = instance.claim_agent()
    with Kernel() as kernel:
        kernel.own_seed = instance.own_seed()
        mirror.kernel = kernel
        started()

        def namespace_gone() -> bool:
            """Whether it has lost its name: then only the agent itself keeps it."""
            return namespace is not None and not netns.has_name(namespace, instance.nsid)

        agent = Agent(mirror, monitor, namespace_gone)
        while agent.run():
            # unless a command is at it: then that goes first, and may have attached again
            with suppress(Busy), instance.changing():
                if namespace_gone() or not _attached(instance, kernel):
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
    with instance.changing(), Kernel() as kernel:
        links = kernel.links()
        ours = instance.program_ids()
        attached = {link.name: link for link in links.values() if link.xdp_prog_id in ours}
        for name in names:
            if name not in attached:
                _explain_not_attached(name, links)
        if not instance.present():
            raise NotAttached
        chosen = {name: attached[name] for name in names} if names else attached
        if chosen.keys() == attached.keys():
            instance.stop_agent()
            _tear_down(instance, kernel)
        else:
            for link in chosen.values():
                _detach_one(kernel, link)
        return list(chosen)


def _explain_not_attached(name: str, links: Mapping[int, Link]) -> None:
    if all(link.name != name for link in links.values()):
        raise NoSuchInterface(name)
    raise XdpecmpError(
        f"{name} does not run our program", "see which interfaces do: xdpecmp status"
    )


def _detach_one(kernel: Kernel, link: Link) -> None:
    current = libbpf.program_by_id(link.xdp_prog_id)
    try:
        kernel.detach_xdp(link.ifindex, link.xdp_mode, current)
    finally:
        os.close(current)


def _attached(instance: Instance, kernel: Kernel) -> bool:
    """Whether an interface runs a program of ours."""
    ours = instance.program_ids()
    return any(link.xdp_prog_id in ours for link in kernel.links().values() if link.xdp_prog_id)


def _tear_down(instance: Instance, kernel: Kernel) -> None:
    """Take everything of the instance away: programs, managed neighbours, pins, files."""
    ours = instance.program_ids()
    for link in kernel.links().values():
        if link.xdp_prog_id in ours:
            _detach_one(kernel, link)
    managed = {key for key, entry in kernel.neighbours().items() if entry.managed}
    for nexthop in instance.managed():
        if (nexthop.via, nexthop.ifindex) in managed:
            kernel.release_neighbour(nexthop.via, nexthop.ifindex)
    instance.remove()
