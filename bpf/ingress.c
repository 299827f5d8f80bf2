/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a packet came in: whether the agent's lease is valid, and which interface receives the
 * packet in Linux, which may be a VLAN device, a macvlan or a bond on top of the one that the
 * program runs on.
 */
#include "abi.h"
#include "parse.h"

/* The configuration in force, or NULL if the agent's lease has run out. */
static __always_inline struct config *load_config(u32 *slot, u32 *epoch6)
{
	u32 zero = 0;
	struct control *c = control.lookup(&zero);

	if (!c || bpf_jiffies64() >= *(volatile u64 *)&c->lease_jiffies)
		return NULL;
	*slot = *(volatile u32 *)&c->config_slot;
	*epoch6 = *(volatile u32 *)&c->epoch6;
	return config.lookup(slot);
}

/* An interface, read word by word: fields that must agree share one. */
struct ingress {
	u32 ifindex;
	u64 mac;
	u8 flags;
	u8 rp_filter;
};

static __always_inline enum reason read_ingress(u32 ifindex, struct ingress *ingress)
{
	u32 slot = ifindex & (INTERFACES_MAX - 1);
	struct interface *interface = interfaces.lookup(&slot);
	u64 word, index;

	if (!interface)
		return REASON_INTERFACE;
	index = *(volatile u64 *)&interface->ifindex; /* `logical` is in the upper half */
	if ((u32)index != ifindex)
		return REASON_INTERFACE;
	word = *(volatile u64 *)interface;
	ingress->ifindex = index >> 32;
	ingress->mac = word & MAC_MASK;
	ingress->flags = word >> ABOVE_MAC;
	ingress->rp_filter = word >> (ABOVE_MAC + 8);
	return REASON_FORWARDED;
}

/* The interface of a frame: by its tags if it has any. */
static __always_inline enum reason find_ingress(u32 ifindex, const struct link_layer *link,
						struct ingress *ingress)
{
	if (link->outer_tpid) {
		struct vlan_key key = {
			.ifindex = ifindex,
			.outer_tpid = link->outer_tpid,
			.outer_vid = be16(link->outer_tci) & VLAN_VID_MASK,
			.inner_tpid = link->inner_tpid,
			.inner_vid = be16(link->inner_tci) & VLAN_VID_MASK,
		};
		u32 *logical = vlans.lookup(&key);

		if (!logical)
			return REASON_INTERFACE;
		ifindex = *logical;
	}
	return read_ingress(ifindex, ingress);
}

/* The macvlan on that interface with this MAC address, which becomes the ingress. */
static __always_inline enum reason find_macvlan(u64 mac, struct ingress *ingress)
{
	struct mac_key key = {.mac = mac, .ifindex = ingress->ifindex};
	u32 *logical = macs.lookup(&key);

	if (!logical || read_ingress(*logical, ingress) || mac != ingress->mac)
		return REASON_NOT_OUR_MAC;
	return REASON_FORWARDED;
}
