"""The topology over the virtio NICs that `make test-vm` gives its virtual machine: three wires,
with a NIC at either end."""

from __future__ import annotations

import json
import subprocess

from testbed.netns import Namespace
from tests.capabilities import require_stock_kernel
from tests.net.topology import Anycast
from vagrant.stock_kernel.machine import nic_address

WIRES = ("c0", "e1", "e2")
"""The router's ends."""


def _nics() -> dict[str, str]:
    """Names by MAC address, of the host's own devices."""
    done = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True)
    return {link["address"]: link["ifname"] for link in json.loads(done.stdout)}


def require_wires() -> None:
    """Skip where there are none."""
    require_stock_kernel(nic_address(0, 0) in _nics(), "the NICs of make test-vm's machine")


class Wired(Anycast):
    """The NICs return to where they came from with their namespaces."""

    def join(self, far: Namespace, far_name: str, name: str) -> None:
        for end, (namespace, new) in enumerate([(self.ns, name), (far, far_name)]):
            old = _nics()[nic_address(WIRES.index(name), end)]
            subprocess.run(["ip", "link", "set", old, "netns", namespace.name], check=True)
            namespace.ip(f"link set {old} name {new} up")
