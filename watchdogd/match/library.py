"""Rule folders to a rule set, by way of the reader process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.errors import Place, Problem, RuleError
from watchdogd.match.files import find_layers, show_path
from watchdogd.match.link import link
from watchdogd.match.syntax import FileReading, Overrides, ReadRequest, RuleSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["READ_TIMEOUT_S", "RuleSet", "gather_problems", "load_rules", "read_files"]

READ_TIMEOUT_S = 120.0
_NO_OVERRIDES = Overrides()
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# -I keeps the working directory and PYTHON* out; the reader is then the very package that asks.
_START = (  # signals that the daemon blocks for itself are none of the reader's
    "import signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, ()); sys.path.insert(0, sys.argv.pop(1)); "
    "from watchdogd.match.sigma import main; main()"
)


def load_rules(
    folders: Sequence[Path],
    *,
    overrides: Overrides = _NO_OVERRIDES,
    placeholders: Path | None = None,
    read: Callable[[Sequence[Path], Path | None], list[FileReading]] | None = None,
    timeout_s: float = READ_TIMEOUT_S,
) -> RuleSet:
    """Read every `.yml` and `.yaml` file of the folders, recursively, folders named `tests` left out.

    Each folder is a layer above those before it. Blocks for about a second (a process starts, and pySigma parses).
    Raises RuleError with all mistakes where there is at least one: nothing is loaded then. A set without a single rule
    is a mistake too.
    """
    if not folders:
        raise RuleError((Problem(Place("rules"), "no rule folder is named"),))
    layers, problems = find_layers(folders)
    if placeholders is not None:
        layers.insert(0, [placeholders])
    paths = [path for layer in layers for path in layer]
    answer = read(paths, placeholders) if read else read_files(paths, placeholders, timeout_s=timeout_s)
    readings = iter(answer)
    found = [[next(readings) for _ in layer] for layer in layers]
    return link([*found, gather_problems(folders, found, problems)], overrides)


def gather_problems(
    folders: Sequence[Path], layers: Sequence[Sequence[FileReading]], problems: Sequence[Problem]
) -> list[FileReading]:
    """Mistakes that belong to no rule file, as readings for the linker; folders without a single rule are one."""
    readings = [reading for layer in layers for reading in layer]
    found = [*problems, *(problem for reading in readings for problem in reading.problems)]
    missing: list[Problem] = []
    if not any(reading.bodies for reading in readings) and not any(one.severity == "error" for one in found):
        missing = [Problem(Place(show_path(folder)), "no rules in this folder") for folder in folders]
    return [FileReading(problem.place.path, "", (), (problem,)) for problem in (*problems, *missing)]


def read_files(
    paths: Sequence[Path], placeholders: Path | None = None, *, timeout_s: float = READ_TIMEOUT_S, lint: bool = False
) -> list[FileReading]:
    """Have the reader process read files: one reading for each, in the same order, unlinked; `lint` adds warnings.

    Raises RuleError where that process gives no answer.
    """
    if not paths:
        return []
    request = ReadRequest(
        tuple(os.fsencode(path) for path in paths), None if placeholders is None else os.fsencode(placeholders), lint
    )
    try:
        answer = subprocess.run(  # noqa: S603 - our own interpreter and module; paths come by standard input, no shell
            [sys.executable, "-I", "-c", _START, str(_PACKAGE_PARENT)],
            input=msgspec.msgpack.encode(request),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refuse(f"reading the rules took longer than {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        raise _refuse(f"the rule reader cannot be started: {error}") from error
    if answer.returncode != 0:
        said = answer.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        last = ascii(said[-1])[1:-1] if said else "without a word"
        raise _refuse(f"the rule reader ended with status {answer.returncode}: {last}")
    try:
        readings = msgspec.msgpack.decode(answer.stdout, type=list[FileReading])
    except msgspec.MsgspecError as error:
        raise _refuse(f"the rule reader's answer cannot be read: {error}") from error
    if len(readings) != len(paths):
        raise _refuse(f"the rule reader answered for {len(readings)} of {len(paths)} files")
    return readings


def _refuse(message: str) -> RuleError:
    return RuleError((Problem(Place("rules"), message),))
