"""Which files of a rule folder hold rules."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from watchdogd.errors import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SUFFIXES = (".yml", ".yaml")
LEFT_OUT = "tests"
"""Folders of this name hold the rules' samples."""


def find_layers(folders: Sequence[Path]) -> tuple[list[list[Path]], list[Problem]]:
    """All rule files of each folder: recursively, links followed, in an order that the disk cannot change.

    Names that begin with a dot are left out: editors keep their own files so. A file that lies in two of the folders
    belongs to the first. Never raises.
    """
    layers: list[list[Path]] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for folder in dict.fromkeys(folders):
        layers.append([])
        if not folder.exists():
            problems.append(Problem(Place(show_path(folder)), "the rule folder does not exist"))
        elif not folder.is_dir():
            hint = "give the folder that holds the rules"
            problems.append(Problem(Place(show_path(folder)), "is a file, not a folder of rules", hint))
        else:
            layers[-1] += [path for path in _walk(folder, problems, set()) if path not in seen]
            seen.update(layers[-1])
    return layers, problems


def find_rule_files(folders: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """As `find_layers`, all in one list."""
    layers, problems = find_layers(folders)
    return [path for layer in layers for path in layer], problems


def show_path(path: Path) -> str:
    r"""Return the path as text that can be printed: bytes that are not UTF-8 become `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _walk(folder: Path, problems: list[Problem], above: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    except OSError as error:
        problems.append(Problem(Place(show_path(folder)), f"cannot be read: {error.strerror or error}"))
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        problems.append(Problem(Place(show_path(folder)), "a link that leads back to a folder above it"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        is_rule = entry.suffix in SUFFIXES
        if is_rule:
            yield entry  # a directory of such a name is an error that reading it reports
        elif entry.is_dir() and entry.name != LEFT_OUT:
            yield from _walk(entry, problems, above | {identity})
