"""Drivers' statistics have no common names: what is taken for a loss, and what is not."""

from __future__ import annotations

import pytest

from xdpecmp.netlink.devicestats import xdp_drops, xdp_sent

VETH = {
    "peer_ifindex": 7,
    "rx_queue_0_xdp_packets": 100,
    "rx_queue_0_drops": 2,
    "rx_queue_0_xdp_redirect": 90,
    "rx_queue_0_xdp_drops": 3,
    "rx_queue_0_xdp_tx_errors": 4,
    "tx_queue_0_xdp_xmit": 50,
    "tx_queue_0_xdp_xmit_errors": 10,
    "tx_queue_1_xdp_xmit": 5,
    "tx_queue_1_xdp_xmit_errors": 20,
}


@pytest.mark.parametrize(
    ("statistics", "is_veth", "drops"),
    [
        ({}, False, 0),
        (VETH, True, 2 + 3 + 4 + 30),
        # virtio_net, by queue
        (
            {"rx_queue_0_xdp_drops": 1, "tx_queue_0_xdp_tx_drops": 2, "rx_queue_0_drops": 9},
            False,
            3,
        ),
        # mlx5, in all and by channel
        ({"tx_xdp_full": 7, "tx0_xdp_full": 3, "tx1_xdp_full": 4, "rx_packets": 9}, False, 7),
        ({"tx_errors": 5, "rx_dropped": 6, "rx_xdp_redirect": 7}, False, 0),
    ],
)
def test_drops(statistics: dict[str, int], is_veth: bool, drops: int) -> None:
    assert xdp_drops(statistics, is_veth) == drops


def test_sent() -> None:
    assert xdp_sent(VETH, True) == 55
    assert xdp_sent(VETH, False) is None
    assert xdp_sent({"rx_queue_0_drops": 1}, True) is None
