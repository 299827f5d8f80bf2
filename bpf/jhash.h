/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XDPECMP_JHASH_H
#define XDPECMP_JHASH_H
/*
 * Jenkins' hash of two words, by which Linux joins the hashes of outer and inner header under
 * policy 3: include/linux/jhash.h. Only jhash_2words(), with the initial value 0.
 */
#include <linux/types.h>

#define JHASH_INITVAL 0xdeadbeef
#define ROTATE_LEFT32(x, bits) (((x) << (bits)) | ((x) >> (32 - (bits))))

static __always_inline __u32 jhash_2words(__u32 a, __u32 b)
{
	__u32 c = JHASH_INITVAL + (2 << 2);

	a += c;
	b += c;
	c ^= b;
	c -= ROTATE_LEFT32(b, 14);
	a ^= c;
	a -= ROTATE_LEFT32(c, 11);
	b ^= a;
	b -= ROTATE_LEFT32(a, 25);
	c ^= b;
	c -= ROTATE_LEFT32(b, 16);
	a ^= c;
	a -= ROTATE_LEFT32(c, 4);
	b ^= a;
	b -= ROTATE_LEFT32(a, 14);
	c ^= b;
	c -= ROTATE_LEFT32(b, 24);
	return c;
}

#endif
