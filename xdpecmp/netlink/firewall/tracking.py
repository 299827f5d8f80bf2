"""What in a ruleset is known not to have connections tracked. All else is taken to do so.

Linux tracks every packet, forwarded ones too, from the moment that one rule anywhere asks for the
connection's state: nf_ct_netns_get(), which the check function of such an expression, match or
target calls. Needed if the kernel does not list its hooks: see `hooks`.
"""

from __future__ import annotations

_EXPRESSIONS = """
    bitwise byteorder cmp counter dup dynset exthdr fib fwd hash immediate inner last limit log
    lookup meta numgen objref osf payload queue quota range reject rt tunnel xfrm
"""
SAFE_EXPRESSIONS = frozenset(_EXPRESSIONS.split())
"""Of nftables."""
NEVER_SAFE = b"connlimit\0"
"""An expression that may be inside of others, and of sets."""

SAFE_OBJECTS = frozenset({1, 2, 4, 6, 8})
"""NFT_OBJECT_COUNTER, QUOTA, LIMIT, TUNNEL, SECMARK."""

_MATCHES = """
    addrtype ah bpf cgroup comment cpu dccp devgroup dscp dst ecn esp eui64 frag hashlimit hbh hl
    icmp icmp6 ipcomp iprange ipv6header length limit mac mark mh multiport nfacct osf owner physdev
    pkttype policy quota realm recent rpfilter rt sctp set statistic string tcp tcpmss time tos ttl
    u32 udp
"""
_TARGETS = """
    AUDIT CHECKSUM CLASSIFY DSCP ECN ERROR HL IDLETIMER LED LOG MARK NFLOG NFQUEUE RATEEST REJECT
    SECMARK SET TCPMSS TCPOPTSTRIP TEE TOS TRACE TTL
"""
SAFE_EXTENSIONS = frozenset(["", *_MATCHES.split(), *_TARGETS.split()])
"""Of iptables, also if nftables runs them (nft_compat). The standard target, ACCEPT, DROP or a
chain, has no name."""
