"""What holds for every packet: the configuration in force, the lease, and whether all passes.

There are two entries of `config`, of which `control` names the one in force. Single words of that
one, and of `control`, are also stored alone, by any thread.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

from ..compile import Config, local4_filter
from ..hashing import sip_absorb, sip_state
from ..model.hashkey import HashKey, Origin
from ..program import libbpf
from ..program.abi import FRAGMENTS_OF, Reason
from ..program.maps import Maps

FLOW_LABEL_MASK = 0xFFFFF


class Control:
    """The maps `config` and `control`."""

    def __init__(self, maps: Maps) -> None:
        """What an earlier agent had pass as a whole goes on to do so: see `publish_cautiously`."""
        self._maps = maps
        self._config: Config | None = None
        """What is in force; None: an earlier agent's."""
        self._lock = threading.Lock()
        """Held to store pass4 and pass6 of the entry in force, or to put another in force."""
        self._behind = False
        entry = maps["config"].entries[maps["control"].entries[0].config_slot]
        self._adopted_passing = _passing(entry)

    # --- the configuration ------------------------------------------------------------------------

    def publish_cautiously(self, config: Config) -> None:
        """Put it in force, except that what passed as a whole still does: until the routes are
        in."""
        passing = _passing(self._config) if self._config else self._adopted_passing
        self.publish(_cautious(passing, config))

    def publish(self, config: Config) -> None:
        """Put a configuration in force."""
        if config == self._config:
            return
        control, configs = self._maps["control"].entries[0], self._maps["config"]
        slot = 1 - control.config_slot
        if self._config is not None:
            libbpf.wait_for_readers()  # of the slot that was in force before
        with self._lock:
            configs.store(slot, self._config_struct(config))
            control.config_slot = slot
            self._config = config
            if not self._behind:
                control.behind_jiffies = 0  # an earlier agent's

    def _config_struct(self, config: Config) -> Any:
        key = config.key or HashKey(0, 0, Origin.NONE)
        state = sip_state(key)
        struct = self._maps.layout.value("config")(
            policy4=config.policy4,
            policy6=config.policy6,
            pass4=self._reason_to_pass(config.pass4),
            pass6=self._reason_to_pass(config.pass6),
            pass_multipath4=config.pass_multipath4,
            pass_multipath6=config.pass_multipath6,
            pass_fragments=(
                config.pass_fragments4 * FRAGMENTS_OF["IPV4"]
                | config.pass_fragments6 * FRAGMENTS_OF["IPV6"]
            ),
            seed=key.seed or 0,
            key_origin=key.origin,
            label_mask=socket.htonl(FLOW_LABEL_MASK if config.follow_label else 0),
            fields4=config.fields4,
            fields6=config.fields6,
        )
        for family, parting in ((4, config.parting4), (6, config.parting6)):
            if parting:
                setattr(struct, f"own_seed_cause{family}", int(parting[0].cause))
                setattr(struct, f"own_seed_ifindex{family}", parting[0].ifindex)
        struct.sip_start[:] = state
        struct.sip_after_zero[:] = sip_absorb(state, [0] * 4)
        struct.sip_after_tcp[:] = sip_absorb(state, [socket.IPPROTO_TCP << 16, 0, 0])
        struct.sip_after_udp[:] = sip_absorb(state, [socket.IPPROTO_UDP << 16, 0, 0])
        struct.local4_filter[:] = local4_filter(config.local4)
        return struct

    # --- the lease, and passing everything --------------------------------------------------------

    def set_lease(self, jiffies: int) -> None:
        """Let the program work until bpf_jiffies64() reaches `jiffies`."""
        self._maps["control"].store_word(0, 0, jiffies)

    def fall_behind(self, since_jiffies: int) -> None:
        """Pass both families to Linux, by one store each: the maps say only what the kernel said at
        `since_jiffies`. Any thread may do it, and `catch_up`."""
        with self._lock:
            self._behind = True
            self._store_passing()
            self._maps["control"].entries[0].behind_jiffies = since_jiffies

    def catch_up(self) -> None:
        """The maps say what the kernel says: end `fall_behind`."""
        with self._lock:
            self._behind = False
            self._store_passing()
            self._maps["control"].entries[0].behind_jiffies = 0

    def _store_passing(self) -> None:
        control = self._maps["control"].entries[0]
        if self._config is not None:  # else it is an earlier agent's, and goes by that
            entry = self._maps["config"].entries[control.config_slot]
            entry.pass4 = self._reason_to_pass(self._config.pass4)
            entry.pass6 = self._reason_to_pass(self._config.pass6)

    def _reason_to_pass(self, reason: int) -> int:
        return reason or int(Reason.BEHIND if self._behind else Reason.FORWARDED)

    def pass_at_once(self, pass4: int, pass6: int) -> None:
        """Have the families that have a reason here pass to Linux, by one store each, until the
        next `sync`."""
        with self._lock:
            if self._config is not None:
                old = self._config
                self._config = old._replace(pass4=pass4 or old.pass4, pass6=pass6 or old.pass6)
                self._store_passing()


def _passing(config: Any) -> dict[str, Any]:
    """What passes as a whole: of a Config, or of an entry of the map."""
    fields = ("pass4", "pass6", "pass_multipath4", "pass_multipath6")
    return {field: getattr(config, field) for field in fields}


def _cautious(passing: Mapping[str, Any], new: Config) -> Config:
    """The new configuration, still passing what the old one passed: until the routes are in."""
    fields: dict[str, Any] = {name: getattr(new, name) or old for name, old in passing.items()}
    return new._replace(**fields)
