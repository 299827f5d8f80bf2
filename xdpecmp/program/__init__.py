"""From the C sources to pinned kernel objects.

Here are the names and numbers shared with the C sources (`abi`), compiling (`compiler`) and the
cache of images (`image`), loading and pinning (`build`), the bpf(2) system call (`libbpf`), access
to maps (`maps`), the data path's clock (`clock`). Nothing here knows what a route is, or decides
what is in the maps.
"""
