/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every map that forwarding reads or writes, and what the program alone keeps in them. What the
 * agent shares is in abi.h. Capacities come from xdpecmp/program/abi.py by -D; bcc's own maps end
 * with the compiling process, and build.py makes others of the same kind.
 */
#include "abi.h"
#include "hash_deep.h"
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
 * A cache of IPv6 destinations that this CPU recently looked up in the trie. An entry is valid
 * while `epoch` equals control's epoch6, so a change of the trie invalidates all entries at once.
 */
struct destination {
	u64 address[2];
	u32 group;
	u32 epoch;
};
BPF_TABLE("percpu_array", u32, struct destination, destinations, DESTINATIONS_MAX);

/* Memory for one packet; one entry a CPU is enough, since no packet interrupts another. */
struct workspace {
	struct scratch scratch;
	struct packet packet; /* for xdpecmp_deep() */
};
/* Each generation has its own: during an upgrade no old program calls a new one. See build.py. */
BPF_TABLE("percpu_array", u32, struct workspace, workspaces, 1);
BPF_PROG_ARRAY(programs, 1);
#define DEEP_PROGRAM 0 /* index into programs */

static __always_inline struct workspace *get_workspace(void)
{
	u32 zero = 0;

	return workspaces.lookup(&zero);
}
