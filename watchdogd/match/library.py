"""Rule folders to a rule set, by way of the reader process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Rule  # noqa: TC001 - msgspec reads the annotations
from watchdogd.errors import Place, Problem, RuleError
from watchdogd.match.files import show_path
from watchdogd.match.syntax import Correlation, Reading, RuleBody

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_TIMEOUT_S = 120.0
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# -I keeps the working directory and PYTHON* out; the reader is then the very package that asks.
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from watchdogd.match.sigma import main; main()"


class RuleSet(msgspec.Struct, frozen=True):
    """Rules that were read together, without mistakes."""

    bodies: tuple[RuleBody, ...]
    """Active and inactive, in the order of their files."""
    warnings: tuple[Problem, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    """Active and inactive; each stands behind those that it builds on."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Rules that can match, correlations among them."""
        events = (body.rule for body in self.bodies if body.view)
        return (*events, *(found.rule for found in self.correlations if not found.reason))

    @property
    def inactive(self) -> tuple[tuple[Rule, str], ...]:
        """Rules that never match here, and why."""
        events = ((body.rule, body.reason) for body in self.bodies if not body.view)
        return (*events, *((found.rule, found.reason) for found in self.correlations if found.reason))


def load_rules(folders: Sequence[Path], *, timeout_s: float = READ_TIMEOUT_S) -> RuleSet:
    """Read every `.yml` and `.yaml` file of the folders, recursively, folders named `tests` left out.

    Blocks for about a second (a process starts, and pySigma parses). Raises RuleError with all mistakes where there is
    at least one: nothing is loaded then. A set without a single rule is a mistake too.
    """
    reading = _read(folders, timeout_s)
    if any(problem.severity == "error" for problem in reading.problems):
        raise RuleError(reading.problems)
    return RuleSet(reading.bodies, reading.problems)


def _read(folders: Sequence[Path], timeout_s: float) -> Reading:
    if not folders:
        raise RuleError((Problem(Place("rules"), "no rule folder is named"),))
    arguments = [str(_PACKAGE_PARENT), *[str(folder) for folder in folders]]
    try:
        answer = subprocess.run(  # noqa: S603 - our own interpreter and module; folders are arguments, no shell
            [sys.executable, "-I", "-c", _START, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refuse(folders, f"reading the rules took longer than {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        raise _refuse(folders, f"the rule reader cannot be started: {error}") from error
    if answer.returncode != 0:
        said = answer.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        last = ascii(said[-1])[1:-1] if said else "without a word"
        raise _refuse(folders, f"the rule reader ended with status {answer.returncode}: {last}")
    try:
        return msgspec.msgpack.decode(answer.stdout, type=Reading)
    except msgspec.MsgspecError as error:
        raise _refuse(folders, f"the rule reader's answer cannot be read: {error}") from error


def _refuse(folders: Sequence[Path], message: str) -> RuleError:
    return RuleError(tuple(Problem(Place(show_path(folder)), message) for folder in folders))
