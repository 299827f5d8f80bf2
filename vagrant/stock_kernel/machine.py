"""QEMU: by KVM where that really works, else by software emulation (TCG), some ten times slower."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import VmDied, VmError
from .images import Image

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "/bin/busybox": "busybox-static",
    "cpio": "cpio",
    "modprobe": "kmod",
}
"""What must be on the host, and the package that brings it."""
WIRES = 3
"""Pairs of virtio NICs, each joined by a hub of QEMU's: what one sends, the other receives."""
_PROBE_SECONDS = 10
_HERE = Path(__file__).parent


def check_packages() -> None:
    """Raises VmError with the command that installs what is missing."""
    missing = [package for need, package in PACKAGES.items() if not shutil.which(need)]
    if "busybox-static" not in missing and b"/ld-linux" in Path("/bin/busybox").read_bytes():
        missing.append("busybox-static")
    if missing:
        raise VmError(
            f"missing packages: {' '.join(missing)}; install them: vagrant/provision.sh --vm"
        )


def nic_address(wire: int, end: int) -> str:
    """The MAC address by which a guest knows the NIC at that end (0 or 1) of a wire (0, 1, …)."""
    return f"52:54:00:78:{wire:02x}:{end:02x}"


def accelerator(image: Image, initrd: Path) -> str:
    """KVM if a kernel that boots under it says so soon. That /dev/kvm exists and takes orders does
    not mean that what runs under it gets anywhere."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    command = _qemu("kvm", image, initrd, "stock_kernel=probe", memory="512M", cpus=1)
    try:
        done = subprocess.run(
            [*command, "-serial", "stdio"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if b"stock-kernel: alive" in done.stdout else "tcg"


def run(
    accel: str,
    image: Image,
    initrd: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    work: Path,
    memory: str,
    timeout: float,
) -> int:
    """Run the command in the guest, in this process's folder; its exit status.

    Raises VmDied where there is none, VmError where the machine does not even begin. The command's
    output is ours; the kernel's goes to the file `console` in `work`, QEMU's own to `qemu`.
    """
    control = work / "control"
    control.mkdir()
    shutil.copy(_HERE / "session", control)
    (control / "command").write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        + f"directory={shlex.quote(os.getcwd())}\ncommand=({shlex.join(command)})\n"
    )
    qemu = [
        *_qemu(accel, image, initrd, "", memory, len(os.sched_getaffinity(0))),
        *("-serial", f"file:{work / 'console'}"),
        *("-device", "virtio-serial-pci", "-chardev", "stdio,id=output,signal=off"),
        *("-device", "virtserialport,chardev=output,name=output"),
        *("-device", "virtio-rng-pci"),
        *_share("root", Path("/"), readonly=True),
        *_share("modules", image.modules, readonly=True),
        *_share("control", control, readonly=False),
        *_nics(),
    ]
    silent, keep_open = os.pipe()  # at the end of its input QEMU takes the port for unplugged
    try:
        with (work / "qemu").open("wb") as said:
            done = subprocess.run(qemu, stdin=silent, stderr=said, timeout=timeout, check=False)
        if done.returncode > 0 and not _text(work / "console"):
            lines = _text(work / "qemu").splitlines()
            reasons = [line for line in lines if "warning:" not in line]
            why = reasons[0] if reasons else f"exit status {done.returncode}"
            raise VmError(f"QEMU does not start: {why}; see which options fit: --help")
        why = f"QEMU ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        why = f"it took more than {timeout:.0f} s (TIMEOUT=… allows more)"
    finally:
        os.close(silent)
        os.close(keep_open)
    try:
        return int((control / "status").read_text())
    except (FileNotFoundError, ValueError):
        raise VmDied(f"the virtual machine did not finish: {why}") from None


def _text(log: Path) -> str:
    return log.read_text(errors="replace").strip() if log.exists() else ""


def _qemu(accel: str, image: Image, initrd: Path, append: str, memory: str, cpus: int) -> list[str]:
    """The machine alone. It dies with us, however we end."""
    line = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off"
    if accel == "tcg":
        line += " tsc=reliable no_timer_check nokaslr"
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "q35,i8042=off", "-m", memory, "-smp", str(cpus)),
        *(("-accel", "kvm", "-cpu", "host") if accel == "kvm" else ()),
        *(("-accel", "tcg,thread=multi", "-cpu", "Nehalem") if accel == "tcg" else ()),
        *("-kernel", str(image.kernel), "-initrd", str(initrd), "-append", f"{line} {append}"),
    ]


def _share(tag: str, path: Path, readonly: bool) -> list[str]:
    """A folder of the host's, by 9p. Inode numbers of several file systems may clash."""
    options = f"local,id={tag},path={path},security_model=none,multidevs=remap"
    options += ",readonly=on" if readonly else ""
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _nics() -> list[str]:
    arguments = []
    for wire in range(WIRES):
        for end in (0, 1):
            name = f"wire{wire}{end}"
            arguments += ["-netdev", f"hubport,id={name},hubid={wire}"]
            mac = nic_address(wire, end)
            arguments += ["-device", f"virtio-net-pci,netdev={name},mac={mac},romfile="]
    return arguments
