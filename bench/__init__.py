"""`make bench`: what a packet and what a route change costs, in one run on one machine.

    nanoseconds.py   part 1, by test runs: cases.py has its rows, timing.py the interleaved rounds,
                     spread.py destinations all over a large table
    pps.py           part 2, packets that travel: live.py sends them
    control.py       part 3, attach and memory; changes.py: a route change on its way to packets
    router.py        namespaces with real veths, routes and neighbours, and xdpecmp attached to them
    routes.py        routing tables of any size
    packets.py       the frames
    programs.py      what is compiled (reference.c, minimum.c, spread.c, traffic.c), and its weight
    targets.py       what is to be reached
    progress.py      how far it is; peak.py: a command's time and memory
    report.py        table, JSON, Markdown; plot.py: PNG

Add a row to cases.py or pps.py and everything else follows.
"""
