"""Commands that a Ctrl-C at the terminal is not for: the demo itself decides when to stop."""

from __future__ import annotations

import signal
import subprocess

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ATTEMPTS = 10


def run_apart(
    *command: str, text: str = "", timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in its own session, wait for it and return what it printed.

    Between fork() and setsid() the child is still within reach of a signal to the demo's process
    group. One that died of such a signal has not come to exec() and done nothing: it is run again.
    """
    for _ in range(_ATTEMPTS):
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            start_new_session=True,
        )
        if -done.returncode not in SIGNALS:
            break
    return done
