"""What several modules raise; errors of one module alone stand there (NotAttached, BuildFailed).

    XdpecmpError                 message and hint, one line each
    ├── NotPermitted             the kernel asks for more privileges (EPERM, EACCES)
    ├── NoSuchNamespace          no network namespace of that name
    ├── NoSuchInterface          no device of that name or index in the namespace
    ├── ForeignProgram           another XDP program than the expected one is in place
    ├── RouteNotFound            no such route in the kernel's tables
    ├── RouteNotWeighable        the route's weights cannot be set, and why
    ├── KernelRefused            any other error answer; `errno` holds its number
    ├── DumpInterrupted          the tables changed during each of several dumps
    └── MalformedMessage         bytes that are not the netlink messages they should be

`message` names the thing and the cause; `hint` is what to do next, a command to type if there is
one, or "". Nothing here knows of click: the command line turns these into text and exit status.
"""

from __future__ import annotations

import os


class XdpecmpError(Exception):
    """Base of all errors that a user may meet."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotPermitted(XdpecmpError):
    """The calling process lacks privileges."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not permitted", "run it again as root, with sudo")


class NoSuchNamespace(XdpecmpError):
    """There is no network namespace of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no network namespace named {name or repr(name)}", "list them: ip netns list"
        )


class NoSuchInterface(XdpecmpError):
    """There is no device of that name, or of that index (`#7`), in the namespace."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no network device {name or repr(name)}", "list them: ip link show")


class ForeignProgram(XdpecmpError):
    """An XDP program that is not the expected one is attached to the device."""


class RouteNotFound(XdpecmpError):
    """The kernel has no such route (any more)."""


class RouteNotWeighable(XdpecmpError):
    """The route has no weights of its own, or not these."""


class KernelRefused(XdpecmpError):
    """The kernel answered with an error; `errno` is its (positive) number, `reason` what it said
    besides (NLMSGERR_ATTR_MSG), or ""."""

    def __init__(self, message: str, errno: int, hint: str = "", reason: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno
        self.reason = reason

    @property
    def why(self) -> str:
        """The cause in one phrase: the kernel's words, or the text of `errno`."""
        return self.reason.rstrip(".") or os.strerror(self.errno).lower()


class DumpInterrupted(XdpecmpError):
    """What was to be read changed while it was read, several times in a row."""


class MalformedMessage(XdpecmpError):
    """Bytes that should be a netlink message and are not: a kernel never seen before, or a bug."""


_LONGEST = 64


def shortened(text: str) -> str:
    """What a user typed, quoted for a message of one line: nothing in it moves the cursor, and what
    is very long is cut in the middle."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"
    return ascii(text)


def what_failed(error: OSError) -> str:
    """What an error of the system says, also one that came without words (pyroute2's do)."""
    cause = error.strerror or (os.strerror(error.errno) if error.errno else "")
    cause = cause or str(error) or f"a system call failed ({type(error).__name__})"
    return f"{os.fsdecode(error.filename)}: {cause}" if error.filename else cause
