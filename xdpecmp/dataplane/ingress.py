"""Whose frames count: the maps `interfaces`, `vlans` and `macs`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..compile import Interface, MacKey, Tables, VlanKey
from ..program import libbpf
from ..program.abi import CAPACITY, INDIRECT_INGRESS
from ..program.maps import Maps

IFINDEX_WORD = 1
"""The word of struct interface that makes it count."""

K = TypeVar("K")


class Ingress:
    """The interfaces that frames come in by."""

    def __init__(self, maps: Maps) -> None:
        """Takes over what an earlier agent left in the maps."""
        self._maps = maps
        self._interfaces: dict[int, Interface] = {}
        self._vlans: dict[VlanKey, int] = {}
        self._macs: dict[MacKey, int] = {}
        self.crowded_out: Sequence[int] = []
        """Indexes of interfaces whose place another one has: what they receive passes to Linux."""
        self._adopt()

    def _adopt(self) -> None:
        entries = self._maps["interfaces"].entries
        for slot in range(CAPACITY["INTERFACES_MAX"]):
            ifindex = entries[slot].ifindex & ~INDIRECT_INGRESS
            if ifindex:
                self._interfaces[ifindex] = Interface(b"", 0, 0, 0)  # differs from any wanted one
        for key, ifindex in self._maps.items("vlans"):
            fields = (key.outer_tpid, key.outer_vid, key.inner_tpid, key.inner_vid)
            swapped = (socket.htons(fields[0]), fields[1], socket.htons(fields[2]), fields[3])
            self._vlans[VlanKey(key.ifindex, *swapped)] = ifindex & ~INDIRECT_INGRESS
        for key, ifindex in self._maps.items("macs"):
            mac = key.mac.to_bytes(8, "little")[:6]
            self._macs[MacKey(key.ifindex, mac)] = ifindex & ~INDIRECT_INGRESS

    def sync(self, tables: Tables) -> None:
        """Make the maps say what `tables` says."""
        array, value = self._maps["interfaces"], self._maps.layout.value("interfaces")
        wanted, self.crowded_out = _seated(tables.interfaces, array.count)
        for ifindex in self._interfaces.keys() - wanted.keys():
            array.store_word(ifindex % array.count, IFINDEX_WORD, 0)
            del self._interfaces[ifindex]
        for ifindex, interface in wanted.items():
            if self._interfaces.get(ifindex) != interface:
                struct = value(
                    flags=interface.flags,
                    rp_filter=interface.rp_filter,
                    ifindex=ifindex if interface.direct else ifindex | INDIRECT_INGRESS,
                    logical=interface.logical,
                )
                struct.mac[:] = interface.mac
                array.store(ifindex % array.count, struct, publish=IFINDEX_WORD)
                self._interfaces[ifindex] = interface
        self._vlans = self._sync_keys("vlans", self._vlans, tables.vlans, self._vlan_key)
        self._macs = self._sync_keys("macs", self._macs, tables.macs, self._mac_key)

    def _sync_keys(
        self,
        name: str,
        held: Mapping[K, int],
        wanted: Mapping[K, int],
        packed: Callable[[K], bytes],
    ) -> dict[K, int]:
        """What leads from tags or a MAC address to an interface; what is stored."""
        fd = self._maps.fds[name]
        for key in held.keys() - wanted.keys():
            libbpf.map_delete(fd, packed(key))
        stored = dict(wanted)
        for key, ifindex in wanted.items():
            if held.get(key) != ifindex:
                value = (ifindex | INDIRECT_INGRESS).to_bytes(4, "little")
                try:
                    libbpf.map_update(fd, packed(key), value)
                except OSError:  # there are too many: what comes in by this one passes
                    libbpf.map_delete(fd, packed(key))
                    del stored[key]
        return stored

    def _mac_key(self, key: MacKey) -> bytes:
        kind = self._maps.layout.key("macs")
        return bytes(kind(mac=int.from_bytes(key.mac, "little"), ifindex=key.ifindex))

    def _vlan_key(self, key: VlanKey) -> bytes:
        return bytes(
            self._maps.layout.key("vlans")(
                ifindex=key.ifindex,
                outer_tpid=socket.htons(key.outer_tpid),
                outer_vid=key.outer_vid,
                inner_tpid=socket.htons(key.inner_tpid),
                inner_vid=key.inner_vid,
            )
        )


def _seated(
    interfaces: Mapping[int, Interface], places: int
) -> tuple[dict[int, Interface], list[int]]:
    """The interfaces that find their place free, and the indexes of those that don't: the numbers
    of two that are 4,096 apart, of which the lower one has it."""
    seated: dict[int, Interface] = {}
    taken: set[int] = set()
    crowded_out = []
    for ifindex in sorted(interfaces):
        if ifindex % places in taken:
            crowded_out.append(ifindex)
        else:
            taken.add(ifindex % places)
            seated[ifindex] = interfaces[ifindex]
    return seated, crowded_out
