"""From desired contents to maps, in an order in which no packet sees anything half done.

Here live next hops, groups, buckets, slots, counters and one module for each look-up structure.
What the maps should hold is decided by `compile`; nothing here knows netlink.
"""
