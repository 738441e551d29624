"""Rules on trial before they are put in force: a process of its own compiles them all and runs samples, then ends.

What that takes of memory (3 MB of code, an engine of its own for each sample) goes with it, and the daemon knows of
every rule that is to replace the ones in force that it compiles.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import Place, Problem
from watchdogd.match.syntax import RuleSet  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIAL_TIMEOUT_S: Final = 120.0
_PACKAGE_PARENT: Final = Path(__file__).resolve().parent.parent
# -I keeps the working directory and PYTHON* out. Signals that the daemon blocks for itself are none of the child's.
_START: Final = (
    "import signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, ()); sys.path.insert(0, sys.argv.pop(1)); "
    "from watchdogd.rule_trial import main; main()"
)


class TrialRequest(msgspec.Struct, frozen=True):
    """A whole set, where samples are looked for, and of which rules they are run."""

    rules: RuleSet
    folders: tuple[bytes, ...]
    changed: frozenset[str]


def try_rules(
    rules: RuleSet, folders: Sequence[Path], changed: frozenset[str], *, timeout_s: float = TRIAL_TIMEOUT_S
) -> tuple[Problem, ...]:
    """Mistakes that compiling these rules, and the samples of those that changed, find. Blocks; never raises."""
    request = TrialRequest(rules, tuple(map(os.fsencode, folders)), changed)
    try:
        answer = subprocess.run(  # noqa: S603 - our own interpreter and module; the rest comes by standard input
            [sys.executable, "-I", "-c", _START, str(_PACKAGE_PARENT)],
            input=msgspec.msgpack.encode(request),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _refuse(f"trying the rules out took longer than {timeout_s:g} s")
    except (OSError, ValueError) as error:
        return _refuse(f"the rules cannot be tried out: {error}")
    if answer.returncode != 0:
        said = answer.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        last = ascii(said[-1])[1:-1] if said else "without a word"
        return _refuse(f"trying the rules out ended with status {answer.returncode}: {last}")
    try:
        return msgspec.msgpack.decode(answer.stdout, type=tuple[Problem, ...])
    except msgspec.MsgspecError as error:
        return _refuse(f"what trying the rules out said cannot be read: {error}")


def find_mistakes(request: TrialRequest) -> tuple[Problem, ...]:
    """What is wrong with the rules, in this process."""
    from watchdogd.match.engine import Engine  # noqa: PLC0415 - for the child alone, as the next
    from watchdogd.samples import run_samples  # noqa: PLC0415

    try:
        Engine(request.rules)
    except ValueError as error:  # the reader has checked that; but no mistake of ours may cost the old set
        return _refuse(f"the rules cannot be compiled: {error}")
    folders = [Path(os.fsdecode(folder)) for folder in request.folders]
    found = (result.problem for result in run_samples(request.rules, folders, request.changed))
    return tuple(problem for problem in found if problem is not None and problem.severity == "error")


def main() -> None:
    """Answer the TrialRequest on standard input with a list of Problem on standard output."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=TrialRequest)
    sys.stdout.buffer.write(msgspec.msgpack.encode(find_mistakes(request)))


def _refuse(message: str) -> tuple[Problem, ...]:
    return (Problem(Place("rules"), message),)
