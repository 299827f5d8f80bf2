"""A router, and what becomes of its packets while there is a firewall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from testbed.waiting import wait_until
from tests.net.firewalls import BOTH, Filtering, nft, shell
from tests.net.topology import DEADLINE, Anycast
from tests.net.traffic import Flows, Servers
from xdpecmp.program.abi import Reason

FLOWS = 20


class Lab(Anycast):
    """The topology with flows of both families."""

    flows: Flows

    @classmethod
    @contextmanager
    def attached(cls) -> Iterator[Self]:
        """To `c0`; one server, behind `e1`."""
        with (
            cls((1,), seed=None) as made,
            Servers(made) as servers,
            servers.flows(4, FLOWS) as ipv4,
            servers.flows(6, FLOWS) as ipv6,
        ):
            made.flows = {4: ipv4, 6: ipv6}
            made.attach("c0", "--mode", "generic")
            yield made

    def verdicts(self) -> dict[int, str]:
        """What becomes of requests of each family: one reason."""
        return {family: self._verdict(family) for family in (4, 6)}

    def _verdict(self, family: int) -> str:
        names = ("FORWARDED", "FIREWALL")
        self.wait_for_status(behind_s={"4": 0.0, "6": 0.0})
        with self.view() as view:

            def counts() -> dict[str, int]:
                reasons = view.stats().reasons
                return {name: reasons[name] for name in names}

            before = counts()
            for flow in self.flows[family]:
                flow.send()
            # whatever else comes by, such as neighbour discovery, comes on top
            wait_until(
                lambda: sum(counts().values()) >= sum(before.values()) + FLOWS,
                f"{FLOWS} requests of IPv{family} counted as one of {names}",
                DEADLINE,
            )
            more = {name: count - before[name] for name, count in counts().items()}
        (found,) = [name for name in names if more[name] >= FLOWS]
        if found == "FIREWALL":
            assert not more["FORWARDED"], more
        return found

    def wait_for(self, families: frozenset[int], named: str = "") -> None:
        """Until these pass for a firewall and the others are forwarded; `status` names it."""
        with self.view() as view:

            def passing() -> set[int]:
                control = view._maps["control"].entries[0]
                config = view._maps["config"].entries[control.config_slot]
                reasons = {4: config.pass4, 6: config.pass6}
                return {family for family, reason in reasons.items() if reason == Reason.FIREWALL}

            wait_until(lambda: passing() == families, f"IPv{[*families]} passes", DEADLINE)
        told = self.json("status")["firewall"]
        for family in (4, 6):
            found = " | ".join(told[f"ipv{family}"])
            assert named in found if family in families else not found, told


MARKER = Filtering(
    nft(
        "table inet marker { chain c { type filter hook forward priority 0; drop\n}\n}\n", BOTH, ""
    ).load,
    shell("nft delete table inet marker"),
    *(BOTH, "nftables chain inet marker c"),
)


def expected(families: frozenset[int]) -> dict[int, str]:
    return {family: "FIREWALL" if family in families else "FORWARDED" for family in (4, 6)}
