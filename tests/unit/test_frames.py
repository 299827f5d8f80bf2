"""What a user gives, as frames: words, hex, captures."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet
from scapy.utils import PcapNgWriter, PcapWriter

from xdpecmp.model.flow import Flow
from xdpecmp.observe.frames import (
    MAX_FRAME,
    PROTOCOLS,
    BadInput,
    encapsulate,
    frame_of,
    packet_of,
    parse_hex,
    parse_words,
    read_pcap,
)

MAC = bytes.fromhex("0200000000aa")
V4 = "192.0.2.80 from 198.18.0.5"
V6 = "2001:db8:80::80 from 2001:db8::5"


def packed(text: str) -> bytes:
    return ip_address(text).packed


def flow(words: str) -> Flow:
    found = parse_words(words.split()).flow
    assert found is not None
    return found


# --- words ---------------------------------------------------------------------------------------

UNDERSTOOD = {
    V4: Flow(packed("198.18.0.5"), packed("192.0.2.80"), 17),
    f"{V4} iif eth0": Flow(packed("198.18.0.5"), packed("192.0.2.80"), 17),
    f"{V4} ipproto tcp sport 1 dport 0x50": Flow(
        packed("198.18.0.5"), packed("192.0.2.80"), 6, 1, 80
    ),
    "192.0.2.80 dport 2 ipproto 17 sport 1 from 198.18.0.5": Flow(
        packed("198.18.0.5"), packed("192.0.2.80"), 17, 1, 2
    ),
    f"{V4} ipproto icmp": Flow(packed("198.18.0.5"), packed("192.0.2.80"), 1),
    f"{V6} ipproto icmp": Flow(packed("2001:db8::5"), packed("2001:db8:80::80"), 58),
    f"{V6} flowlabel 0xfffff": Flow(
        packed("2001:db8::5"), packed("2001:db8:80::80"), 17, flow_label=0xFFFFF
    ),
}


@pytest.mark.parametrize("words", UNDERSTOOD)
def test_words(words: str) -> None:
    found = parse_words(words.split())
    assert found.flow == UNDERSTOOD[words]
    assert found.iif == ("eth0" if "iif" in words else None)


def test_an_interface_alone() -> None:
    """As goes with --pcap and --hex."""
    assert parse_words(["iif", "eth0"]) == (None, "eth0")
    assert parse_words([]) == (None, None)


NOT_UNDERSTOOD = {
    "192.0.2.80": "from SRC is missing",
    "nonsense from 198.18.0.5": "'nonsense' is not an IP address",
    "192.0.2.80 from 198.18.0.300": "'198.18.0.300' is not an IP address",
    "192.0.2.80 from 2001:db8::5": "one address is IPv4",
    "from 198.18.0.5": "no destination",
    f"{V4} via 10.0.0.1": "'via' is not understood",
    f"{V4} iif": "iif lacks its value",
    f"{V4} sport 1 sport 2": "sport is there twice",
    f"{V4} sport 65536": "sport '65536' is not a number from 0 to 65535",
    f"{V4} sport -1": "sport '-1' is not a number",
    f"{V4} dport http": "dport 'http' is not a number",
    f"{V4} ipproto quic": "ipproto 'quic' is not known",
    f"{V4} ipproto 256": "ipproto '256' is not known",
    f"{V4} ipproto icmp sport 1": "have ports",
    f"{V4} flowlabel 1": "IPv4 has no flow label",
    f"{V6} flowlabel 0x100000": "flowlabel '0x100000' is not a number",
}


@pytest.mark.parametrize("words", NOT_UNDERSTOOD)
def test_words_that_are_none(words: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_words(words.split())
    assert NOT_UNDERSTOOD[words] in raised.value.message


# --- frames --------------------------------------------------------------------------------------

PACKETS: dict[str, Packet] = {
    f"{V4} sport 7 dport 9": IP(src="198.18.0.5", dst="192.0.2.80", id=0, flags="DF")
    / UDP(sport=7, dport=9),
    f"{V4} ipproto tcp sport 7 dport 9": IP(src="198.18.0.5", dst="192.0.2.80", id=0, flags="DF")
    / TCP(sport=7, dport=9, window=0xFFFF),
    f"{V4} ipproto icmp": IP(src="198.18.0.5", dst="192.0.2.80", id=0, flags="DF")
    / ICMP(id=1, seq=1),
    f"{V6} sport 7 dport 9 flowlabel 0x12345": IPv6(
        src="2001:db8::5", dst="2001:db8:80::80", fl=0x12345
    )
    / UDP(sport=7, dport=9),
    f"{V6} ipproto tcp sport 7 dport 9": IPv6(src="2001:db8::5", dst="2001:db8:80::80")
    / TCP(sport=7, dport=9, window=0xFFFF),
    f"{V6} ipproto icmp": IPv6(src="2001:db8::5", dst="2001:db8:80::80")
    / ICMPv6EchoRequest(id=1, seq=1),
}


@pytest.mark.parametrize("words", PACKETS)
def test_packets(words: str) -> None:
    """Every byte of them, lengths and checksums too."""
    packet = PACKETS[words]
    packet[IPv6 if IPv6 in packet else IP].fields["hlim" if IPv6 in packet else "ttl"] = 64
    assert packet_of(flow(words)).hex(" ") == bytes(packet).hex(" ")


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("words", [V4, V6])
def test_lengths_of_every_protocol(name: str, words: str) -> None:
    packet = packet_of(flow(f"{words} ipproto {name}"))
    length = packet[2:4] if packet[0] == 0x45 else packet[4:6]
    header = 0 if packet[0] == 0x45 else 40
    assert int.from_bytes(length, "big") + header == len(packet)


def test_tags() -> None:
    packet = packet_of(flow(V4))
    made = encapsulate(packet, MAC, [(0x88A8, 5), (0x8100, 7)])
    wanted = Ether(dst="02:00:00:00:00:aa", src="02:00:00:00:00:01") / Dot1AD(vlan=5)
    assert made == bytes(wanted / Dot1Q(vlan=7) / IP(packet))


def test_ethertype() -> None:
    assert frame_of(flow(V4), MAC)[12:14].hex() == "0800"
    assert frame_of(flow(V6), MAC)[12:14].hex() == "86dd"


# --- hex -----------------------------------------------------------------------------------------

FRAME = frame_of(flow(V4), MAC)


@pytest.mark.parametrize(
    "text",
    [
        FRAME.hex(),
        FRAME.hex().upper(),
        FRAME.hex(" "),
        FRAME.hex(":"),
        FRAME.hex("-"),
        "\n".join(
            f"\t0x{at:04x}:  {FRAME[at : at + 16].hex(' ', 2)}" for at in range(0, len(FRAME), 16)
        ),
    ],
)
def test_hex(text: str) -> None:
    assert parse_hex(text) == FRAME


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a frame of 0 bytes"),
        ("00" * 13, "a frame of 13 bytes"),
        ("00" * (MAX_FRAME + 1), f"a frame of {MAX_FRAME + 1} bytes"),
        ("00" * 14 + "0", "an odd number of hex digits"),
        ("00" * 14 + "0g", "'g' is no hex digit"),
    ],
)
def test_no_hex(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_hex(text)


# --- captures ------------------------------------------------------------------------------------


def capture(
    *packets: bytes,
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    link: int = 1,
    lengths: tuple[int, ...] = (),
) -> bytes:
    """A pcap file; `lengths`: of the packets on the wire, where they were cut."""
    made = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for packet, length in zip(packets, lengths or map(len, packets), strict=True):
        made += struct.pack(f"{order}IIII", 1, 2, len(packet), length) + packet
    return made


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
def test_byte_orders(order: str, magic: int) -> None:
    first, second = read_pcap(capture(FRAME, FRAME[::-1], order=order, magic=magic))
    assert first == (1, FRAME, 0, True)
    assert second == (2, FRAME[::-1], 0, True)


def test_as_others_write_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pcap") / "one.pcap"
    with PcapWriter(str(path)) as writer:
        writer.write(Ether(FRAME))
    assert [packet.data for packet in read_pcap(path.read_bytes())] == [FRAME]


def test_pcapng_is_told_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pcap") / "one.pcapng"
    with PcapNgWriter(str(path)) as writer:
        writer.write(Ether(FRAME))
    with pytest.raises(BadInput, match="pcapng") as raised:
        list(read_pcap(path.read_bytes()))
    assert "tcpdump -r" in raised.value.hint


@pytest.mark.parametrize(("link", "head"), [(101, b""), (113, bytes(16)), (276, bytes(20))])
def test_links_without_ethernet(link: int, head: bytes) -> None:
    (packet,) = read_pcap(capture(head + FRAME[14:], link=link))
    assert packet == (1, FRAME[14:], 0, False)


def test_cut_packets_have_zeros() -> None:
    (packet,) = read_pcap(capture(FRAME[:30], lengths=(len(FRAME),)))
    assert packet == (1, FRAME[:30] + bytes(len(FRAME) - 30), len(FRAME) - 30, True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a pcap file"),
        (b"hello, world, this is text", "not a pcap file"),
        (capture()[:23], "not a pcap file"),
        (capture(link=105), "link of type 105"),
        (capture(FRAME, FRAME)[:-1], "cut off in packet 2"),
    ],
)
def test_no_capture(data: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        list(read_pcap(data))


def test_an_empty_capture() -> None:
    assert list(read_pcap(capture())) == []
