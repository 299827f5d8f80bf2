"""`python -m xdpecmp` is the command `xdpecmp`."""

from .cli import main

if __name__ == "__main__":
    main()
