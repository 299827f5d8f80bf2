"""`xdpecmp.hashing` against the running kernel: random flows, the kernel's own choice for each.

Asked in two ways: with RTM_GETROUTE, which takes fields and no packet, and by letting it forward
real packets, which shows what it makes of fragments, extension headers and odd protocols.
"""

from __future__ import annotations

import os
import random
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from testbed.netns import Namespace
from tests.capabilities import Since, kernel_has, require_kernel
from tests.tunnels import TUNNELS, UNFOLLOWED, random_ends
from tests.unit.test_flow_keys import PLAIN, Case, error_about
from xdpecmp.hashing import FlowKey, FlowKeys, bounds, flow_hash, select

FLOWS = 300
SEED = 0xC0FFEE42
WEIGHTS = {4: (1, 2, 5, 7), 6: (3, 1, 4, 9)}
GATEWAYS = {
    4: [socket.inet_aton(f"10.99.1.1{i}") for i in range(4)],
    6: [socket.inet_pton(socket.AF_INET6, f"2001:db8:99:1::1{i}") for i in range(4)],
}
TARGET = {4: socket.inet_aton("198.18.0.0"), 6: socket.inet_pton(socket.AF_INET6, "2001:db8:100::")}
TARGETS = {4: TARGET[4][:2], 6: TARGET[6][:5]}

NLMSG_ERROR, RTM_NEWROUTE, RTM_GETROUTE, NLM_F_REQUEST = 2, 24, 26, 1
RTA_DST, RTA_SRC, RTA_IIF, RTA_GATEWAY = 1, 2, 3, 5
RTA_IP_PROTO, RTA_SPORT, RTA_DPORT, RTA_FLOWLABEL = 27, 28, 29, 31

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def router() -> Iterator[Namespace]:
    """A router with one multipath route a family, its next hops all resolved.

    It gets packets that are sent on `in-peer` and forwards them to `out-peer`; its next hop number
    i has the MAC 02:00:00:00:00:0i.
    """
    require_kernel(Since.HASH_SEED)
    with Namespace("hash") as namespace:
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            namespace.sysctl(key, 1)
        namespace.sysctl("net.ipv4.conf.all.rp_filter", 0)
        namespace.sysctl("net.ipv4.fib_multipath_hash_seed", SEED)
        for name, number in (("in", 0), ("out", 1)):
            namespace.ip(f"link add {name} type veth peer name {name}-peer")
            namespace.sysctl(f"net/ipv6/conf/{name}-peer/disable_ipv6", 1)
            namespace.ip(f"link set {name}-peer up")
            namespace.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
            namespace.ip(f"link set {name} up")
            namespace.ip(f"addr add 10.99.{number}.1/24 dev {name}")
            namespace.ip(f"addr add 2001:db8:99:{number}::1/64 dev {name} nodad")
        add_multipath_route(namespace, 4, socket.AF_INET, "198.18.0.0/15")
        add_multipath_route(namespace, 6, socket.AF_INET6, "2001:db8:100::/40")
        yield namespace


def add_multipath_route(namespace: Namespace, family: int, af: int, prefix: str) -> None:
    route = f"-{family} route add {prefix}"
    paths = zip(GATEWAYS[family], WEIGHTS[family], strict=True)
    for number, (gateway, weight) in enumerate(paths):
        via = socket.inet_ntop(af, gateway)
        namespace.ip(f"neigh add {via} dev out lladdr 02:00:00:00:00:0{number} nud permanent")
        route += f" nexthop via {via} dev out weight {weight}"
    namespace.ip(route)


def random_flow(rng: random.Random, family: int) -> FlowKey:
    """A flow towards the multipath route from an address that is none of the router's."""
    if family == 4:
        source = bytes([rng.randrange(11, 126)]) + rng.randbytes(3)
        destination = TARGET[4][:2] + rng.randbytes(2)
    else:
        source = TARGET[6][:4] + b"\xff" + rng.randbytes(11)
        destination = TARGET[6][:5] + rng.randbytes(11)
    proto = rng.choice([socket.IPPROTO_TCP, socket.IPPROTO_UDP])
    sport, dport = rng.randrange(1, 65536), rng.randrange(1, 65536)
    label = rng.randrange(1 << 20) if family == 6 and kernel_has(Since.GETROUTE_FLOWLABEL) else 0
    return FlowKey(family, source, destination, proto, sport, dport, label)


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def route_request(flow: FlowKey, ifindex: int) -> bytes:
    """RTM_GETROUTE for a packet of this flow that came in on `ifindex`."""
    af, bits = (socket.AF_INET, 32) if flow.family == 4 else (socket.AF_INET6, 128)
    body = struct.pack("=8BI", af, bits, bits, 0, 0, 0, 0, 0, 0)
    body += attribute(RTA_DST, flow.destination) + attribute(RTA_SRC, flow.source)
    body += attribute(RTA_IIF, struct.pack("=I", ifindex))
    body += attribute(RTA_IP_PROTO, bytes([flow.proto]))
    body += attribute(RTA_SPORT, struct.pack("!H", flow.sport))
    body += attribute(RTA_DPORT, struct.pack("!H", flow.dport))
    if flow.flow_label:
        body += attribute(RTA_FLOWLABEL, struct.pack("!I", flow.flow_label))
    return struct.pack("=IHHII", 16 + len(body), RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + body


def gateway_in(answer: bytes) -> bytes:
    """The packed gateway of an RTM_NEWROUTE message; OSError where the answer is an error."""
    length, kind = struct.unpack_from("=IH", answer)
    if kind == NLMSG_ERROR:
        errno = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(errno, os.strerror(errno))
    assert kind == RTM_NEWROUTE
    at = 16 + 12
    while at + 4 <= length:
        size, attribute_kind = struct.unpack_from("=HH", answer, at)
        if attribute_kind == RTA_GATEWAY:
            return answer[at + 4 : at + size]
        at += (size + 3) & ~3
    raise AssertionError(f"no gateway in {answer.hex()}")


def kernel_choices(namespace: Namespace, flows: list[FlowKey]) -> list[bytes]:
    """The gateway that the kernel picks for each flow."""
    ifindex = namespace.ifindex("in")
    choices = []
    with namespace.enter():
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with kernel:
        kernel.settimeout(5)
        for flow in flows:
            kernel.send(route_request(flow, ifindex))
            choices.append(gateway_in(kernel.recv(65536)))
    return choices


ASKED = [(4, 0), (4, 1), (4, 2), (4, 3), (6, 0), (6, 1), (6, 2)]
"""Families and policies under which RTM_GETROUTE tells the truth. For IPv6 it hashes the fields
that it was asked about without a packet, and then policy 3 goes without jhash."""


@pytest.mark.parametrize(("family", "policy"), ASKED)
def test_the_kernel_chooses_as_we_do(router: Namespace, family: int, policy: int) -> None:
    router.sysctl(f"net.ipv{family}.fib_multipath_hash_policy", policy)
    fields = 0x37
    router.sysctl(f"net.ipv{family}.fib_multipath_hash_fields", fields)
    rng = random.Random(f"{family} {policy}")
    flows = [random_flow(rng, family) for _ in range(FLOWS)]
    if policy == 2:  # without a packet the label is hashed in another byte order
        flows = [flow._replace(flow_label=0) for flow in flows]
    path_bounds = bounds(WEIGHTS[family])
    hashes = [FlowKeys(policy, flow.for_policy(policy, fields)).hash(SEED) for flow in flows]
    ours = [GATEWAYS[family][select(path_bounds, hash31)] for hash31 in hashes]
    theirs = kernel_choices(router, flows)
    assert set(theirs) == set(GATEWAYS[family])
    wrong = [flow for flow, a, b in zip(flows, ours, theirs, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {FLOWS} differ, the first one {wrong[0]}"


# --- real packets --------------------------------------------------------------------------------

PACKETS = 16
# We walk fewer extension headers than Linux.
FORWARDED = [case for case in PLAIN if case.name != "seven headers"]


# Cut headers, at which Linux stops as we do, though the data path leaves such packets to it.
CUT = [tunnel for tunnel in UNFOLLOWED if " cut" in tunnel.name or "short" in tunnel.name]

_ALL = 0xFFF
_BITS = [1 << bit for bit in range(12)]
FIELDS = [
    *_BITS,
    *(_ALL & ~bit for bit in _BITS),
    *(outer | inner << 6 for outer in (0x03, 0x30, 0x3F) for inner in (0x03, 0x30, 0x3F)),
    *random.Random(34).sample(range(1, _ALL + 1), 12),
]
"""Of fib_multipath_hash_fields: each bit alone, each left out, outer and inner ones mixed."""


def between(packet: bytes, source: bytes, destination: bytes) -> bytes:
    """The packet with other addresses and a good IPv4 header checksum."""
    if packet[0] >> 4 == 6:
        return packet[:8] + source + destination + packet[40:]
    size = (packet[0] & 15) * 4
    header = packet[:10] + bytes(2) + source + destination + packet[20:size]
    total = sum(struct.unpack(f"!{size // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:] + packet[size:]


def packet_socket(namespace: Namespace, interface: str) -> socket.socket:
    with namespace.enter():
        result = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        result.bind((interface, 0x0003))  # ETH_P_ALL
    result.settimeout(5)
    return result


def forwarded_to(namespace: Namespace, packets: list[bytes]) -> list[int]:
    """The number of the next hop that the router sends each packet to."""
    mac = re.findall(r"ether (\S+)", namespace.ip("link show in"))[0]
    router_mac = bytes.fromhex(mac.replace(":", ""))
    chosen = []
    with (
        packet_socket(namespace, "in-peer") as sender,
        packet_socket(namespace, "out-peer") as receiver,
    ):
        for packet in packets:
            proto = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
            sender.send(router_mac + b"\x02\x00\x00\x00\x01\x00" + proto + packet)
            frame = b""
            while frame[:5] != b"\x02\x00\x00\x00\x00":  # else something of the router's own
                frame = receiver.recv(65536)
            chosen.append(frame[5])
    return chosen


def assert_forwarded_as_we_say(
    router: Namespace, packets: list[bytes], policy: int, fields: int = 0
) -> set[int]:
    """Returns the next hops taken."""
    family = packets[0][0] >> 4
    router.sysctl(f"net.ipv{family}.fib_multipath_hash_policy", policy)
    if policy == 3:
        router.sysctl(f"net.ipv{family}.fib_multipath_hash_fields", fields)
    path_bounds = bounds(WEIGHTS[family])
    ours = [select(path_bounds, flow_hash(packet, policy, SEED, fields)) for packet in packets]
    assert forwarded_to(router, packets) == ours
    return set(ours)


@pytest.mark.parametrize("policy", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "case", FORWARDED, ids=lambda case: f"v{bytes(case.packet)[0] >> 4} {case.name}"
)
def test_the_kernel_forwards_as_we_say(router: Namespace, case: Case, policy: int) -> None:
    packet = bytes(case.packet)
    rng = random.Random(f"{case.name} {policy}")
    flows = [random_flow(rng, packet[0] >> 4) for _ in range(PACKETS)]
    packets = [between(packet, flow.source, flow.destination) for flow in flows]
    assert_forwarded_as_we_say(router, packets, policy, 0x3F)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("policy", [0, 1, 2])
def test_the_kernel_looks_into_tunnels_as_we_do(
    router: Namespace, family: int, policy: int
) -> None:
    rng = random.Random(f"{family} {policy}")
    packets = [
        tunnel.build(random_ends(rng, TARGETS))
        for tunnel in [*TUNNELS, *CUT]
        for _ in range(2)
        if tunnel.outer == family
    ]
    taken = assert_forwarded_as_we_say(router, packets, policy)
    assert len(taken) == len(WEIGHTS[family])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("fields", FIELDS, ids=hex)
def test_the_kernel_hashes_chosen_fields_as_we_do(
    router: Namespace, family: int, fields: int
) -> None:
    rng = random.Random(f"{family} {fields}")
    tunnels = [tunnel for tunnel in [*TUNNELS, *CUT] if tunnel.outer == family]
    packets = [tunnel.build(random_ends(rng, TARGETS)) for tunnel in tunnels]
    assert_forwarded_as_we_say(router, packets, 3, fields)


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_forwards_icmp_errors_as_we_say(router: Namespace, family: int) -> None:
    """Under policy 0; under the others we differ on purpose."""
    rng = random.Random(family)
    plain = next(bytes(case.packet) for case in PLAIN if bytes(case.packet)[0] >> 4 == family)
    packets = []
    for _ in range(PACKETS):
        flow = random_flow(rng, family)
        quote = between(plain, flow.destination, flow.source)
        packets.append(
            between(error_about(quote), random_flow(rng, family).source, flow.destination)
        )
    assert_forwarded_as_we_say(router, packets, 0)
