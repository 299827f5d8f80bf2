"""`xdpecmp demo`: weighted next hops and ICMP errors that find their server, on any Linux host.

Everything happens in new namespaces (topology.py) with real HTTP (traffic.py); xdpecmp is
used through its own command line (fastpath.py), as a reader would. story.py is the plot.
"""

from __future__ import annotations

from .report import Report
from .story import run
from .topology import MOST_SOURCES

__all__ = ["MOST_SOURCES", "Report", "run"]
