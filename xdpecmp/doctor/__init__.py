"""What on this host would stop `attach` or surprise its user, and the command that helps.

    findings = examine(gather(names))

| module | what it holds |
|---|---|
| `facts` | all that is looked at, as plain values |
| `gather`, `hardware`, `process` | what looks: at the kernel, /proc, /sys, a trial build |
| `host`, `network`, `interfaces`, `running` | pure checks: facts → findings |
| `finding` | what a check says |

Sentences that `attach` and `status` say too come from where they have them (`advice`, `attachment`,
`instance`). What a trial tells is not guessed at: whether this host loads the programs at all
(lockdown, memory limits, seccomp, an unfit bcc) is found out by loading them.
"""

from __future__ import annotations

from .facts import Facts
from .finding import Finding, Verdict, by_gravity
from .host import check_host
from .interfaces import check_interfaces
from .network import check_network
from .running import check_running

__all__ = ["Facts", "Finding", "Verdict", "examine"]


def examine(facts: Facts) -> list[Finding]:
    """All findings, problems first."""
    return by_gravity(
        [
            *check_host(facts.host),
            *check_running(facts),
            *check_network(facts),
            *check_interfaces(facts),
        ]
    )
