"""What the rest of the program talks about: frozen values and what computes with them alone.

Here live links, neighbours, prefixes, routes, settings, the snapshot of a namespace, the options of
`attach`, packed arrays of prefixes, and the tables of routes and nexthop objects. No I/O, no BPF,
no netlink: a value does not know where it came from. The two tables are updated in place, for
speed, and say so.
"""
