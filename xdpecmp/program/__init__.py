"""From the C sources to pinned kernel objects.

Here live the names and numbers shared with the C sources (`abi`), compiling them and keeping the
images, loading and pinning, the bpf(2) system call, access to maps, the data path's clock. Nothing
here knows what a route is, or what the maps are filled with.
"""
