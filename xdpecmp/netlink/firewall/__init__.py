"""What of Linux may drop, change, delay or track what is forwarded, and XDP comes before.

| module | what it reads |
|---|---|
| `hooks` | who is registered on netfilter's hooks, if the kernel lists them (Linux 5.14) |
| `nftables` | base chains, flowtables; rules, if it does not |
| `iptables` | the tables of the old iptables |
| `tc` | queueing disciplines, filters, tcx programs |
| `others` | IPVS, BPF netfilter programs, ebtables, if the kernel does not list its hooks |
| `tracking` | what does not have connections tracked |

nftables and traffic control announce changes (see `monitor`). For all else there is `changed`,
which is cheap enough to be asked ten times a second.
"""

from .reader import Reader

__all__ = ["Reader"]
