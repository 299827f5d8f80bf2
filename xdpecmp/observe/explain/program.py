"""The explaining variant of the attached program, run on the maps that packets are forwarded by."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import ExitStack
from pathlib import Path

from ... import places
from ...closing import Closing
from ...errors import XdpecmpError
from ...hashing import key_halves
from ...instance.instance import Instance
from ...model.hashkey import HashKey, Origin
from ...program import libbpf
from ...program.abi import EXPLAINED_NOTHING, Reason
from ...program.build import EXPLAIN, EXPLANATION, Build, Variant, new_generation, pin_name
from ...program.maps import Layout, MappedArray, Maps
from .. import frames
from .decision import Decision, HashSettings

_XDP_PASS = 2


class Explainer(Closing):
    """Runs the explaining program of the running instance; one at a time in a namespace.

    It is built when it is first needed, kept beside the program that it belongs to, and goes with
    it. `with` takes the turn; making one raises XdpecmpError where the attached program is of
    another version, BuildFailed, NotAttached.
    """

    def __init__(self, instance: Instance, maps: Maps) -> None:
        self._maps = maps
        with ExitStack() as undo:
            instance.check_source()
            lock = places.open_file(instance.run / "explain.lock", os.O_RDWR | os.O_CREAT)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._program, written, layout = _open_program(instance)
            undo.callback(os.close, self._program)
            undo.callback(os.close, written)
            self._written = MappedArray(written, layout.value(EXPLANATION))
            self._close = undo.pop_all().close  # and let the next one have its turn

    def decide(self, frame: bytes, ifindex: int) -> Decision:
        """What the program does with a frame that comes in on that device."""
        run = libbpf.run_program(self._program, frames.check_size(frame), ifindex)
        if run.verdict != _XDP_PASS:
            raise XdpecmpError(f"the explaining program gave verdict {run.verdict}")
        written = self._written.entries[0]
        group = written.group
        return Decision(
            reason=Reason(written.reason),
            family=written.family,
            ingress=written.ingress_ifindex,
            packet=frame[written.l3_offset :] if written.family else b"",
            hash=None if written.hash == EXPLAINED_NOTHING else written.hash,
            nexthop=None if written.nexthop == EXPLAINED_NOTHING else written.nexthop,
            group=(group.kind, group.first, group.count),
            is_icmp_error=bool(written.icmp_error),
            quote_offset=written.quote_offset,
            settings=hash_settings(self._maps, written.family, written.config_slot),
        )


def _open_program(instance: Instance) -> tuple[int, int, Layout]:
    """Descriptors of the program and of the map it writes to, which is laid out as told."""
    path = instance.run / "explain.json"
    try:
        return _open_pinned(instance.directory, path)
    except (FileNotFoundError, json.JSONDecodeError):
        generation = new_generation()
        build = Build(instance.directory, generation, Variant.EXPLAIN)
        try:
            layout = build.result()
        except BaseException:
            build.abandon()
            instance.forget_generation(generation)
            raise
        places.write_file(path, json.dumps([generation, layout.descriptions]))
        return _open_pinned(instance.directory, path)


def _open_pinned(directory: Path, path: Path) -> tuple[int, int, Layout]:
    generation, descriptions = json.loads(places.read_file(path))
    program = libbpf.get_pinned(directory / pin_name(EXPLAIN, generation))
    try:
        written = libbpf.get_pinned(directory / pin_name(EXPLANATION, generation))
    except BaseException:
        os.close(program)
        raise
    return program, written, Layout(descriptions)


def hash_settings(maps: Maps, family: int, slot: int | None = None) -> HashSettings:
    """Those in force, or those of an entry of `config`."""
    if slot is None:
        slot = maps["control"].entries[0].config_slot
    config = maps["config"].entries[slot]
    origin = Origin(config.key_origin)
    if config.seed:  # rather than what was computed from it, so that a mistake there is seen
        key = HashKey.of_seed(config.seed, origin)
    else:
        key = HashKey(*key_halves(config.sip_start), origin)
    if family == 4:
        return HashSettings(config.policy4, config.fields4, key)
    return HashSettings(config.policy6, config.fields6, key, bool(config.label_mask))
