"""Sigma's filters: exceptions that are written beside the rules. Runs in the reader process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from watchdogd.match import syntax
from watchdogd.match.compile import compile_detection
from watchdogd.match.header import check_head, read_id, read_name, read_source, suggest
from watchdogd.match.read_detection import DetectionReader

if TYPE_CHECKING:
    from watchdogd.match.header import Report
    from watchdogd.match.placeholders import Placeholders

_RULES_HINT = "`rules: any`, or a list of rule ids or names"


def read_filter(report: Report, placeholders: Placeholders) -> syntax.FilterBody | None:
    """None where it cannot be used (reported)."""
    data = report.document.data
    check_head(report)
    filter_id, source = read_id(report), read_source(report)
    if "level" in data:
        report.add(("level",), "a filter has no level", "leave it out", severity="warning")
    if not isinstance(data["filter"], dict):
        report.add(("filter",), "not a map", "`rules`, selections and a condition")
        return None
    before = len(report.problems)
    rules = _read_rules(report)
    if isinstance(data["filter"].get("condition"), list):
        where = report.document.place_value("filter", "condition")
        report.add_at(where, "a filter has one condition, not a list of them", "join them by `or`")
    parsed = DetectionReader(report, placeholders, "filter", also=("rules",)).read()
    if filter_id is None or source is None or parsed is None or len(report.problems) > before:
        return None
    for detection in parsed[0].values():
        compile_detection(detection)
    return syntax.FilterBody(
        id=filter_id,
        title=str(data.get("title") or ""),
        place=report.document.place("id"),
        product=source.product,
        category=source.category,
        service=source.service,
        rules=rules,
        detections=parsed[0],
        condition=parsed[1],
        name=read_name(data),
    )


def _read_rules(report: Report) -> tuple[syntax.Reference, ...] | None:
    definition = report.document.data["filter"]
    if "rules" not in definition:
        near = suggest("rules", [key for key in definition if isinstance(key, str)])
        report.add(("filter",), "the filter does not say for which rules it is", near or _RULES_HINT)
        return None
    value = definition["rules"]
    if value == [] or (isinstance(value, str) and value.lower() == "any"):
        return None
    return read_references(value, ("filter", "rules"), _RULES_HINT, report)


def read_references(
    value: Any,  # noqa: ANN401 - whatever the file holds
    keys: tuple[str | int, ...],
    hint: str,
    report: Report,
) -> tuple[syntax.Reference, ...]:
    """Rule ids or names, one or a list of them."""
    references: list[syntax.Reference] = []
    for number, to in enumerate(value if isinstance(value, list) else [value]):
        where = report.document.place_value(*keys, number) if isinstance(value, list) else report.document.place(*keys)
        if not isinstance(to, str) or not to:
            report.add_at(where, f"not a rule's id or name: {to!r}", hint)
        elif any(to == earlier.to for earlier in references):
            report.add_at(where, f"{to!r} is named twice", "once is enough")
        else:
            references.append(syntax.Reference(to, where))
    return tuple(references)
