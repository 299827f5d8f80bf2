"""Attaching again to an interface that was asked for and has come back as another device.

A VM or container that restarts, `netplan apply` and ifdown/ifup make a new device of the old name;
a device that was moved to another namespace may return. Those are attached to by the rules of
`attach`. A device that has lost our program otherwise has lost it to somebody who took it off or
put another there: that is left alone, and `status` says so.

While all of them are gone the instance stays as long as the namespace has a name, or a process
besides the agent: nobody could make an interface in one that has neither.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from ..errors import XdpecmpError
from ..instance.instance import Busy, Instance
from ..model.options import Wanted
from ..model.values import Link
from ..netlink import Kernel, netns
from .astray import take_off_meanwhile
from .attachment import attach_all, check_interface

log = logging.getLogger("xdpecmp.agent")

_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 60.0
_IN_USE_SECONDS = 5.0


class Reattacher:
    """The agent's part in it."""

    def __init__(self, instance: Instance, kernel: Kernel) -> None:
        self._instance = instance
        self._kernel = kernel
        self._absent: set[str] = set()
        """Names that we have seen no device of."""
        self._patience: dict[str, tuple[int, float, float]] = {}
        """By name: the device that could not be attached to, not again before, then how long."""
        self._in_use, self._look_again = True, 0.0

    def tend(self, links: Mapping[int, Link], attached: Collection[int]) -> tuple[bool, bool]:
        """Attach to what is back. Whether there is something to stay for, and whether something was
        attached to. `attached`: indexes of the devices that run our program."""
        by_name = {link.name: link for link in links.values()}
        waiting = again = False
        for name, each in self._renamed(self._instance.wanted(), links, attached).items():
            link = by_name.get(name)
            if link is None:
                if name not in self._absent:
                    log.info("%s is gone; it is attached to again when it is back", name)
                    take_off_meanwhile(self._instance.nsid, self._instance.program_ids())
                self._absent.add(name)
                waiting = True
            elif link.ifindex in attached:
                self._absent.discard(name)
                self._patience.pop(name, None)
                if link.ifindex != each.ifindex:
                    self._record(name, replace(each, ifindex=link.ifindex))
            elif link.ifindex == each.ifindex and name not in self._absent:
                if self._patience.get(name, (0,))[0] != link.ifindex:
                    self._patience[name] = link.ifindex, float("inf"), 0.0  # said once
                    log.warning(
                        "%s does not run our program any more, which somebody has taken off or "
                        "replaced; to attach it again: xdpecmp attach %s",
                        name,
                        name,
                    )
            else:
                waiting = True
                again |= self._try_again(name, each, link, links)
        return bool(attached) or again or (waiting and self._namespace_in_use()), again

    def _renamed(
        self, wanted: dict[str, Wanted], links: Mapping[int, Link], attached: Collection[int]
    ) -> dict[str, Wanted]:
        """With the new names of devices that still run our program."""
        for name, each in list(wanted.items()):
            link = links.get(each.ifindex)
            if link is None or link.ifindex not in attached or link.name == name:
                continue
            if link.name not in wanted:
                log.info("%s is called %s now", name, link.name)
                self._record(name, None)
                self._record(link.name, each)
                del wanted[name]
                wanted[link.name] = each
        return wanted

    def _record(self, name: str, each: Wanted | None) -> None:
        """Change what is recorded of an interface, unless a command is at it, or forgot it."""
        with suppress(Busy), self._instance.changing():
            self._record_locked(name, each)

    def _record_locked(self, name: str, each: Wanted | None) -> None:
        wanted = self._instance.wanted()
        if each is None:
            wanted.pop(name, None)
        else:
            wanted[name] = each
        try:
            self._instance.record_wanted(wanted)
        except (OSError, XdpecmpError) as error:  # /run is full: no reason to stop
            log.warning("cannot record the interfaces: %s", error)

    def _try_again(self, name: str, each: Wanted, link: Link, links: Mapping[int, Link]) -> bool:
        ifindex, due, seconds = self._patience.get(name, (link.ifindex, 0.0, _FIRST_SECONDS))
        if ifindex != link.ifindex:
            due, seconds = 0.0, _FIRST_SECONDS
        now = time.monotonic()
        if now < due:
            return False
        self._patience[name] = link.ifindex, now + seconds, min(2 * seconds, _LONGEST_SECONDS)
        with suppress(Busy):  # a command is at it: the next time
            try:
                with self._instance.changing():
                    if name in self._instance.wanted():
                        self._attach(name, each, link, links)
                        return True
            except Busy:
                raise
            except (XdpecmpError, OSError) as error:
                log.warning("cannot attach to %s again: %s", name, error)
        return False

    def _attach(self, name: str, each: Wanted, link: Link, links: Mapping[int, Link]) -> None:
        check_interface(link, links, self._instance.program_ids())
        program = self._instance.open_program(self._instance.generation())
        try:
            result = attach_all(self._kernel, [link], program, each.mode, links)
        finally:
            os.close(program)
        self._absent.discard(name)
        self._record_locked(name, replace(each, ifindex=link.ifindex))
        log.info("%s is back: attached again, %s mode", name, result.modes[name])

    def _namespace_in_use(self) -> bool:
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _IN_USE_SECONDS
            self._in_use = netns.is_in_use(self._instance.nsid)
        return self._in_use
