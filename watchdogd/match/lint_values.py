"""Fields that a log source lacks, and values that a field can never have. Runs in the reader process."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from watchdogd.match import fields, syntax
from watchdogd.match.compile import compile_test
from watchdogd.match.contradictions import explain_conflict, hold_value, list_tests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.match.header import Report

Keys = tuple[str | int, ...]

_RECORD_NAME = {
    "Image": "exe",
    "CommandLine": "proctitle, or a0, a1... of EXECVE",
    "User": "uid",
    "LogonId": "auid",
    "ProcessId": "pid",
    "ParentProcessId": "ppid",
    "TargetFilename": "name",
    "CurrentDirectory": "cwd",
    "DestinationIp": "saddr",
    "Syscall": "syscall",
    "RecordType": "type",
    "Unit": "unit",
    "Operation": "op",
}
"""What audit's records call a field of the event views."""
_VIEW_NAME = {
    **{names: view for view, names in _RECORD_NAME.items() if " " not in names},
    **dict.fromkeys(("comm", "exe"), "Image"),
    **dict.fromkeys(("proctitle", "cmd", "a0", "a1", "a2"), "CommandLine"),
    **dict.fromkeys(("addr",), "SourceIp"),
    **dict.fromkeys(("acct", "uid"), "User"),
    **dict.fromkeys(("exit",), "ExitCode"),
    **dict.fromkeys(("success", "res"), "Outcome"),
}
_RECORD_TEXTS = frozenset({"comm", "exe", "name", "cwd", "proctitle", "type", "nametype", "hostname", "unit", "cmd"})
_GLOB = re.compile(r"[\w/ .*?-]*(?<![.)\]])\*[\w/ .*?-]*")
"""A pattern that holds nothing but what a wildcard text would, with a star that repeats a plain character."""
_PROGRAMS = frozenset({"Image", "ParentImage", "AncestorImages"})
_SHOWN_CHOICES = 8


def lint_field(report: Report, keys: Keys, name: str, view: str) -> None:
    """Warn of a field that the view does not have; `keys` lead to where it is written."""
    if view == syntax.RECORDS:
        found = _complain_in_records(name)
    else:
        known = fields.fields_of_view(view)
        found = _complain_in_view(name, view, known) if known and name not in known else None
    if found is not None:
        report.add(keys, *found, severity="warning")


def _complain_in_records(name: str) -> tuple[str, str] | None:
    if fields.is_record_field(name):
        return None
    views = [view for view, names in fields.load_fields().views.items() if name in names]
    message = f"no audit record has the field {name!r}"
    if views:
        own = _RECORD_NAME.get(name)
        hint = (
            f"records call it {own}; or ask the view `category: {views[0]}`"
            if own
            else f"`category: {views[0]}` has it"
        )
        return f"{message}: it is a field of event views", hint
    return message, fields.suggest_field(name, fields.record_fields())


def _complain_in_view(name: str, view: str, known: Sequence[str]) -> tuple[str, str]:
    message = f"{view} has no field {name!r}"
    near = fields.suggest_field(name, known)
    others = [other for other, names in fields.load_fields().views.items() if name in names]
    if others:
        return message, f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} it"
    if name in _VIEW_NAME and _VIEW_NAME[name] in known:
        return f"{message}: it is a field of audit records", f"the view calls it {_VIEW_NAME[name]}"
    if not near and fields.is_record_field(name):
        return f"{message}: it is a field of audit records", "ask them by `service: auditd` without a category"
    return message, near or f"there are: {', '.join(known)}"


def lint_test(report: Report, keys: Keys, test: syntax.Test, view: str) -> None:
    """Warn of a field that is not there, and of values that it can never have."""
    before = len(report.problems)
    value = _find_value(report, keys)
    written = value if isinstance(value, list) else [value]
    if test.field is None:
        _lint_written(report, keys, "", written)
        return
    lint_field(report, keys, test.field, view)
    _lint_written(report, keys, str(keys[-1]), written)
    values = (
        test.values[0].values if len(test.values) == 1 and isinstance(test.values[0], syntax.AnyOf) else test.values
    )
    for number, one in enumerate(values):
        if isinstance(one, syntax.OtherField):
            lint_field(report, keys, one.field, view)
        elif len(report.problems) == before or len(values) > 1:
            found = _complain_value(test.field, one, view)
            if found is not None:
                at = (*keys, number) if isinstance(value, list) and len(values) == len(value) else keys
                where = report.document.place_value(*at)
                report.add_at(where, *found, severity="warning")


def _find_value(report: Report, keys: Keys) -> object:
    value = report.document.data
    for key in keys:
        value = value[key]
    return value


def _lint_written(report: Report, keys: Keys, key: str, written: Sequence[object]) -> None:
    """Warn of what only the text of the rule shows: modifiers are resolved in what was read from it."""
    modifiers = key.split("|")[1:]
    seen: set[str] = set()
    for number, value in enumerate(written):
        at = (*keys, number) if len(written) > 1 else keys
        where = report.document.place_value(*at)
        folded = str(value).casefold() if "cased" not in modifiers and "re" not in modifiers else str(value)
        if isinstance(value, str) and folded in seen:
            report.add_at(where, f"the value {value!r} stands there twice", "once is enough", severity="warning")
        seen.add(folded)
        if not isinstance(value, str) or {"re", "expand", "fieldref"} & set(modifiers):
            continue
        needless = (value.startswith("*") and {"contains", "endswith"} & set(modifiers)) or (
            value.endswith("*") and not value.endswith("\\*") and {"contains", "startswith"} & set(modifiers)
        )
        if needless and value.strip("*"):
            message = f"a wildcard at an end of {value!r}, where {key.split('|', 1)[1]!r} puts one anyway"
            report.add_at(where, message, "take it out", severity="warning")
        elif not value.strip("*") and {"contains", "startswith", "endswith"} & set(modifiers):
            report.add_at(where, f"{value!r} matches every value", "say what to look for", severity="warning")


def _complain_value(field: str, value: syntax.Value, view: str) -> tuple[str, str] | None:
    """Message and hint where the field can never have the value."""
    match value:
        case syntax.Null() | syntax.Exists():
            return None
        case syntax.Pattern():
            return _complain_pattern(value.pattern)
    if choices := _find_choices(field, view):
        return _complain_choice(field, value, choices)
    match value:
        case syntax.Compare(part=None) if _holds_text(field, view):
            return f"{field} holds text, which `{value.operator}` never matches", ""
        case syntax.Network() if field in fields.fields_of_view(view) and field not in fields.ADDRESSES:
            return f"{field} holds no address, so it is never within a network", ""
    return None if view == syntax.RECORDS else _complain_text(field, value)


def _complain_pattern(pattern: str) -> tuple[str, str] | None:
    if _GLOB.fullmatch(pattern) is None:
        return None
    message = f"in a pattern a star repeats what stands before it: {pattern!r}"
    return message, "`.*` is any text; without `re`, `*` is a wildcard"


def _holds_text(field: str, view: str) -> bool:
    if view == syntax.RECORDS:
        return field in _RECORD_TEXTS
    return field in fields.fields_of_view(view) and field not in fields.NUMBERS and field != "Mode"


def _find_choices(field: str, view: str) -> Sequence[str]:
    table = fields.load_fields()
    if view == syntax.RECORDS:
        known = {"type": table.types, "nametype": table.nametypes, "SYSCALL": table.syscalls}
        return known.get(field, ())
    known = {"RecordType": table.types, "Syscall": table.syscalls, "metric": table.metrics, **fields.CHOICES}
    return known.get(field, ())


def _complain_choice(field: str, value: syntax.Value, choices: Sequence[str]) -> tuple[str, str] | None:
    holds = compile_test(syntax.Test(field, (value,)))
    if any(holds(hold_value(field, choice)) for choice in choices):
        return None
    shown = _show(value)
    if any(holds(hold_value(field, other)) for choice in choices for other in (choice.upper(), choice.title())):
        return f"{field} is never {shown}: its values are not written so", "drop `cased`"
    near = difflib.get_close_matches(shown.strip("'*"), choices, n=1)
    if field in fields.EXTENDED and not near:
        return None
    hint = f"one of {', '.join(choices)}" if len(choices) <= _SHOWN_CHOICES else ""
    return f"{field} is never {shown}", f"did you mean {near[0]!r}?" if near else hint


def _complain_text(field: str, value: syntax.Value) -> tuple[str, str] | None:
    if field in fields.PATHS and isinstance(value, (syntax.Number, syntax.Truth)):
        return f"{field} is a path, never {_show(value)}", ""
    if isinstance(value, syntax.Text) and field in fields.NUMBERS:
        is_whole = value.parts and all(isinstance(part, str) for part in value.parts)
        wrong = is_whole and re.fullmatch(r"[+-]?\d+(\.\d+)?", str(value.parts[0])) is None
        return (f"{field} is a number, never {_show(value)}", "") if wrong else None
    return _complain_path(field, value) if isinstance(value, syntax.Text) and field in fields.PATHS else None


def _complain_path(field: str, value: syntax.Text) -> tuple[str, str] | None:
    texts = [part for part in value.parts if isinstance(part, str)]
    if any("\\" in text for text in texts) and not any("/" in text for text in texts):
        return f"{field} has no backslashes here: {_show(value)}", "paths are written with '/'"
    first = value.parts[0] if value.parts else ""
    if field not in _PROGRAMS or not isinstance(first, str) or not first or first.startswith(("/", "memfd:")):
        return None
    mended = f"endswith: /{first.rpartition('/')[2]}" if len(value.parts) == 1 else f"startswith: /{first}"
    return f"{field} is a full path, never {_show(value)}", f"`{field}|{mended}`"


def _show(value: syntax.Value) -> str:
    if isinstance(value, syntax.Text):
        return repr("".join({0: "*", 1: "?"}.get(part, "") if isinstance(part, int) else part for part in value.parts))
    if isinstance(value, syntax.Number):
        return str(value.number)
    return "true" if isinstance(value, syntax.Truth) and value.value else type(value).__name__.lower()


def lint_groups(report: Report, keys: Keys, detection: syntax.Detection, view: str) -> bool:
    """Warn of maps that no value satisfies, and of types of records that lack a field. True where there was one."""
    if isinstance(detection, syntax.Test) or not detection.every:
        items = detection.items if isinstance(detection, syntax.Group) else ()
        found = [lint_groups(report, (*keys, number), item, view) for number, item in enumerate(items)]
        return any(found)
    in_records = view == syntax.RECORDS
    conflict = explain_conflict(list_tests(detection), in_records=in_records)
    if conflict is not None:
        report.add(keys, f"this can never match: {conflict[1]}", severity="warning")
        return True
    return in_records and _lint_types(report, keys, detection)


def _lint_types(report: Report, keys: Keys, group: syntax.Group) -> bool:
    tests = [item for item in group.items if isinstance(item, syntax.Test)]
    wanted = [test for test in tests if test.field == "type" and not test.negated]
    texts = [value.parts for test in wanted for value in test.values if isinstance(value, syntax.Text)]
    if len(wanted) != 1 or len(texts) != len(wanted[0].values) or any(len(parts) != 1 for parts in texts):
        return False
    types = [str(parts[0]).upper() for parts in texts]
    definition = _find_value(report, keys)
    found = False
    for test, key in zip(tests, definition if isinstance(definition, dict) else (), strict=False):
        field = test.field
        absent = test.negated or all(isinstance(value, (syntax.Null, syntax.Exists)) for value in test.values)
        if field is None or absent or not fields.is_record_field(field):
            continue
        if not any(fields.has_field(kind, field) for kind in types):
            others = ", ".join(fields.types_with(field)[:3])
            message = f"this can never match: records of type {' or '.join(types)} have no field {field!r}"
            report.add((*keys, key), message, f"{others} have it" if others else "", severity="warning")
            found = True
    return found
