/* bcc takes a directory that holds this file for a kernel source tree (BCC_KERNEL_SOURCE). */
#define CONFIG_BPF_SYSCALL 1
