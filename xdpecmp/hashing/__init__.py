"""Which next hop a packet gets: the reference model of the kernel's multipath hash.

The data path (bpf/walk.h, icmp.h, key.h, hash_*.h, siphash.h, select.h) is tested against it, and
`weights --dry-run`, `explain` and `verify` compute with it. Pure functions over values: nothing
here does input or output, or knows the program or the kernel's settings.

Three steps, each as Linux does it:

1. *key*: `flow_keys` takes from a packet what the hash policy looks at (fib_multipath_hash() in
   net/ipv4/route.c, rt6_multipath_hash() in net/ipv6/route.c, __skb_flow_dissect() in
   net/core/flow_dissector.c);
2. *hash*: `FlowKeys.hash` is SipHash-2-4 over the kernel's `struct flow_keys`, cut to 31 bits;
3. *select*: `bounds` and `select` are hash-threshold (RFC 2992).

One deliberate difference: an ICMP error has the key of the packet that it quotes under *every*
policy, and behind IPv6 extension headers too, so that it follows its flow. Linux does that under
policy 0 only.

Left out: the L4 hash of a NIC, which Linux prefers to its own under policy 1; resilient groups and
`fib_multipath_use_neigh`, which depend on more than the flow.
"""

from .headers import MAX_HEADERS
from .keys import (
    DEFAULT_FIELDS,
    INNER_SHIFT,
    POLICIES,
    Field,
    FlowKey,
    FlowKeys,
    Policy,
    flow_hash,
    flow_key,
    flow_keys,
)
from .selection import HASH_BITS, HASH_SPACE, bounds, moved_share, select, shares
from .siphash import SipState, jhash_2words, key_halves, sip_absorb, sip_state, siphash24, siphash32

__all__ = [
    "DEFAULT_FIELDS",
    "HASH_BITS",
    "HASH_SPACE",
    "INNER_SHIFT",
    "MAX_HEADERS",
    "POLICIES",
    "Field",
    "FlowKey",
    "FlowKeys",
    "Policy",
    "SipState",
    "bounds",
    "flow_hash",
    "flow_key",
    "flow_keys",
    "jhash_2words",
    "key_halves",
    "moved_share",
    "select",
    "shares",
    "sip_absorb",
    "sip_state",
    "siphash24",
    "siphash32",
]
