"""A live second opinion: what `ausearch -i` of this machine prints for the same log, held against our values."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tests.decode.conftest import decode_lines
from tests.decode.oracle import USER_NAMES, escape_as_auparse

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"(?:node=\S+ )?type=(\S+) msg=audit\([^)]*:(\d+)\) ?: ?(.*)")


class Opinion(NamedTuple):
    """One field of which the two say different things."""

    type: str
    name: str
    raw: str
    ours: str
    theirs: str


class Opinions:
    """What was compared, and what differs."""

    def __init__(self) -> None:
        self.records = 0
        self.missing: Counter[str] = Counter()
        self.fields = 0
        self.differences: list[Opinion] = []


def ask_ausearch(log: Path) -> dict[tuple[int, str], list[str]]:
    """Bodies as it prints them, by serial and type, in the order of the log (it prints the last one first)."""
    done = subprocess.run(
        ["ausearch", "-i", "-if", str(log)],
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    found: dict[tuple[int, str], list[str]] = {}
    for line in done.stdout.decode("utf-8", "backslashreplace").split("\n"):
        seen = _LINE.match(line)
        if seen is not None:
            found.setdefault((int(seen[2]), seen[1]), []).insert(0, seen[3])
    return found


def compare_opinions(log: Path) -> Opinions:
    """Every record of the log. Names of users are left out: ausearch looks them up on this machine."""
    result = Opinions()
    theirs = ask_ausearch(log)
    for event in decode_lines(log.read_bytes().split(b"\n")):
        for record in event.records:
            if record.type == "EOE":
                continue
            result.records += 1
            bodies = theirs.get((event.id.serial, record.type))
            if not bodies:
                result.missing[record.type] += 1
                continue
            names = [name for name, _, _ in record.fields]
            values = _cut(_unwrap(bodies.pop(0)), names)
            for (name, raw, ours), value in zip(record.fields, values, strict=True):
                if name in USER_NAMES:
                    continue
                result.fields += 1
                if value is None or escape_as_auparse(ours).strip() != value.strip():
                    result.differences.append(Opinion(record.type, name, raw, ours, value or "(not found)"))
    return result


def _unwrap(body: str) -> str:
    """What a program sent stands in `msg='...'`."""
    before, nested, rest = body.partition("msg='")
    return before + rest.rstrip().removesuffix("'") if nested else body


def _cut(body: str, names: list[str]) -> list[str | None]:
    """Values of a printed body whose field names are known: printed values hold spaces without quotes."""
    starts: list[tuple[int, int] | None] = []
    at = 0
    for name in names:
        found = re.compile(rf"(?:^|[ '(]){re.escape(name)}=").search(body, at)
        starts.append(found.span() if found is not None else None)
        at = found.end() if found is not None else at
    values: list[str | None] = []
    for index, span in enumerate(starts):
        following = next((later[0] for later in starts[index + 1 :] if later is not None), len(body))
        values.append(body[span[1] : following] if span is not None else None)
    return values
