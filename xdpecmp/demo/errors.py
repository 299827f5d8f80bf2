"""What can stop the demo, beside the errors that any command meets."""

from __future__ import annotations

from ..errors import XdpecmpError


class DemoError(XdpecmpError):
    """A step of the demo (not one of its figures) failed: the message holds the step and why."""
