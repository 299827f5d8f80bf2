"""What ends a run with one line on stderr."""

from __future__ import annotations


class VmError(Exception):
    """Something that the user can do something about: what, why, and the command that helps."""

    status = 2


class VmDied(VmError):
    """The guest ended without saying how its command ended, or took too long."""

    status = 125
