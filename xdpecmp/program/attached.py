"""BPF programs that anybody has attached, by way of libbpf."""

from __future__ import annotations

import ctypes
import os
from errno import ENOENT

from .libbpf import check, library


def attached_programs(target: int, attach_type: int) -> int:
    """How many programs are attached. `target`: for tcx the index of a device of the caller's
    namespace, for a flow dissector the descriptor of a namespace. Raises OSError, EINVAL if the
    kernel does not know `attach_type` (BPF_*)."""
    count = ctypes.c_uint32()
    check(
        library().bpf_prog_query(target, attach_type, 0, None, None, ctypes.byref(count)),
        f"device #{target}",
    )
    return count.value


_BPF_FLOW_DISSECTOR = 17


def dissects_flows(namespace: int) -> bool:
    """Whether the network namespace of that descriptor has a BPF flow dissector; one in the initial
    namespace works for all. Raises OSError, EINVAL before Linux 4.20."""
    return attached_programs(namespace, _BPF_FLOW_DISSECTOR) > 0


def next_link(number: int) -> int | None:
    """The id of the BPF link after that one, None after the last."""
    following = ctypes.c_uint32()
    if library().bpf_link_get_next_id(ctypes.c_uint32(number), ctypes.byref(following)) < 0:
        errno = ctypes.get_errno()
        if errno == ENOENT:
            return None
        raise OSError(errno, os.strerror(errno), "BPF links")
    return following.value


class _LinkInfo(ctypes.Structure):
    """The beginning of struct bpf_link_info, with its fields for a netfilter link."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("type", "id", "prog_id", "pad", "pf", "hook")),
        ("priority", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    ]


BPF_LINK_TYPE_NETFILTER = 10


def netfilter_link(number: int) -> tuple[int, int, int] | None:
    """Family (NFPROTO_*), hook and flags of a netfilter program's link; None if that is another
    kind of link, or does not exist any more."""
    fd = library().bpf_link_get_fd_by_id(ctypes.c_uint32(number))
    if fd < 0:
        errno = ctypes.get_errno()
        if errno == ENOENT:
            return None
        raise OSError(errno, os.strerror(errno), f"BPF link {number}")
    try:
        info, length = _LinkInfo(), ctypes.c_uint32(ctypes.sizeof(_LinkInfo))
        result = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length))
        check(result, f"BPF link {number}")
    finally:
        os.close(fd)
    if info.type != BPF_LINK_TYPE_NETFILTER:
        return None
    return info.pf, info.hook, info.flags
