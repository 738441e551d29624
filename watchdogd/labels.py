"""What an alert is told apart by: names that grouping, inhibition and silences use alike, and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from watchdogd.entities import Alert, Process

Values = tuple[str, ...]


def _of_process(read: Callable[[Process], Iterable[str | int | None]]) -> Callable[[Alert], Values]:
    def find(alert: Alert) -> Values:
        return () if alert.process is None else _known(*read(alert.process))

    return find


def _known(*values: str | int | None) -> Values:
    return tuple(dict.fromkeys(str(value) for value in values if value not in {None, ""}))


def _name(name: str | None, number: int | None) -> str | int | None:
    return number if name is None else name


def _parent(alert: Alert) -> Values:
    return _known(alert.lineage[0].exe) if alert.lineage else ()


LABELS: Final[Mapping[str, Callable[[Alert], Values]]] = {
    "rule": lambda alert: _known(alert.rule.id, alert.rule.title),
    "rule_id": lambda alert: _known(alert.rule.id),
    "title": lambda alert: _known(alert.rule.title),
    "level": lambda alert: _known(alert.level.value),
    "tag": lambda alert: alert.rule.tags,
    "technique": lambda alert: alert.rule.techniques,
    "source": lambda alert: _known(alert.source),
    "category": lambda alert: _known(alert.category),
    "action": lambda alert: _known(alert.action),
    "outcome": lambda alert: _known(alert.outcome),
    "host": lambda alert: _known(alert.host),
    "user": _of_process(lambda one: (_name(one.user, one.uid), _name(one.login, one.auid))),
    "login": _of_process(lambda one: (_name(one.login, one.auid),)),
    "session": _of_process(lambda one: (one.session,)),
    "executable": _of_process(lambda one: (one.exe,)),
    "command_line": _of_process(lambda one: (" ".join(one.argv),)),
    "working_directory": _of_process(lambda one: (one.cwd,)),
    "unit": _of_process(lambda one: (one.unit,)),
    "container": _of_process(lambda one: (one.container,)),
    "parent": _parent,
}
"""By name, how the values are read. `user` is both who acts and who logged in, `rule` both id and title."""

ALIASES: Final[Mapping[str, str]] = {
    "Image": "executable",
    "CommandLine": "command_line",
    "CurrentDirectory": "working_directory",
    "ParentImage": "parent",
    "User": "user",
    "rule.id": "rule_id",
    "rule.name": "title",
    "event.action": "action",
    "event.outcome": "outcome",
    "host.name": "host",
    "host.hostname": "host",
    "user.name": "user",
    "process.executable": "executable",
    "process.command_line": "command_line",
    "process.working_directory": "working_directory",
    "process.parent.executable": "parent",
    "container.id": "container",
    "threat.technique.id": "technique",
}
"""Names of Sigma and of the Elastic Common Schema for the same. A Sigma field that the alert has goes before."""


def read_label(alert: Alert, name: str) -> Values:
    """All values of a label, an alias, or a field of the event's view (as Sigma names it); empty where unknown."""
    own = LABELS.get(name)
    if own is not None:
        return own(alert)
    value = alert.fields.get(name)
    if value is not None:
        return tuple(str(one) for one in value) if isinstance(value, tuple) else (str(value),)
    alias = ALIASES.get(name)
    return LABELS[alias](alert) if alias is not None else ()


def complain_label(name: str) -> str | None:
    """Say why no alert can have that label, None where one can: fields of Sigma begin with a capital letter."""
    if name in LABELS or name in ALIASES or (name[:1].isupper() and name.isascii() and name.isprintable()):
        return None
    known = ", ".join(LABELS)
    return f"{name[:40]!r} is no label: one of {known}, or a field of Sigma (TargetFilename) in its own spelling"
