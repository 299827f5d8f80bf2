"""Runs a command and says how long it took and how much memory it had at most, as JSON.

A process of its own, since the kernel counts what the parent had before exec as the child's: run
it with an interpreter that has nothing loaded (`python -S -E`). What the command prints goes to
stderr.
"""

import json
import os
import sys
import time


def main(command: list[str]) -> int:
    """Returns the command's exit status."""
    onto_stderr = [(os.POSIX_SPAWN_DUP2, 2, 1)]
    begin = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=onto_stderr)
    _, status, usage = os.wait4(pid, 0)
    print(json.dumps({"seconds": time.perf_counter() - begin, "kib": usage.ru_maxrss}))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
