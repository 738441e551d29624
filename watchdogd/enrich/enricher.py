"""Gives an event its context: process, lineage, names, rarity, and whether it was our own doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from watchdogd.enrich.baseline import Baseline
    from watchdogd.enrich.identity import Identity
    from watchdogd.enrich.own import OwnProcesses
    from watchdogd.enrich.process import ProcessTree
    from watchdogd.entities import Event, FieldMap, Process, View


class Enricher:
    """Joins the parts of the room; one instance sees all events, in the order in which they were completed."""

    def __init__(self, tree: ProcessTree, identity: Identity, baseline: Baseline, own: OwnProcesses) -> None:
        self._tree = tree
        self._identity = identity
        self._baseline = baseline
        self._own = own

    def enrich(self, event: Event) -> Event:
        """The event with its context. Views gain ParentImage, ParentCommandLine, AncestorImages and missing names."""
        if event.process is None:
            return event
        time_ms = event.id.time_ms
        is_exec = any(view.category == "process_creation" for view in event.views)
        process, lineage = self._tree.place(self._name(event.process), time_ms, is_exec=is_exec)
        own = self._own.owns(process, lineage, time_ms)
        if is_exec and not own:
            rarity = self._baseline.observe(process, lineage, time_ms)
        else:
            rarity = self._baseline.look_up(process, lineage)
        context = _describe_context(process, lineage)
        views = tuple(replace(view, fields=_fill(view, context)) for view in event.views)
        return replace(event, process=process, lineage=lineage, views=views, rarity=rarity, own=own)

    def learn(self, event: Event) -> None:
        """Put an event that was judged before into the process tree, and nothing else."""
        if event.process is not None:
            is_exec = any(view.category == "process_creation" for view in event.views)
            self._tree.place(self._name(event.process), event.id.time_ms, is_exec=is_exec)

    def _name(self, process: Process) -> Process:
        user = process.user or self._identity.name(process.uid)
        login = process.login or self._identity.name(process.auid)
        if user == process.user and login == process.login:
            return process
        return replace(process, user=user, login=login)


def _describe_context(process: Process, lineage: tuple[Process, ...]) -> FieldMap:
    """Sigma field names of what the tree knows. `AncestorImages` is ours: every image above, parent first."""
    context: FieldMap = {
        "Image": process.exe,
        "CommandLine": " ".join(process.argv) if process.argv else None,
        "CurrentDirectory": process.cwd,
        "AncestorImages": tuple(ancestor.exe for ancestor in lineage if ancestor.exe),
    }
    if lineage:
        parent = lineage[0]
        context["ParentProcessId"] = parent.pid
        context["ParentImage"] = parent.exe
        context["ParentCommandLine"] = " ".join(parent.argv) if parent.argv else None
        context["ParentUser"] = parent.user
    if process.user:
        context["User"] = process.user
    return context


def _fill(view: View, context: FieldMap) -> FieldMap:
    """The view's own fields win, but for a user that it could only give by number.

    In an `authentication` view `User` is the account that was acted upon, which is not the process's.
    """
    added: FieldMap = {
        name: value for name, value in context.items() if value not in (None, ()) and name not in view.fields
    }
    user = view.fields.get("User")
    by_number = isinstance(user, str) and user.isdigit() and view.category != "authentication"
    if by_number and "User" in context:
        added["User"] = context["User"]
    return {**view.fields, **added}
