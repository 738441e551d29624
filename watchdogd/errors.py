"""Errors that carry what a person needs to mend them."""

from __future__ import annotations

import msgspec


class Place(msgspec.Struct, frozen=True):
    """A place in a file a person edits; line and column count from 1, None where unknown."""

    path: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """`file:line:column`, as compilers write it."""
        return ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)


class Problem(msgspec.Struct, frozen=True):
    """One mistake, where it is, and how to mend it. `severity` is `error` or `warning`."""

    place: Place
    message: str
    hint: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        """One line: place, severity, message, hint."""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.place}: {self.severity}: {self.message}{hint}"


class WatchdogdError(Exception):
    """Base of everything that watchdogd raises on purpose."""


class ProblemsError(WatchdogdError):
    """Files a person edits hold mistakes: all of them, not just the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class ConfigError(ProblemsError):
    """The configuration cannot be used."""


class RuleError(ProblemsError):
    """At least one rule cannot be used; nothing of the set is loaded."""


class SourceError(WatchdogdError):
    """A source cannot be read; the supervisor tries again with backoff."""


class StoreError(WatchdogdError):
    """The database refused. Nothing was committed; the caller may try again."""


class UnknownNameError(StoreError):
    """Nothing that is kept has that name."""


class AmbiguousNameError(StoreError):
    """Several have a name that begins so."""


class StoreDamagedError(StoreError):
    """The database is damaged: trying again cannot help, only a new one can."""


class TriageError(WatchdogdError):
    """No valid verdict. The alert goes out `untriaged`."""


class DeliveryError(WatchdogdError):
    """A sink did not take the alert. `recoverable` says whether trying again can help."""

    def __init__(self, message: str, *, recoverable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.recoverable = recoverable
        self.retry_after_s = retry_after_s
