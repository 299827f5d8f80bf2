"""Run a command under a distribution's stock kernel, over this host's own user space.

    python -m vagrant.stock_kernel 6.1 -- .venv/bin/python -m pytest tests/bpf

QEMU boots the kernel with the host's root file system shared read-only by 9p and a tmpfs laid over
it, so the guest has all that the host has, at the same places, and changes none of it. `images`
knows where kernels come from, `initrd` how the guest finds its root, `machine` runs QEMU.
"""
