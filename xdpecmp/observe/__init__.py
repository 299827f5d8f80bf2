"""What is shown: the data path's contents and counters, and its decisions beside Linux's.

Here live reading the pinned maps for the commands, counting what was lost behind redirects,
explaining one packet, verifying many. Nothing here changes the data path or the kernel, except in
scratch namespaces.
"""
