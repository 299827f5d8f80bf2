"""Virtual machines: a lab by Vagrant, and stock kernels in QEMU (`stock_kernel`)."""
