"""XDP programs: attached, replaced, detached, and never anybody else's."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from testbed.netns import Namespace
from xdpecmp.errors import ForeignProgram, KernelRefused, NoSuchInterface
from xdpecmp.netlink import Kernel
from xdpecmp.netlink import xdp as xdp_module

pytestmark = pytest.mark.root


class _Load(ctypes.Structure):
    """The start of union bpf_attr for BPF_PROG_LOAD; the kernel takes the rest for zero."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log", ctypes.c_uint64 * 2),
    )


@pytest.fixture
def programs() -> Iterator[Callable[[], int]]:
    """Loads an XDP program that passes everything; returns its descriptor."""
    opened: list[int] = []

    def load() -> int:
        code = ctypes.create_string_buffer(
            struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)
        )  # r0 = XDP_PASS; exit
        text = ctypes.create_string_buffer(b"GPL")
        load = _Load(6, 2, ctypes.addressof(code), ctypes.addressof(text))
        descriptor = ctypes.CDLL(None, use_errno=True).syscall(
            321 if os.uname().machine == "x86_64" else 280,
            5,
            ctypes.byref(load),
            ctypes.sizeof(load),
        )
        assert descriptor >= 0, os.strerror(ctypes.get_errno())
        opened.append(descriptor)
        return int(descriptor)

    yield load
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_attach_replace_detach(
    router: Namespace, kernel: Kernel, programs: Callable[[], int], mode: str
) -> None:
    eth0 = router.ifindex("eth0")
    first, second = programs(), programs()
    identity = kernel.attach_xdp(eth0, first, mode)
    assert identity == xdp_module.program_id(first)
    link = kernel.links()[eth0]
    assert (link.xdp_prog_id, link.xdp_mode) == (identity, mode)
    replaced = kernel.attach_xdp(eth0, second, mode, expected_fd=first)
    assert replaced == kernel.links()[eth0].xdp_prog_id != identity
    kernel.detach_xdp(eth0, mode, second)
    assert (kernel.links()[eth0].xdp_prog_id, kernel.links()[eth0].xdp_mode) == (0, "")


def test_programs_of_others_are_not_touched(
    router: Namespace, kernel: Kernel, programs: Callable[[], int]
) -> None:
    eth0 = router.ifindex("eth0")
    theirs, ours, third = programs(), programs(), programs()
    kernel.attach_xdp(eth0, theirs, "native")
    before = kernel.links()[eth0]
    for attempt in (
        lambda: kernel.attach_xdp(eth0, ours, "native"),
        lambda: kernel.attach_xdp(eth0, ours, "generic"),
        lambda: kernel.attach_xdp(eth0, ours, "native", expected_fd=third),
        lambda: kernel.detach_xdp(eth0, "native", ours),
        lambda: kernel.detach_xdp(eth0, "generic", theirs),
    ):
        with pytest.raises(ForeignProgram, match="eth0"):
            attempt()
        assert kernel.links()[eth0] == before
    kernel.detach_xdp(eth0, "native", theirs)
    with pytest.raises(ForeignProgram, match="nothing"):
        kernel.detach_xdp(eth0, "native", theirs)


def test_no_native_mode(router: Namespace, kernel: Kernel, programs: Callable[[], int]) -> None:
    router.ip("link add br0 type bridge")
    with pytest.raises(KernelRefused) as refusal:
        kernel.attach_xdp(router.ifindex("br0"), programs(), "native")
    assert "--mode generic" in refusal.value.hint


def test_attach_to_no_device(kernel: Kernel, programs: Callable[[], int]) -> None:
    with pytest.raises(NoSuchInterface, match="#9999"):
        kernel.attach_xdp(9999, programs(), "native")


def test_a_refusal_says_why_and_of_which_device(
    router: Namespace, kernel: Kernel, programs: Callable[[], int]
) -> None:
    """The kernel's own words (extack), not the text of an errno."""
    router.ip("link add jumbo mtu 9000 type veth peer name far mtu 9000")
    with pytest.raises(KernelRefused) as refusal:
        kernel.attach_xdp(router.ifindex("jumbo"), programs(), "native")
    assert refusal.value.message.startswith("jumbo: ")
    assert "MTU is too large" in refusal.value.message
    assert "--mode generic" in refusal.value.hint
    kernel.attach_xdp(router.ifindex("jumbo"), programs(), "generic")
