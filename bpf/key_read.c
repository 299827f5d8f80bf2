/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads 16 bytes of the kernel's memory, by test run: Linux's multipath hash key, where
 * /proc/kallsyms says where it is. The address is in the frame's first eight bytes; behind them come
 * 0 or a negative errno, and what was read. For which kernels offer it see xdpecmp/program/keyread.py.
 */
static int (*read_kernel)(void *to, u32 size, const void *from) = (void *)113; /* bpf_probe_read_kernel */

struct reading {
	u64 address;
	s64 error;
	u64 got[2];
};

int xdpecmp_key_read(struct xdp_md *ctx)
{
	struct reading *reading = (void *)(long)ctx->data;
	u64 got[2] = {};

	if ((void *)(reading + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	reading->error = read_kernel(got, sizeof(got), (void *)reading->address);
	reading->got[0] = got[0];
	reading->got[1] = got[1];
	return XDP_PASS;
}
