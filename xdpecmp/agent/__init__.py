"""The process that keeps the data path in agreement with the kernel.

Here live the loop, when to read what, the mirror, the lease, the backlog, keeping next hops
resolved, and the log. What changes interfaces is handed in by `control`; nothing here is shown to a
person except by way of the log.
"""
