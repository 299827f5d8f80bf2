"""The only package that knows rtnetlink: dumps, events and changes of one network namespace.

    with Kernel() as kernel:              # of the namespace that the calling thread is in
        with kernel.monitor() as monitor: # subscribe first, dump then
            snapshot = kernel.snapshot()
            ...                           # select on `monitor`
            changes = monitor.drain()

| module | what it holds |
|---|---|
| `wire` | sockets, dumps, attributes: netlink itself |
| `routes`, `routedump` | route messages; the bulk dump |
| `nexthops` | nexthop objects: what routes with a nexthop id lead to |
| `links`, `neighbours`, `rules`, `xfrm`, `features`, `sysctl` | one kind of thing each |
| `firewall` | netfilter and traffic control: what filters forwarded packets |
| `getroute` | what the kernel does with one packet |
| `monitor` | change notifications |
| `routeweights`, `groupweights`, `xdp` | changes |
| `kernel` | `Kernel`, all of it for one namespace |
| `namespace` | to be in one for a moment |
"""

from .getroute import Answer, Query
from .kernel import Kernel
from .monitor import ANYWHERE, Changes, Monitor
from .sysctl import has_seed

__all__ = ["ANYWHERE", "Answer", "Changes", "Kernel", "Monitor", "Query", "has_seed"]
