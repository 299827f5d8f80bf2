"""`xdpecmp explain`: what it says is what packets do, and nothing is done by saying it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.capabilities import Since, kernel_has
from tests.net.command import AS_NOBODY, command
from tests.net.explaining import CLIENT, explain, words
from tests.net.sabotage import rotated, sabotaged, set_policy
from tests.net.topology import SEED, VIP, VIP_PREFIX, Anycast
from tests.net.traffic import PORT, Servers
from xdpecmp.hashing import select

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def net() -> Iterator[Anycast]:
    with Anycast((1, 2, 3)) as made:
        made.ns.ip("route add blackhole 203.0.113.0/24")
        made.ns.ip("route add prohibit 198.51.100.0/25")
        made.ns.ip("route add unreachable 2001:db8:bad::/48")
        made.ns.ip("route add 203.0.113.1/32 via 10.0.1.2")
        made.ns.ip("route add 203.0.113.2/32 via 10.0.1.99")
        made.ns.ip("route add 203.0.113.128/25 via 10.0.1.2")
        made.ns.ip("route add 203.0.113.128/26 via 10.0.1.2")
        made.ns.ip("rule add from 203.0.113.77 lookup 100")
        made.ns.ip("rule del from 203.0.113.77 lookup 100")
        made.attach("c0", "--mode", "native")
        yield made


@pytest.fixture(autouse=True)
def policy_0(net: Anycast) -> Iterator[None]:
    yield
    net.policy(0)


# --- what it says --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("family", [4, 6])
def test_it_says_what_happens(net: Anycast, family: int, policy: int) -> None:
    """Flows by real traffic, one after another."""
    net.policy(policy)
    with Servers(net) as servers, servers.flows(family, 6) as flows:
        for flow, answer in zip(flows, servers.all_answers(flows), strict=True):
            said = explain(
                net,
                *(VIP[family], "from", flow.source, "ipproto", "udp"),
                *("sport", str(flow.port), "dport", str(PORT)),
                *(("flowlabel", str(flow.label)) if family == 6 else ()),
            )
            assert said["verdict"] == "forward"
            assert said["dev"] == f"e{answer.server}"
            assert said["hash"] == flow.key(policy).hash(SEED)
            can_ask = family == 4 or policy != 0 or kernel_has(Since.GETROUTE_FLOWLABEL)
            assert said["twin_agrees"] is True
            assert said["agrees"] is (True if can_ask else None)
            assert said["kernel"] == ({k: said[k] for k in ("via", "dev")} if can_ask else None)


@pytest.mark.parametrize("policy", [0, 1, 2, 3])
@pytest.mark.parametrize("family", [4, 6])
def test_everything_fits_together(net: Anycast, family: int, policy: int) -> None:
    set_policy(net, policy)
    said = explain(net, *words(family, ipproto="tcp", sport=4711, dport=80))
    assert said.keys() >= {
        *("verdict", "reason", "prefix", "key", "hash", "via", "dev", "kernel", "agrees"),
    }
    assert (said["verdict"], said["reason"], said["iif"]) == ("forward", "FORWARDED", "c0")
    assert (said["prefix"], said["policy"]) == (VIP_PREFIX[family], policy)
    group = said["group"]
    bounds = [path["bound"] for path in group["paths"]]
    assert bounds[-1] == 2**31 - 1
    assert [path["weight"] for path in group["paths"]] == [1, 2, 3]
    (chosen,) = [path for path in group["paths"] if path["chosen"]]
    assert group["paths"].index(chosen) == select(bounds, said["hash"])
    assert (chosen["via"], chosen["dev"]) == (said["via"], said["dev"])
    assert said["twin_agrees"] is True
    assert said["agrees"] is (None if (family, policy) == (6, 3) else True), said["why"]


def test_the_key(net: Anycast) -> None:
    net.policy(1)
    key = explain(net, *words(6, ipproto="tcp", sport=4711, dport=80, flowlabel=5))["key"]
    assert key == {
        "family": 6,
        "source": CLIENT[6],
        "destination": VIP[6],
        "proto": 6,
        "sport": 4711,
        "dport": 80,
        "flow_label": 0,
    }


OTHER_ROUTES = {
    "local": ("10.0.0.1", "pass", "ROUTE_LOCAL", "10.0.0.1/32", None),
    "none": ("8.8.8.8", "pass", "NO_ROUTE", None, None),
    "blackhole": ("203.0.113.9", "pass", "ROUTE_SPECIAL", "203.0.113.0/24", None),
    "single": ("203.0.113.1", "forward", "FORWARDED", "203.0.113.1/32", True),
    "within another": ("203.0.113.129", "forward", "FORWARDED", "203.0.113.128/26", True),
    "around another": ("203.0.113.201", "forward", "FORWARDED", "203.0.113.128/25", True),
    "not resolved": ("203.0.113.2", "pass", "NEIGHBOUR", "203.0.113.2/32", True),
    "on the link": ("10.0.1.2", "forward", "FORWARDED", "10.0.1.2/32", True),
    "never there": ("10.0.1.77", "pass", "ON_LINK", "10.0.1.0/24", True),
    "multicast": ("224.0.0.1", "pass", "MULTICAST", None, None),
    "IPv6, unreachable": (
        *("2001:db8:bad::1", "pass", "ROUTE_SPECIAL", "2001:db8:bad::/48", None),
    ),
}


@pytest.mark.parametrize("name", OTHER_ROUTES)
def test_other_routes(net: Anycast, name: str) -> None:
    to, verdict, reason, prefix, agrees = OTHER_ROUTES[name]
    said = explain(net, to, "from", CLIENT[6 if ":" in to else 4])
    assert (said["verdict"], said["reason"]) == (verdict, reason)
    assert said["prefix"] == prefix
    assert said["agrees"] is agrees, said
    assert (said["hash"], said["key"], said["group"]) == (None, None, None)
    if agrees is None:
        assert said["why"]


def test_every_single_route(net: Anycast) -> None:
    """Whatever the numbers of their next hops: there is one with number 0."""
    single = [route["prefix"] for route in net.json("routes") if route["kind"] == "single"]
    assert len(single) > 4
    for prefix in single:
        address = prefix.partition("/")[0]
        if prefix.endswith(("/32", "/128")) and not address.startswith("fe80:"):
            said = explain(net, address, "from", CLIENT[6 if ":" in address else 4])
            assert (said["prefix"], said["agrees"]) == (prefix, True)


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("203.0.113.9", "Invalid argument"),  # what Linux says of a blackhole
        ("198.51.100.9", "Permission denied"),
        ("2001:db8:bad::1", "No route to host"),
        ("8.8.8.8", "Network is unreachable"),
    ],
)
def test_why_linux_does_not_forward(net: Anycast, to: str, error: str) -> None:
    kernel = explain(net, to, "from", CLIENT[6 if ":" in to else 4])["kernel"]
    assert kernel == {"via": None, "dev": None, "error": error}


def test_a_broadcast_address_as_source(net: Anycast) -> None:
    """Linux refuses it where there has once been a rule: fib_has_custom_rules."""
    said = explain(net, VIP[4], "from", "10.0.1.255")
    assert (said["verdict"], said["reason"]) == ("pass", "MARTIAN_SOURCE")
    assert said["kernel"]["error"] == "Invalid argument"


def test_on_the_link_there_is_no_gateway(net: Anycast) -> None:
    said = explain(net, "10.0.1.2", "from", CLIENT[4])
    assert (said["via"], said["dev"]) == (None, "e1")


def icmp_error(family: int, about: Packet) -> Packet:
    quote = bytes(about)[:96]
    if family == 4:
        return IP(src="10.0.0.2", dst=VIP[4]) / ICMP(type=3, code=4, nexthopmtu=1300) / quote
    return IPv6(src="2001:db8::2", dst=VIP[6]) / ICMPv6PacketTooBig(mtu=1300) / quote


def framed(net: Anycast, packet: Packet) -> str:
    mac = next(line for line in net.ns.ip("-br link show dev c0").split() if line.count(":") == 5)
    return bytes(Ether(dst=mac, src="02:00:00:00:00:09") / packet).hex()


@pytest.mark.parametrize("policy", [0, 1])
@pytest.mark.parametrize("family", [4, 6])
def test_an_icmp_error_goes_where_its_flow_goes(net: Anycast, family: int, policy: int) -> None:
    net.policy(policy)
    ip = IP if family == 4 else IPv6
    devices = set()
    for port in range(4711, 4715):
        client = f"198.18.1.{port - 4700}" if family == 4 else f"2001:db8:c::{port}"
        reply = ip(src=VIP[family], dst=client) / UDP(sport=PORT, dport=port) / bytes(100)
        said = explain(net, "--hex", framed(net, icmp_error(family, reply)))
        flow = explain(
            net,
            *(VIP[family], "from", client, "ipproto", "udp"),
            *("sport", str(port), "dport", str(PORT)),
        )
        assert said["icmp_error"] is True
        assert (said["hash"], said["dev"]) == (flow["hash"], flow["dev"])
        assert said["twin_agrees"] is True
        assert said["agrees"] is None
        assert "ICMP error" in said["why"]
        devices.add(said["dev"])
    assert len(devices) > 1


def test_frames_that_are_not_forwarded(net: Anycast) -> None:
    packet = IP(src=CLIENT[4], dst=VIP[4], ttl=1) / UDP()
    said = explain(net, "--hex", framed(net, packet))
    assert (said["verdict"], said["reason"], said["dev"]) == ("pass", "TTL", None)
    said = explain(net, "--hex", "ff" * 6 + framed(net, packet)[12:])
    assert (said["verdict"], said["reason"]) == ("pass", "NOT_OUR_MAC")
    assert (said["iif"], said["prefix"], said["kernel"]) == (None, None, None)


# --- captures ------------------------------------------------------------------------------------


def write_pcap(path: Path, link: int, *frames: bytes) -> str:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    records = (struct.pack("<IIII", 0, 0, len(each), len(each)) + each for each in frames)
    path.write_bytes(head + b"".join(records))
    return str(path)


def test_a_capture(net: Anycast, tmp_path: Path) -> None:
    packets = [IP(src=f"198.18.2.{i}", dst=VIP[4]) / UDP(sport=i, dport=9) for i in range(1, 6)]
    frames = [bytes.fromhex(framed(net, packet)) for packet in packets]
    with_ethernet = write_pcap(tmp_path / "a.pcap", 1, *frames)
    without = write_pcap(tmp_path / "b.pcap", 101, *(frame[14:] for frame in frames))
    every = explain(net, "--pcap", with_ethernet, "--all")
    assert [said.pop("packet") for said in every] == [1, 2, 3, 4, 5]
    assert [said["key"]["source"] for said in every] == [f"198.18.2.{i}" for i in range(1, 6)]
    assert explain(net, "--pcap", with_ethernet) == every[0]
    others = explain(net, "--pcap", without, "--all", "iif", "c0")
    assert [said | {"packet": 0} for said in others] == [said | {"packet": 0} for said in every]
    large = write_pcap(tmp_path / "c.pcap", 1, bytes(4000), frames[0])
    done = net.run("explain", "--pcap", large, "--all", "-j")
    assert json.loads(done.stdout) == [every[0] | {"packet": 2}]
    assert "packet 1 is left out" in done.stderr
    text = net.run("explain", "--pcap", with_ethernet, "--all").stdout
    assert text.count("verdict") == 5
    assert "packet 5" in text


# --- text ----------------------------------------------------------------------------------------


def test_text(net: Anycast) -> None:
    said = explain(net, *words(4))
    lines = net.run("explain", *words(4)).stdout.splitlines()
    shown = dict(line.split(None, 1) for line in lines if not line.startswith(" "))
    assert shown["verdict"] == f"forward via {said['via']} dev {said['dev']}, in on c0"
    assert shown["reason"].startswith("FORWARDED: ")
    assert shown["route"] == VIP_PREFIX[4]
    assert f"source {CLIENT[4]} destination {VIP[4]}" in shown["key"]
    assert shown["hash"].startswith(f"{said['hash']} ")
    assert shown["Linux"] == f"agrees: via {said['via']} dev {said['dev']}"
    (marked,) = [line for line in lines if line.lstrip().startswith(">")]
    assert f"via {said['via']} dev {said['dev']}" in marked


# --- disagreement --------------------------------------------------------------------------------


def test_a_wrong_hash_is_seen(net: Anycast) -> None:
    with sabotaged(net, "sip_after_zero"):
        said = explain(net, *words(4), status=1)
        assert said["twin_agrees"] is False
        assert "PYTHON" in net.run("explain", *words(4), status=1).stdout
    assert explain(net, *words(4))["twin_agrees"] is True


def test_wrong_next_hops_are_seen(net: Anycast) -> None:
    """The hash is right then, and Linux's choice another."""
    said = explain(net, *words(4))
    with rotated(net):
        wrong = explain(net, *words(4), status=1)
        text = net.run("explain", *words(4), status=1).stdout
    assert (wrong["hash"], wrong["twin_agrees"]) == (said["hash"], True)
    assert wrong["agrees"] is False
    assert wrong["dev"] != said["dev"]
    assert wrong["kernel"] == said["kernel"]
    assert "DISAGREES" in text


# --- refused -------------------------------------------------------------------------------------

REFUSED = {
    "nothing": ("explain", "ask for one thing"),
    "two things": (f"explain {VIP[4]} from {CLIENT[4]} --hex 00", "ask for one thing"),
    "no source": (f"explain {VIP[4]}", "from SRC is missing"),
    "unknown word": (f"explain {VIP[4]} from {CLIENT[4]} via 10.0.0.1", "'via'"),
    "unknown interface": (f"explain {VIP[4]} from {CLIENT[4]} iif nosuch", "nosuch"),
    "not attached to": (f"explain {VIP[4]} from {CLIENT[4]} iif e1", "not attached to e1"),
    "short hex": ("explain --hex 0011", "a frame of 2 bytes"),
    "no hex": ("explain --hex hello", "no hex digit"),
    "no file": ("explain --pcap /nonexistent", "/nonexistent"),
    "no capture": (f"explain --pcap {__file__}", "not a pcap file"),
    "all of what": ("explain --hex 00 --all", "--all is for --pcap"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(net: Anycast, name: str) -> None:
    arguments, thing = REFUSED[name]
    done = net.run(*arguments.split(), status=2)
    assert done.stdout == ""
    assert len(done.lines) == 1
    assert thing in done.stderr


def test_another_version(net: Anycast) -> None:
    """A program that was built from other sources may decide otherwise than ours would."""
    path = net.instance.run / "source"
    kept = path.read_text()
    path.write_text("another")
    try:
        done = net.run("explain", *words(4), status=2)
    finally:
        path.write_text(kept)
    assert "another version" in done.stderr
    assert "xdpecmp attach" in done.stderr


def test_not_root(net: Anycast) -> None:
    inside = ("nsenter", f"--net={net.ns.path}", "--")
    done = command("explain", *words(4), prefix=inside, program=AS_NOBODY)
    assert done.status == 2
    assert len(done.lines) == 1
    assert "sudo" in done.stderr
