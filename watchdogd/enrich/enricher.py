"""Gives an event its context: process, lineage, names, rarity, and whether it was our own doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

if TYPE_CHECKING:
    from watchdogd.enrich.baseline import Baseline
    from watchdogd.enrich.identity import Identity
    from watchdogd.enrich.own import OwnProcesses
    from watchdogd.enrich.process import ProcessTree
    from watchdogd.entities import Event, FieldMap, Process, View


_FORKS: Final = frozenset({"fork", "vfork", "clone", "clone3"})
_CLONE_PARENT: Final = 0x8000
_CLONE_THREAD: Final = 0x10000
_NODES_LIMIT: Final = 64


class Enricher:
    """Joins the parts of the room; one instance sees all events, in the order in which they were completed.

    Logs of several hosts in one (`node=`) get a tree for each host in replay. The daemon has one tree, its own host's.
    """

    def __init__(self, tree: ProcessTree, identity: Identity, baseline: Baseline, own: OwnProcesses) -> None:
        self._tree = tree
        self._others: dict[str, ProcessTree] = {}
        self._identity = identity
        self._baseline = baseline
        self._own = own

    def enrich(self, event: Event) -> Event:
        """The event with its context. Views gain ParentImage, ParentCommandLine, AncestorImages and missing names."""
        if event.process is None:
            self._note_start(event)
            return event
        process, lineage, is_exec = self._place(event, event.process)
        own = self._own.owns(process, lineage, event.id.time_ms, is_exec=is_exec)
        if is_exec and not own and not event.seen_before:
            rarity = self._baseline.observe(process, lineage, event.id.time_ms)
        else:
            rarity = self._baseline.look_up(process, lineage)
        context = _describe_context(process, lineage)
        views = tuple(replace(view, fields=_fill(view, context)) for view in event.views)
        return replace(event, process=process, lineage=lineage, views=views, rarity=rarity, own=own)

    def learn(self, event: Event) -> None:
        """Put an event that was judged before into the process tree, and nothing else."""
        if event.process is None:
            self._note_start(event)
        else:
            self._place(event, event.process)

    def _place(self, event: Event, process: Process) -> tuple[Process, tuple[Process, ...], bool]:
        self._note_start(event)
        tree = self._tree if event.id.node is None else self._choose_tree(event.id.node)
        time_ms = event.id.time_ms
        is_exec = any(view.category == "process_creation" for view in event.views)
        placed, lineage = tree.place(self._name(process), time_ms, is_exec=is_exec)
        if event.views and event.views[0].category == "syscall":
            _note_syscall(tree, event, process.pid)
        return placed, lineage, is_exec

    def _choose_tree(self, node: str) -> ProcessTree:
        if not self._tree.hermetic:
            return self._tree
        tree = self._others.get(node)
        if tree is None:
            if len(self._others) >= _NODES_LIMIT:
                del self._others[next(iter(self._others))]
            tree = self._others[node] = self._tree.make_sibling()
        return tree

    def _note_start(self, event: Event) -> None:
        """A recording may go on over a restart of its host; a living host's own start is told by its boot id."""
        if not event.views or event.views[0].category != "audit_record" or not self._tree.hermetic:
            return
        action = event.views[0].action
        if action == "system_boot" or (action == "kernel" and event.records[0].get("state") == "initialized"):
            (self._tree if event.id.node is None else self._choose_tree(event.id.node)).clear()

    def _name(self, process: Process) -> Process:
        user = process.user or self._identity.name(process.uid)
        login = process.login or self._identity.name(process.auid)
        if user == process.user and login == process.login:
            return process
        return replace(process, user=user, login=login)


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
