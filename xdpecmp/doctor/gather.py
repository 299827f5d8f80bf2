"""Looks at everything that the checks go by. Changes nothing: what the trial build pins is gone
when it returns.

Small sources of many kinds, so libraries read them where they can (pyroute2: ethtool); what a
source refuses to tell is left out and named.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from dataclasses import replace

from .. import places
from ..compile import Stacking, compile_tables, needs_walk
from ..control.attachment import expanded
from ..control.hashkey import key_finder
from ..errors import NoSuchInterface, NotPermitted, XdpecmpError
from ..instance.instance import Instance, NotAttached
from ..model.hashkey import NO_KEY, KeyState
from ..model.options import Options
from ..model.values import Link, Settings, Snapshot
from ..netlink import Kernel, has_seed, sysctl
from ..observe import losses
from ..observe.quickcheck import disagreeing_route
from ..observe.view import View
from ..program import libbpf
from ..program.build import PROGRAM, Build, Variant, new_generation, pin_name
from . import hardware, process
from .facts import Facts, Host, Running, Trial
from .interfaces import assumed


def gather(names: Sequence[str] = ()) -> Facts:
    """Of the calling thread's network namespace and these interfaces, or all that could be
    attached. Raises NoSuchInterface."""
    unseen: list[str] = []
    with Kernel() as kernel:
        snapshot = _snapshot(kernel, unseen)
        running = _running(kernel, unseen)
        chosen = _chosen(snapshot, names, running.programs)
        found = hardware.read(snapshot.links, kernel.native_xdp())
        links = assumed(snapshot.links, found, chosen)
        interfaces = tuple(links[ifindex] for ifindex in chosen)
        host = _host(snapshot.settings)
        works = host.trial is None or host.trial.error is None
        options = Instance().options()
        key_state = _key_state(options, works)
        settings = replace(snapshot.settings, found_key=key_state.key)
        snapshot = replace(snapshot, settings=settings)
        tables = compile_tables(replace(snapshot, links=links), chosen, options, works)
        return Facts(
            host=host,
            snapshot=snapshot,
            tables=tables,
            interfaces=interfaces,
            devices=found,
            running=running,
            bypasses_firewall=options.bypass_firewall,
            disagreement=disagreeing_route(kernel, tables, tables.interfaces),
            key_state=key_state,
            has_seed_setting=has_seed(),
            cpus=libbpf.possible_cpus() if host.libbpf else os.cpu_count() or 1,
            unseen=tuple(unseen),
        )


def _snapshot(kernel: Kernel, unseen: list[str]) -> Snapshot:
    try:
        return kernel.snapshot()
    except NotPermitted:
        unseen.append("IPsec policies")
    links = kernel.links()
    filters = kernel.filters(links.values())
    unseen += [what.split(" (")[0] for what in filters.unread]
    custom4, custom6 = kernel.custom_rules()
    settings = sysctl.read_settings(links.values())
    return Snapshot(
        links=links,
        neighbours=kernel.neighbours(),
        routes=kernel.routes(),
        nexthop_groups=kernel.nexthops(),
        settings=settings,
        custom_rules4=custom4,
        custom_rules6=custom6,
        filters=replace(filters, unread=()),
    )


def _chosen(snapshot: Snapshot, names: Sequence[str], programs: Collection[int]) -> tuple[int, ...]:
    """The named ones, or Ethernet devices that are up, belong to no other than a bond and are no
    VLAN (which the device below covers), and what is attached. Of a bond its links."""
    by_name = {link.name: link for link in snapshot.links.values()}
    for name in names:
        if name not in by_name:
            raise NoSuchInterface(name)
    if names:
        chosen = expanded([by_name[name] for name in names], snapshot.links)
        return tuple(link.ifindex for link in chosen)
    stacking = Stacking(snapshot.links)
    return tuple(
        link.ifindex
        for link in snapshot.links.values()
        if link.xdp_prog_id in programs or _could_be_attached(link, stacking)
    )


def _could_be_attached(link: Link, stacking: Stacking) -> bool:
    free = not link.master or stacking.receiver(link) is not link
    fits = link.mac and link.name != "lo" and link.kind not in ("vlan", "bond")
    return bool(link.up and free and fits)


def _key_state(options: Options, works: bool) -> KeyState:
    """As `attach` would find it; nothing of it is kept. `works`: whether programs can be built."""
    if os.geteuid() != 0 or not works:
        return NO_KEY
    with closing(key_finder(options, keep=False)) as finder:
        return finder.result()


# --- what is attached ----------------------------------------------------------------------------


def _running(kernel: Kernel, unseen: list[str]) -> Running:
    instance = Instance()
    programs: frozenset[int] = frozenset()
    try:
        programs = frozenset(instance.program_ids())
        if not instance.present():
            return Running()
        with instance.open_maps() as maps:
            lost = losses.report(kernel, maps, programs, instance.run)
            status = View(maps, kernel.links()).status(instance, lost=lost)
        error = None
        try:
            instance.check_source()
        except XdpecmpError as other_version:
            error = other_version
        return Running(True, status, error, programs)
    except (NotPermitted, PermissionError):
        unseen.append("what is attached")
        return Running(seen=False)
    except NotAttached:
        return Running(programs=programs)
    except XdpecmpError as error:
        return Running(error=error, programs=programs)


# --- the host ------------------------------------------------------------------------------------


def _host(settings: Settings) -> Host:
    root = os.geteuid() == 0
    bcc, is_ours = process.find_bcc()
    library = process.libbpf_version()
    bpffs = process.bpffs_error()
    can_try = root and is_ours and library and not bpffs
    return Host(
        root=root,
        missing_capabilities=process.missing_capabilities() if root else (),
        machine=os.uname().machine,
        release=os.uname().release,
        bcc=bcc,
        bcc_is_ours=is_ours,
        libbpf=library,
        bpffs=bpffs,
        trial=_trial(settings) if can_try else None,
        tickless=process.tickless_cpus(),
    )


def _trial(settings: Settings) -> Trial:
    """Build and load what `attach` would, pinned where nobody looks and gone afterwards."""
    generation = new_generation()
    directory = places.root().bpffs / f"xdpecmp-doctor-{os.getpid()}-{generation}"
    started = time.monotonic()
    try:
        places.check_parent(directory.parent)
        directory.mkdir(mode=0o700)  # in here, or a signal right behind it would leave it
        for variant in (Variant.MAIN, *([Variant.DEEP] if needs_walk(settings) else [])):
            build = Build(directory, generation, variant)
            try:
                build.result()
            finally:
                build.abandon()
        seconds = time.monotonic() - started
        descriptor = libbpf.get_pinned(directory / pin_name(PROGRAM, generation))
        try:
            return Trial(seconds=seconds, compiled=process.is_compiled(descriptor))
        finally:
            os.close(descriptor)
    except XdpecmpError as error:
        cause = error.__cause__
        return Trial(error, errno=cause.errno or 0 if isinstance(cause, OSError) else 0)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)
