"""The same frames through a Linux router without xdpecmp and with it: promise 1, end to end.

    design     a router with random routes of many kinds, described by one number
    routers    builds it, and what its links lead to
    packets    headers by `struct`, as right or wrong as asked for
    layers     random layers of headers
    frames     random frames of every kind for such a router
    wire       puts frames on the wire and takes down what comes out where
    compare    one round: Linux, then xdpecmp; what differs and may not

The named list of cases in which xdpecmp deliberately does better than Linux is `compare.BETTER`.
`python -m tests.differential` (`make fuzz`) runs rounds for as long as asked. One number, the
round's seed, decides everything in it.

The edges of a real router are drawn too: a macvlan as ingress, offloads off at some of
the egresses, packets that a socket hands over merged or unfinished, an ingress without an address,
redirects that are accepted. A further one goes into `design.Design`, and `Design.left_out` says
which egresses it leaves to Linux.

Left out: VLAN devices (their frames are compared byte by byte with the standard in
tests/bpf/test_tags.py); next hops that aren't resolved, whose state changes by timers (tests/bpf/
test_groups.py, tests/net/test_nexthop_objects.py); real NICs.
"""
