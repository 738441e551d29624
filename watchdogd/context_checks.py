"""What is allowed in `contexts:` of the configuration and lets others than the administrator stand for a context."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from watchdogd.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from watchdogd.errors import Place

_OPEN_FOLDERS: Final = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/lock/", "/run/user/", "/home/", "/media/", "/mnt/")  # noqa: S108
_INTERPRETERS: Final = ("/usr/bin/bash", "/usr/bin/dash", "/usr/bin/env", "/usr/bin/perl", "/usr/bin/python3.11")


def warn_contexts(contexts: Mapping[str, Sequence[str]], place_of: Callable[..., Place]) -> Iterator[Problem]:
    """Warnings about patterns below folders that others can write, and about those that fit shells."""
    for name, patterns in contexts.items():
        for index, pattern in enumerate(patterns):
            place = place_of("contexts", name, index)
            said = f"contexts.{name}[{index}] {pattern!r}"
            folder = _find_open_folder(pattern)
            if folder is not None:
                message = f"{said} takes programs below {folder}, where others than root can put one of that name"
                yield Problem(place, message, hint="name programs in folders of root's", severity="warning")
            shell = next((shell for shell in _INTERPRETERS if fnmatchcase(shell, pattern)), None)
            if shell is not None:
                message = f"{said} takes {shell}: whatever anybody runs by it would count"
                yield Problem(place, message, hint="name the script that it runs", severity="warning")


def _find_open_folder(pattern: str) -> str | None:
    """A folder that others can write below which the pattern may lie; `*` crosses slashes."""
    head = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    is_open = head != pattern
    return next((one for one in _OPEN_FOLDERS if head.startswith(one) or (is_open and one.startswith(head))), None)
