"""What both the tests and the bench are built on: network namespaces, and waiting with a deadline.

It imports neither of them and nothing of xdpecmp, and needs root, iproute2 and ethtool only.
"""
