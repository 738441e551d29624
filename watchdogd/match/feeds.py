"""Which audit rules a Sigma rule lives on, and whether those that are loaded feed it.

Told from what the rule cannot do without (index.py): view, syscalls, paths. What cannot be told is said to be unknown,
never guessed: a rule that is called blind would really see nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.match import syntax
from watchdogd.match.audit_lines import AuditLine, drop_suppressed
from watchdogd.match.index import PATTERN, find_clauses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from watchdogd.match.index import Atoms

FED, PARTLY, BLIND, UNKNOWN = "fed", "partly", "blind", "unknown"

_EXEC: Final = frozenset({"execve", "execveat"})
_OPEN: Final = frozenset({"open", "openat", "openat2", "creat"})
_MAKE: Final = frozenset({"mkdir", "mkdirat", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat"})
_CUT: Final = frozenset({"truncate", "truncate64"})
_RENAME: Final = frozenset({"rename", "renameat", "renameat2"})
CALLS: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "process_creation": (_EXEC, "x"),
    "file_event": (_OPEN | _MAKE | _CUT | _RENAME, "w"),
    "file_access": (_OPEN, "r"),
    "file_change": (
        frozenset(
            {"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"}
            | {"setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"}
            | {"utime", "utimes", "utimensat", "futimesat"}
        ),
        "a",
    ),
    "file_delete": (frozenset({"unlink", "unlinkat", "rmdir"}), "w"),
    "file_rename": (_RENAME, "w"),
    "network_connection": (frozenset({"connect", "bind", "accept", "accept4", "sendto", "sendmsg"}), ""),
}
"""Calls that each view is made of, and the `perm=` by which watches see them."""

_FILE_VIEWS: Final = frozenset(CALLS) - {"process_creation", "network_connection"}
_ALL_FILE_CALLS: Final = frozenset(call for view in _FILE_VIEWS for call in CALLS[view][0])
_NOT_WATCHED: Final = frozenset({"utime", "utimes", "utimensat", "futimesat"})
"""Calls that `perm=a` does not take."""
_OF_SYSCALLS: Final = frozenset({"syscall", "execve", "path", "cwd", "sockaddr", "proctitle"})
_ROOTS: Final = ("etc", "usr", "var", "root", "home", "run", "boot", "srv", "opt", "dev", "proc", "sys", "tmp")
_MERGED: Final = ("/bin/", "/sbin/", "/lib/", "/lib64/")
_HOMES: Final = ("/root", "/home")


class Need(msgspec.Struct, frozen=True):
    """One way for a rule to match: any of these calls, on this path where one is known."""

    calls: frozenset[str]
    access: str = ""
    path: str = ""
    """Case-folded; empty: any, or unknown."""
    refused: bool = False
    """A call that failed will do."""

    def describe(self) -> str:
        """In words, with the line of audit rules that would feed it."""
        if self.path:
            field = "dir" if self.path.endswith("/") else "path"
            return f"-a always,exit -F arch=b64 -F {field}={self.path.rstrip('/')} -F perm={self.access or 'rwa'}"
        return f"-a always,exit -F arch=b64 -S {','.join(sorted(self.calls))}"


class Feeding(msgspec.Struct, frozen=True):
    """Whether a rule gets what it needs: FED, PARTLY (some of its ways), BLIND, or UNKNOWN."""

    state: str
    missing: tuple[Need, ...] = ()


def find_needs(body: syntax.RuleBody) -> tuple[Need, ...] | None:
    """What a rule lives on: at least one of these. Empty: no audit rule is needed; None: cannot be told."""
    clauses = find_clauses(body)
    view = body.view
    if view == syntax.RECORDS:
        return _of_records(clauses)
    if view == "syscall":
        called = _of_calls(clauses, "Syscall")
        return called and _at_places(called, _find_places(clauses, "TargetFilename"))
    if view not in CALLS:
        return ()
    calls, access = CALLS[view]
    if view == "network_connection":
        initiated = [clause for clause in clauses if all(atom.field == "Initiated" for atom in clause)]
        wants = {atom.text for clause in initiated for atom in clause}
        outgoing = {"connect", "sendto", "sendmsg"}
        chosen = calls & outgoing if wants == {"true"} else calls - outgoing if wants == {"false"} else calls
        return (Need(frozenset(chosen)),)
    if view == "process_creation":
        return (Need(calls, access),)
    places = _find_places(clauses, "TargetFilename")
    refused = view == "file_access"
    return tuple(Need(calls, access, place, refused) for place in places) or (Need(calls, access, refused=refused),)


def judge_feeding(needs: Sequence[Need] | None, lines: Iterable[AuditLine]) -> Feeding:
    """Hold what a rule needs against the audit rules that are loaded."""
    if needs is None:
        return Feeding(UNKNOWN)
    live = drop_suppressed(lines)
    states = [(need, _feed_one(need, live)) for need in needs]
    missing = tuple(need for need, state in states if state == BLIND)
    if not missing:
        return Feeding(UNKNOWN if any(state == UNKNOWN for _, state in states) else FED)
    return Feeding(BLIND if len(missing) == len(states) else PARTLY, missing)


def judge_rules(ruleset: syntax.RuleSet, lines: Sequence[AuditLine]) -> dict[str, Feeding]:
    """By rule id, for each active rule; a correlation is as blind as what it cannot do without."""
    found = {body.rule.id: judge_feeding(find_needs(body), lines) for body in ruleset.bodies if body.view}
    for one in ruleset.correlations:
        if one.reason:
            continue
        below = [found[feed.rule_id] for feed in one.feeds if feed.rule_id in found]
        missing = tuple(dict.fromkeys(need for feeding in below for need in feeding.missing))
        blind = sum(feeding.state == BLIND for feeding in below)
        needs_all = one.kind.startswith("temporal") and one.expression is None and not one.bounds
        if below and (blind == len(below) or (blind and needs_all)):
            found[one.rule.id] = Feeding(BLIND, missing)
        elif missing:
            found[one.rule.id] = Feeding(PARTLY, missing)
        else:
            found[one.rule.id] = Feeding(UNKNOWN if any(one.state == UNKNOWN for one in below) else FED)
    return found


def find_line(need: Need, lines: Iterable[AuditLine]) -> str:
    """Of these lines the one that feeds it and looks nowhere else, else one made for it."""
    fitting = [line for line in lines if not line.never and _feeds(need, line)]
    best = max(fitting, key=lambda line: (not line.failures_only, len(line.path)), default=None)
    return need.describe() if best is None else best.text


def _feed_one(need: Need, lines: Sequence[AuditLine]) -> str:
    if any(_feeds(need, line) for line in lines):
        return FED
    if need.path or not need.calls & _ALL_FILE_CALLS:
        return BLIND
    # Without a path nobody knows where the rule looks: watches of some places may feed it.
    return UNKNOWN if any(_records(need, line) for line in lines) else BLIND


def _feeds(need: Need, line: AuditLine) -> bool:
    """Whether the line records this, leaving aside that it may look at some users or arguments only."""
    if not _records(need, line):
        return False
    if not line.path:
        return line.syscalls is not None and not (need.path and line.limited)
    if not need.path:
        return False
    path = need.path.rstrip("/")
    below = path == line.path or (line.whole_tree and path.startswith(f"{line.path}/"))
    # A rule about a folder is fed, in part, by a watch of something in it.
    return below or (need.path.endswith("/") and line.path.startswith(f"{path}/"))


def _records(need: Need, line: AuditLine) -> bool:
    if line.failures_only and not need.refused:
        return False
    calls = need.calls if line.access == frozenset("rwxa") else need.calls - _NOT_WATCHED
    if need.access and need.access not in line.access:
        return False
    return any(line.names(call) for call in calls)


def _of_calls(clauses: Sequence[Atoms], *fields: str) -> tuple[Need, ...] | None:
    for clause in clauses:
        if all(atom.field in fields and atom.text.isidentifier() and atom.kind != PATTERN for atom in clause):
            return tuple(Need(frozenset({call}), refused=True) for call in sorted({atom.text for atom in clause}))
    return None


def _at_places(needs: tuple[Need, ...], places: Sequence[str]) -> tuple[Need, ...]:
    """Where a rule names calls and paths: any of those calls on one of the paths."""
    calls = frozenset().union(*(need.calls for need in needs))
    return tuple(Need(calls, "", place, refused=True) for place in places) or needs


def _of_records(clauses: Sequence[Atoms]) -> tuple[Need, ...] | None:
    """Records that programs write need no audit rule; those of syscalls do."""
    types = [frozenset(atom.text for atom in clause) for clause in clauses if all(a.field == "type" for a in clause)]
    if any(not kinds & _OF_SYSCALLS for kinds in types):
        return ()
    called = _of_calls(clauses, "syscall", "SYSCALL")
    if called is not None:
        return _at_places(called, _find_places(clauses, "name"))
    if any(kinds == {"execve"} for kinds in types):
        return (Need(_EXEC, "x"),)
    if any(kinds == {"sockaddr"} for kinds in types):
        return (Need(CALLS["network_connection"][0]),)
    places = _find_places(clauses, "name")
    return tuple(Need(_ALL_FILE_CALLS, "", place, refused=True) for place in places) or None


def _find_places(clauses: Sequence[Atoms], field: str) -> tuple[str, ...]:
    """Paths of which the rule needs one: the first of the sets over that field alone that is told by paths."""
    for clause in clauses:
        if not all(atom.field == field and atom.kind != PATTERN for atom in clause):
            continue
        places = [_place(atom.text) for atom in clause]
        if all(places):
            return tuple(sorted({place for some in places for place in some}))
    return ()


def _place(text: str) -> tuple[str, ...]:
    """Paths that a part of a path stands for; empty where it may lie anywhere."""
    if text.startswith("/."):
        return tuple(f"{home}{text if home == '/root' else '/'}" for home in _HOMES)
    if text.startswith(_MERGED):
        return (f"/usr{text}",)
    return (text,) if text.startswith("/") and text[1:].partition("/")[0] in _ROOTS else ()
