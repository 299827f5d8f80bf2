"""`make bench`: what a packet and what a route change costs, in one run on one machine.

    cases.py      the rows: which program sees which packet
    router.py     namespaces with real veths, routes and neighbours, and xdpecmp attached to them
    packets.py    the frames
    programs.py   floor and reference built with bcc; size, verifier effort, compile and load time
    timing.py     interleaved rounds of test runs, and what is computed from them
    control.py    attach, and a route change on its way into the data path
    report.py     one table, one JSON file

Add a row to cases.py and everything else follows.
"""
