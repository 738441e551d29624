"""Values for `expand` placeholders: a YAML file that maps each name to a value or a list of values."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.errors import Problem, ProblemsError
from watchdogd.marks import decode_text, load_documents, read_bytes
from watchdogd.match.files import show_path

if TYPE_CHECKING:
    from pathlib import Path

Scalar: TypeAlias = str | int | float


class Placeholders(msgspec.Struct, frozen=True):
    """Values by name, as written. `path` is empty where no file is configured; `digest` is the file's sha256."""

    path: str = ""
    digest: str = ""
    values: dict[str, tuple[Scalar, ...]] = {}
    problems: tuple[Problem, ...] = ()


def read_placeholders(path: Path) -> Placeholders:
    """Read the file. Never raises: what is wrong is among the problems, and has no values."""
    shown, digest = show_path(path), ""
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        documents, problems = load_documents(decode_text(data, shown), shown)
    except ProblemsError as error:
        return Placeholders(shown, digest, {}, error.problems)
    values: dict[str, tuple[Scalar, ...]] = {}
    for document in documents:
        if document.data is None:
            continue
        if not isinstance(document.data, dict):
            problems.append(Problem(document.place(), "not a map of placeholder names to lists of values"))
            continue
        for name, value in document.data.items():
            found = _read_values(value)
            if found is None or not isinstance(name, str) or "%" in name:
                hint = "a name without % signs, and a value or a list of values: text or numbers"
                problems.append(Problem(document.place(name), f"not the values of a placeholder: {name!r}", hint))
            else:
                values[name] = found
    return Placeholders(shown, digest, values, tuple(problems))


def _read_values(value: object) -> tuple[Scalar, ...] | None:
    found = value if isinstance(value, list) else [value]
    if all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in found):
        return tuple(found)
    return None
