"""Small questions to this process's surroundings."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

from ..errors import XdpecmpError
from ..places import check_bpffs
from ..program import compiler

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""What attaching and BPF take; include/uapi/linux/capability.h. CAP_SYS_ADMIN has CAP_BPF in it,
and is what finding a program by its id takes."""

_TICKLESS = Path("/sys/devices/system/cpu/nohz_full")


def find_bcc() -> tuple[str, bool]:
    """Version of the module bcc ("" if there is none), and whether it is the BPF Compiler
    Collection. Without importing it, which would load a compiler."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        return "", False
    match = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", compiler.version())
    is_ours = Path(found.origin).with_name("libbcc.py").exists()
    return (match[1] if match else "of no version"), is_ours


def libbpf_version() -> str:
    """Of libbpf.so.1; "" if it does not load."""
    try:
        library = ctypes.CDLL("libbpf.so.1")
    except OSError:
        return ""
    library.libbpf_version_string.restype = ctypes.c_char_p
    version: bytes = library.libbpf_version_string()
    return version.decode().removeprefix("v")


def bpffs_error() -> XdpecmpError | None:
    """What `attach` would say."""
    try:
        check_bpffs()
    except XdpecmpError as error:
        return error
    return None


def missing_capabilities() -> tuple[str, ...]:
    """Those that this process lacks."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    held = int(match[1], 16) if match else 0
    return tuple(name for name, bit in _CAPABILITIES.items() if not held >> bit & 1)


def tickless_cpus() -> str:
    """CPUs with nohz_full=, as the kernel lists them; "" for none."""
    try:
        text = _TICKLESS.read_text().strip()
    except OSError:  # a kernel without it
        return ""
    return "" if text == "(null)" else text


def is_compiled(descriptor: int) -> bool:
    """Whether the kernel compiled a program (JIT) rather than interprets it. Asking the program
    works in any namespace, where net.core.bpf_jit_enable is seen in the first one only."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return re.search(r"^prog_jited:\s*1$", text, re.MULTILINE) is not None
