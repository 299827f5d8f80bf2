"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ..control.advice import Note
from ..errors import XdpecmpError


class Verdict(Enum):
    """How grave it is."""

    PROBLEM = "problem"
    """It stops `attach`, or what is attached does not work."""
    NOTE = "note"
    """It works, but otherwise than one may think, or not for everything."""
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome, of the host or of an interface."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    """The command that helps or shows more; "" if there is none."""
    interface: str | None = None


def ok(check: str, found: str, interface: str | None = None) -> Finding:
    return Finding(check, Verdict.OK, found, interface=interface)


def note(check: str, found: str, fix: str = "", interface: str | None = None) -> Finding:
    return Finding(check, Verdict.NOTE, found, fix, interface)


def problem(check: str, found: str, fix: str = "", interface: str | None = None) -> Finding:
    return Finding(check, Verdict.PROBLEM, found, fix, interface)


def from_note(check: str, said: Note, interface: str | None = None, fix: str = "") -> Finding:
    """What `attach` would say; `fix`: if it has no command for it."""
    return note(check, said.text, said.fix or fix, interface)


def from_error(check: str, error: XdpecmpError, interface: str | None = None) -> Finding:
    """What `attach` would end with. A hint reads "what it does: command"."""
    return problem(check, error.message, error.hint, interface)


_GRAVITY = list(Verdict)


def by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    """Problems, then notes, then what is all right; in the order of the checks among equals."""
    return sorted(findings, key=lambda finding: _GRAVITY.index(finding.verdict))
