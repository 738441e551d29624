"""What the views of a file's syscall can hold, told without making them: most hold nothing that a rule asks for.

Each name has all values that any view has there, so that whoever finds nothing here finds nothing in the views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.decode.actor import describe_actor
from watchdogd.decode.facts import read_target
from watchdogd.decode.views import normalise

if TYPE_CHECKING:
    from watchdogd.decode.views import Observation
    from watchdogd.entities import FieldMap

_CALLS: Final = frozenset(
    {
        *("open", "openat", "openat2", "creat", "truncate", "truncate64", "mkdir", "mkdirat", "mknod", "mknodat"),
        *("link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    }
)
"""Those whose views say of a path no more than where it is. Not symlink: what it leads to is no path of the event."""


def outline_syscall(seen: Observation) -> FieldMap | None:
    """As `LazyViews.outline`, where `may_warn` is false: each path is absolute, or relative to the current folder."""
    if seen.name not in _CALLS or seen.sockaddr is not None or seen.argv:
        return None
    cwd = seen.cwd
    names = []
    for line in seen.path_lines:
        name = read_target(line)
        if name is None:
            continue
        if not name.startswith("/"):
            if cwd is None:
                names.append(name)
                continue
            name = f"{cwd}/{name}"
        names.append(normalise(name))
    fields = describe_actor(seen.actor)
    fields["TargetFilename"] = fields["SourceFilename"] = tuple(names)
    fields["Syscall"] = seen.name
    fields["Outcome"] = seen.outcome
    fields["ExitCode"] = seen.facts.exit
    fields["CurrentDirectory"] = cwd
    return fields
