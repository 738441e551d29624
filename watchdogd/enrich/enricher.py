"""Gives an event its context: process, lineage, names, rarity, and whether it was our own doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from watchdogd.enrich.context import Contexts
from watchdogd.enrich.hosts import Hosts
from watchdogd.enrich.norms import SOURCE as METRICS
from watchdogd.enrich.norms import Norms
from watchdogd.entities import LazyViews
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.enrich.baseline import Baseline
    from watchdogd.enrich.identity import Identity
    from watchdogd.enrich.own import OwnProcesses
    from watchdogd.enrich.process import ProcessTree
    from watchdogd.entities import Event, FieldMap, FieldValue, Process, View

    _Source = tuple[Sequence[View], Process, tuple[Process, ...], Contexts]

_FORKS: Final = frozenset({"fork", "vfork", "clone", "clone3"})
_NOTED: Final = _FORKS | {"exit_group"}
_ABOUT_GROUPS: Final = frozenset({"ADD_GROUP", "DEL_GROUP", "GRP_MGMT", "GRP_AUTH", "GRP_CHAUTHTOK", "CHGRP_ID"})
"""Here `id` is a group's."""

_ID_DIGITS: Final = 10
_CLONE_PARENT: Final = 0x8000
_CLONE_THREAD: Final = 0x10000


class Enricher:
    """Joins the parts of the room; one instance sees all events, in the order in which they were completed.

    `host` is the name of this host, None in replay. What other hosts sent to the same log (`node=`) gets trees of its
    own; neither this host's user names, packages and contexts nor our own pids mean anything there.
    """

    def __init__(
        self,
        tree: ProcessTree,
        identity: Identity,
        baseline: Baseline,
        own: OwnProcesses,
        *,
        host: str | None = None,
        counters: Counters | None = None,
        contexts: Contexts | None = None,
        norms: Norms | None = None,
    ) -> None:
        self._hosts = Hosts(tree, counters or Counters(), host=host)
        self._identity = identity
        self._baseline = baseline
        self._own = own
        self._contexts = contexts or Contexts()
        self._elsewhere = Contexts()
        self._norms = norms or Norms()

    def enrich(self, event: Event) -> Event:
        """The event with its context. Views gain what the tree knows of the process, and missing names.

        Those of a metric gain how unusual it is.
        """
        if event.source == METRICS and event.process is None:  # a port that begins to listen has one
            return self._norms.describe(event)
        tree = self._hosts.find_tree(event)
        _note_start(tree, event)
        if event.process is None:
            return event
        process, lineage, is_exec = self._place(tree, event, event.process)
        own = self._hosts.is_own(tree) and self._own.owns(process, lineage, event.id.time_ms, is_exec=is_exec)
        if is_exec and not own and not event.seen_before:
            rarity = self._baseline.observe(process, lineage, event.id.time_ms)
        else:
            rarity = self._baseline.look_up(process, lineage, event.id.time_ms)
        contexts = self._contexts if self._hosts.is_own(tree) else self._elsewhere
        views: Sequence[View] = LazyViews(_fill_views, (event.views, process, lineage, contexts), outline=_fill_outline)
        if event.categories is None and self._hosts.is_own(tree):
            views = tuple(self._name_accounts(view, event) for view in views)
        return replace(event, process=process, lineage=lineage, views=views, rarity=rarity, own=own)

    def learn(self, event: Event) -> None:
        """Put an event that was judged before into the process tree, and nothing else."""
        tree = self._hosts.find_tree(event, from_file=True)
        _note_start(tree, event)
        if event.process is not None:
            self._place(tree, event, event.process)

    def _place(self, tree: ProcessTree, event: Event, process: Process) -> tuple[Process, tuple[Process, ...], bool]:
        time_ms = event.id.time_ms
        said = event.categories  # which is exact where there was an exec
        is_exec = (
            any(view.category == "process_creation" for view in event.views)
            if said is None
            else "process_creation" in said
        )
        if self._hosts.is_own(tree):
            process = self._name(process)
        placed, lineage = tree.place(process, time_ms, is_exec=is_exec)
        if event.call in _NOTED:
            _note_syscall(tree, event, process.pid)
        return placed, lineage, is_exec

    def _name_accounts(self, view: View, event: Event) -> View:
        """Accounts that a logon gives by number (`id=1000`, `uid=0`) get this host's names; what was typed stays."""
        if view.category != "authentication":
            return view
        kind = view.action.upper()
        record = next((record for record in event.records if record.type == kind), None)
        if record is None or kind in _ABOUT_GROUPS:
            return view
        fields = dict(view.fields)
        for name in ("SubjectUser",) if record.get("acct") is not None else ("SubjectUser", "User"):
            number = fields.get(name)
            if isinstance(number, str) and number.isdecimal() and len(number) <= _ID_DIGITS:
                fields[name] = self._identity.name(int(number)) or number
        return replace(view, fields=fields)

    def _name(self, process: Process) -> Process:
        user = process.user or self._identity.name(process.uid)
        login = process.login or self._identity.name(process.auid)
        if user == process.user and login == process.login:
            return process
        return replace(process, user=user, login=login)


def _fill_views(source: _Source) -> Sequence[View]:
    context = _tell_context(source)
    return [replace(view, fields=_fill(view, context)) for view in source[0]]


def _fill_outline(source: _Source) -> FieldMap | None:
    """The outline of the views when they are filled: a view that lacks a name has the context's value there."""
    views = source[0]
    fields = views.outline if isinstance(views, LazyViews) else None
    if fields is None:
        return None
    for name, value in _tell_context(source).items():
        fields[name] = (*_list_values(fields[name]), *_list_values(value)) if name in fields else value
    return fields


def _list_values(value: FieldValue | tuple[FieldValue, ...]) -> tuple[FieldValue, ...]:
    return value if isinstance(value, tuple) else (value,)


def _tell_context(source: _Source) -> FieldMap:
    _, process, lineage, contexts = source
    context = _describe_context(process, lineage)
    if names := contexts.describe(process, lineage):
        context["Context"] = names
    packaged = contexts.is_packaged(process.exe) if process.exe else None
    if packaged is not None:
        context["ImagePackaged"] = "true" if packaged else "false"
    return context


def _note_start(tree: ProcessTree, event: Event) -> None:
    """A log may go on over a restart of its host; the daemon's own host's start is told by its boot id."""
    if (
        not tree.hermetic
        or event.categories is not None
        or not event.views
        or event.views[0].category != "audit_record"
    ):
        return
    action = event.views[0].action
    if action == "system_boot" or (action == "kernel" and event.records[0].get("state") == "initialized"):
        tree.clear()


def _note_syscall(tree: ProcessTree, event: Event, pid: int) -> None:
    """Tell the tree of a child or of an end. `exit` ends a thread, which may not be the last one: it says nothing."""
    view = event.views[0]
    if view.action == "exit_group":
        tree.end(pid, event.id.time_ms)
    elif view.action in _FORKS:
        code = view.fields.get("ExitCode")
        flags = _read_flags(event) if view.action == "clone" else 0
        if isinstance(code, str) and code.isdecimal() and not flags & _CLONE_THREAD:
            tree.fork(pid, int(code), event.id.time_ms, sibling=bool(flags & _CLONE_PARENT))


def _read_flags(event: Event) -> int:
    """clone(2)'s flags: the first register on x86, ARM and RISC-V. clone3's are behind a pointer."""
    text = next((record.get("a0") for record in event.records if record.type == "SYSCALL"), None)
    try:
        return int(text or "0", 16)
    except ValueError:
        return 0


def _describe_context(process: Process, lineage: tuple[Process, ...]) -> FieldMap:
    """Sigma field names of what the tree knows. `AncestorImages` is ours: every image above, parent first.

    So are `Context` and `ImagePackaged` (context.py). What is unknown is left out.
    """
    context: FieldMap = {}
    if process.exe is not None:
        context["Image"] = process.exe
    if process.argv:
        context["CommandLine"] = " ".join(process.argv)
    if process.cwd is not None:
        context["CurrentDirectory"] = process.cwd
    if lineage:
        context |= _describe_parents(lineage)
    if process.user:
        context["User"] = process.user
    if process.auid is not None:
        context["LogonId"] = str(process.auid)
    if process.session is not None:
        context["TerminalSessionId"] = process.session
    return context


def _describe_parents(lineage: tuple[Process, ...]) -> FieldMap:
    parent = lineage[0]
    context: FieldMap = {}
    if images := tuple([ancestor.exe for ancestor in lineage if ancestor.exe]):
        context["AncestorImages"] = images
    context["ParentProcessId"] = parent.pid
    if parent.exe is not None:
        context["ParentImage"] = parent.exe
    if parent.argv:
        context["ParentCommandLine"] = " ".join(parent.argv)
    if parent.user is not None:
        context["ParentUser"] = parent.user
    elif parent.uid is not None:
        context["ParentUser"] = str(parent.uid)
    return context


def _fill(view: View, context: FieldMap) -> FieldMap:
    """The view's own fields win, but for a user that it could only give by number.

    In an `authentication` view `User` is the account that was acted upon, which is not the process's.
    """
    fields = dict(view.fields)
    for name, value in context.items():
        if name not in fields:
            fields[name] = value
    user = view.fields.get("User")
    if "User" in context and isinstance(user, str) and user.isdigit() and view.category != "authentication":
        fields["User"] = context["User"]
    return fields
