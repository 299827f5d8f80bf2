"""The program that some hash policies need: it walks through a packet's headers.

Most namespaces never need it, and it takes a second to compile, so it is built when a policy first
needs it. Without it multipath under such a policy passes to Linux.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..compile import needs_walk
from ..errors import XdpecmpError
from ..model.values import Settings
from ..program.build import Build

log = logging.getLogger("xdpecmp.agent")


class DeepProgram:
    """Builds it once."""

    def __init__(self, build: Callable[[], Build]) -> None:
        """`build` begins to build it."""
        self._begin = build
        self._build: Build | None = None
        self._result: bool | None = None
        """Whether it could be built; None: it was not waited for yet."""

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded."""
        return bool(self._result)

    @property
    def is_building(self) -> bool:
        """Whether a build is under way."""
        return self._build is not None

    def fileno(self) -> int | None:
        """What becomes readable when the build is done; None: there is nothing to wait for."""
        return self._build.fileno() if self._build else None

    def begin(self, settings: Settings) -> None:
        """Begin to build it if these settings need it, unless that was done before."""
        if self._result is None and self._build is None and needs_walk(settings):
            self._build = self._begin()

    def complete(self) -> None:
        """Wait for the build, if one is under way. One that fails is logged."""
        build, self._build = self._build, None
        if build is None:
            return
        try:
            build.result()
            self._result = True
        except XdpecmpError as error:
            log.warning("multipath passes to Linux: %s", error)
            self._result = False

    def abandon(self) -> None:
        """End the build, if one is under way."""
        build, self._build = self._build, None
        if build is not None:
            build.abandon()
