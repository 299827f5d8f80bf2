/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every map that forwarding goes by. Sizes come by -D (abi.py); bcc's maps themselves go with the
 * compiler, and the loader makes others of the same kind (image.py).
 */
#include "abi.h"
#include "key.h"
#include "packet.h"

#define MMAPABLE (1U << 10)
#define NO_PREALLOC 1

BPF_F_TABLE("array", u32, struct control, control, 1, MMAPABLE);
BPF_F_TABLE("array", u32, struct config, config, 2, MMAPABLE);
BPF_F_TABLE("array", u32, struct interface, interfaces, INTERFACES_MAX, MMAPABLE);
BPF_TABLE("hash", struct vlan_key, u32, vlans, VLANS_MAX);
BPF_TABLE("hash", struct mac_key, u32, macs, MACS_MAX);
BPF_F_TABLE("array", u32, struct direct, direct16, DIRECT16_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct direct, direct24, DIRECT24_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct direct, direct32, DIRECT32_MAX, MMAPABLE);
BPF_F_TABLE("lpm_trie", struct route4_key, u32, routes4, ROUTES4_MAX, NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct route6_key, u32, routes6, ROUTES6_MAX, NO_PREALLOC);
BPF_F_TABLE("array", u32, struct group, groups, GROUPS_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct path, paths, PATHS_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct bucket, buckets, BUCKETS_MAX, MMAPABLE);
BPF_F_TABLE("array", u32, struct nexthop, nexthops, NEXTHOPS_MAX, MMAPABLE);
BPF_DEVMAP(devices, DEVICES_MAX);
BPF_TABLE("percpu_array", u32, struct traffic, path_stats, PATH_STATS_MAX);
BPF_TABLE("percpu_array", u32, u64, reason_stats, STAT_ENTRIES);

/*
 * IPv6 destinations that this CPU looked up in the trie lately, and what was found while control's
 * epoch6 was as it is here: a change of the trie makes all of it void at once.
 */
struct destination {
	u64 address[2];
	u32 group;
	u32 epoch;
};
BPF_TABLE("percpu_array", u32, struct destination, destinations, DESTINATIONS_MAX);

/* For packets that need more than a register or two; one a CPU, no packet interrupts another. */
struct workspace {
	struct scratch scratch;
	struct packet packet; /* handed over to xdpecmp_deep() */
};
/* Of each generation its own: during an upgrade no old program calls a new one. See program.py. */
BPF_TABLE("percpu_array", u32, struct workspace, workspaces, 1);
BPF_PROG_ARRAY(programs, 1);

static __always_inline struct workspace *workspace(void)
{
	u32 zero = 0;

	return workspaces.lookup(&zero);
}
