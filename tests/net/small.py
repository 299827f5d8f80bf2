"""The least that xdpecmp can be attached to, for tests of its life rather than of its traffic."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Self

from testbed.netns import Namespace, veth
from tests.capabilities import Since, kernel_has
from tests.net.topology import Router, has_ended


class Small(Router):
    """A router with two interfaces, `in0` and `in1`, and nothing behind them."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.peer = undo.enter_context(Namespace("peer"))
            super().__init__(undo.enter_context(Namespace("small")))
            undo.callback(self._detach)
            self.sysctl("net.ipv4.ip_forward", 1)
            self.sysctl("net.ipv6.conf.all.forwarding", 1)
            if kernel_has(Since.HASH_SEED):
                self.sysctl("net.ipv4.fib_multipath_hash_seed", 1)
            for name in ("in0", "in1"):
                veth(self.ns, name, self.peer, name)
            self._cleanup = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _detach(self) -> None:
        if self.ns.path.exists() and self.instance.present():
            self.detach()

    def agent(self) -> int:
        """A descriptor of the agent's process."""
        pid = self.instance.agent_pid()
        assert pid is not None
        return os.pidfd_open(pid)

    def gone(self, agent: int) -> bool:
        """Whether the process has ended and nothing is left."""
        return has_ended(agent) and not self.remains()
