"""What the doctor finds: one sentence a finding, how bad it is, and the command that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from watchdogd.write.formats.text import escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity: TypeAlias = Literal["ok", "warning", "error", "unknown"]

TEXT_CHARACTERS = 600


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `unknown`: it could not be seen, or has no meaning here; the text says why."""

    check: str
    level: Severity
    text: str
    mend: str = ""
    """A line for the shell; empty where nothing is wrong."""
    group: str = ""


def ok(check: str, text: str) -> Finding:
    """Nothing is wrong."""
    return _make(check, "ok", text)


def warning(check: str, text: str, mend: str) -> Finding:
    """It works, and not as well as it should."""
    return _make(check, "warning", text, mend)


def error(check: str, text: str, mend: str) -> Finding:
    """Something is not seen, not kept or not told until this is mended."""
    return _make(check, "error", text, mend)


def unknown(check: str, text: str, mend: str = "") -> Finding:
    """It could not be seen, or has no meaning here."""
    return _make(check, "unknown", text, mend)


def needs_root(check: str, what: str) -> Finding:
    """Only root may see it."""
    return _make(check, "unknown", f"{what} can only be seen by root.", "sudo watchdogd doctor")


def count(findings: Iterable[Finding], level: Severity) -> int:
    """How many there are of one level."""
    return sum(finding.level == level for finding in findings)


def _make(check: str, level: Severity, text: str, mend: str = "") -> Finding:
    """Words of the host and of servers reach a terminal here: nothing in them moves its cursor or fills its screen."""
    cut = text if len(text) <= TEXT_CHARACTERS else f"{text[:TEXT_CHARACTERS]}..."
    return Finding(check, level, escape_controls(cut), escape_controls(mend))
