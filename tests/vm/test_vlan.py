"""VLAN devices, in and out: tags are read from the packet, changed, doubled and taken off.

    client ── c0 (tag 100) ── router ── e1 (another tag), e2 (two tags) ── servers

The devices of the topology's names are VLAN devices here, at both ends of each wire, so that a
frame with a wrong tag is nobody's. Below each is a veth, `c0-nic` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from testbed.netns import Namespace, veth
from tests.capabilities import NATIVE, Since, since
from tests.net.topology import SEED, Anycast
from tests.net.traffic import Servers, by_server
from tests.vm.asking import FLOWS, asked, flows_and_answers
from tests.vm.devices import require_kind

Tags = tuple[tuple[str, int], ...]
INGRESS: Tags = (("802.1Q", 100),)
EGRESS: dict[str, Tags] = {
    "untagged": (),
    "same-tag": INGRESS,
    "another-tag": (("802.1Q", 200),),
    "service-tag": (("802.1ad", 200),),
    "two-tags": (("802.1ad", 300), ("802.1Q", 301)),
}
MODES = (NATIVE, "generic")


class Tagged(Anycast):
    """The topology with these tags on the wires of `c0`, `e1`, `e2` …"""

    def __init__(self, tags: Sequence[Tags], seed: int | None = None) -> None:
        ingress, *egress = tags
        self._tags = {"c0": ingress} | {f"e{i}": each for i, each in enumerate(egress, 1)}
        require_kind("vlan")
        super().__init__(range(1, len(egress) + 1), seed=seed)

    def join(self, far: Namespace, far_name: str, name: str) -> None:
        """VLAN devices over the two ends of a veth whose tags are in the packet, not beside it."""
        veth(far, f"{far_name}-nic", self.ns, f"{name}-nic")
        for namespace, end in ((far, far_name), (self.ns, name)):
            lower = f"{end}-nic"
            offloads = "rxvlan off txvlan off rx-vlan-stag-hw-parse off tx-vlan-stag-hw-insert off"
            namespace.run("ethtool", "-K", lower, *offloads.split())
            if namespace is far:  # what leaves by the router's end may be merged in generic mode
                namespace.run("ethtool", "-K", lower, "tx", "off")
            for number, (protocol, vlan) in enumerate(self._tags[name], 1):
                upper = end if number == len(self._tags[name]) else f"{end}-{number}"
                kind = f"type vlan protocol {protocol} id {vlan}"
                namespace.ip(f"link add link {lower} name {upper} {kind}")
                namespace.ip(f"link set {upper} up")
                lower = upper
            if not self._tags[name]:
                namespace.ip(f"link set {lower} down")
                namespace.ip(f"link set {lower} name {end} up")


@pytest.fixture(scope="module", params=EGRESS)
def one_server(request: pytest.FixtureRequest) -> Iterator[Tagged]:
    with Tagged([INGRESS, EGRESS[request.param]]) as made:
        yield made


@pytest.mark.parametrize("mode", MODES)
def test_from_tag_to_tag(one_server: Tagged, mode: str) -> None:
    net = one_server
    with flows_and_answers(net) as (servers, flows, recorded):
        net.attach("c0-nic", "--mode", mode)
        assert asked(net, servers, flows, recorded) == {"FORWARDED": len(flows)}


@since(Since.HASH_SEED)
@pytest.mark.parametrize("mode", MODES)
def test_a_route_over_different_tags(mode: str) -> None:
    """No flow moves."""
    with (
        Tagged([INGRESS, EGRESS["another-tag"], EGRESS["two-tags"]], seed=SEED) as net,
        Servers(net) as servers,
        servers.flows(4, FLOWS) as ipv4,
        servers.flows(6, FLOWS) as ipv6,
    ):
        flows = [*ipv4, *ipv6]
        recorded = servers.all_answers(flows)
        assert set(by_server(recorded)) == {1, 2}
        net.attach("c0-nic", "--mode", mode)
        assert asked(net, servers, flows, recorded) == {"FORWARDED": len(flows)}


def test_the_vlan_device_itself_is_refused(one_server: Tagged) -> None:
    done = one_server.run("attach", "c0", status=2)
    assert "c0 is a VLAN device" in done.stderr
    assert "xdpecmp attach c0-nic" in done.stderr
