/* bcc compares LINUX_VERSION_CODE with 4.8 only; we need far newer kernels, whatever runs here. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
