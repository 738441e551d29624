"""A rule document's head: everything but its detection. Runs in the reader process."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sigma import exceptions as se
from sigma.rule import SigmaLogSource, SigmaRule

from watchdogd.entities import Level, Rule
from watchdogd.errors import Place, Problem
from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from watchdogd.marks import MarkedDocument

_TECHNIQUE = re.compile(r"attack\.(t\d{4}(?:\.\d{3})?)", re.IGNORECASE)
_DURATION = re.compile(r"([1-9]\d{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_OWN_KEYS = ("triage", "group_by", "cooldown", "notify")
_TRIAGE = ("auto", "always", "never")
_LEVELS = tuple(level.value for level in Level)
_KEY_OF_ERROR: tuple[tuple[type[Exception], str], ...] = (
    (se.SigmaTitleError, "title"),
    (se.SigmaNameError, "name"),
    (se.SigmaTaxonomyError, "taxonomy"),
    (se.SigmaRelatedError, "related"),
    (se.SigmaStatusError, "status"),
    (se.SigmaDateError, "date"),
    (se.SigmaModifiedError, "modified"),
    (se.SigmaFieldsError, "fields"),
    (se.SigmaFalsePositivesError, "falsepositives"),
    (se.SigmaAuthorError, "author"),
    (se.SigmaDescriptionError, "description"),
    (se.SigmaReferencesError, "references"),
    (se.SigmaScopeError, "scope"),
    (se.SigmaLicenseError, "license"),
    (se.SigmaTagError, "tags"),
    (se.SigmaValueError, "tags"),
    (se.SigmaTypeError, "name"),
)
_OWN_CHECKS = (se.SigmaIdentifierError, se.SigmaLevelError)


class Report:
    """Collects the mistakes of one document, each with its place."""

    def __init__(self, document: MarkedDocument, lines: Sequence[str] = ()) -> None:
        """`lines` are those of the whole file."""
        self.document = document
        self._lines = lines
        self.problems: list[Problem] = []

    def add(self, keys: tuple[str | int, ...], message: str, hint: str = "", *, severity: str = "error") -> None:
        """Report a mistake at the key at the end of `keys`, or at the nearest part that exists."""
        self.add_at(self.document.place(*keys), message, hint, severity=severity)

    def add_at(self, place: Place, message: str, hint: str = "", *, severity: str = "error") -> None:
        """Report a mistake at a place."""
        self.problems.append(Problem(place, message, hint, severity))

    def point_at(self, place: Place, word: str, *, skip: int = 0) -> Place:
        """Return the place of a word on the line at which its text begins, where it stands on that line."""
        if place.line is None or place.column is None or place.line > len(self._lines):
            return place
        found = self._lines[place.line - 1].find(word, place.column - 1)
        return place if found < 0 else Place(place.path, place.line, found + skip + 1)


def suggest(word: object, known: Iterable[str]) -> str:
    """Hint at the known word that is nearest, empty where none is near."""
    near = difflib.get_close_matches(str(word).lower(), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def read_rule(document: MarkedDocument, report: Report) -> Rule | None:
    """Read what alerts show of a rule; None where it has no usable id or level (reported)."""
    data: dict[str, Any] = document.data
    _, errors = SigmaRule.from_dict_common_params(
        {key: value for key, value in data.items() if key != "id"}, collect_errors=True
    )
    for error in errors:
        if not isinstance(error, _OWN_CHECKS):
            key = next((key for kind, key in _KEY_OF_ERROR if isinstance(error, kind)), "title")
            report.add((key,), _plain(error))
    rule_id, level = _read_id(data, report), _read_level(data, report)
    source = _read_source(data, report)
    triage = _read_triage(data, report)
    if rule_id is None or level is None or source is None:
        return None
    tags = tuple(str(tag) for tag in _list(data, "tags"))
    return Rule(
        id=rule_id,
        title=str(data.get("title") or ""),
        level=level,
        description=str(data.get("description") or "").strip(),
        techniques=tuple(found[1].upper() for tag in tags if (found := _TECHNIQUE.fullmatch(tag))),
        tags=tags,
        falsepositives=tuple(str(text) for text in _list(data, "falsepositives")),
        references=tuple(str(text) for text in _list(data, "references")),
        product=source.product,
        category=source.category,
        service=source.service,
        path=document.path,
        triage=triage,
    )


def read_extras(document: MarkedDocument, report: Report) -> syntax.Extras:
    """Validate the rest of the rule's own `watchdogd:` key; what is wrong is reported and left out."""
    own = document.data.get("watchdogd")
    if not isinstance(own, dict):
        return syntax.Extras()
    for key in own:
        if key not in _OWN_KEYS:
            report.add(("watchdogd", key), f"unknown key {key!r}", suggest(key, _OWN_KEYS) or _one_of(_OWN_KEYS))
    cooldown = own.get("cooldown")
    seconds = _DURATION.fullmatch(cooldown) if isinstance(cooldown, str) else None
    if cooldown is not None and seconds is None:
        report.add(("watchdogd", "cooldown"), f"not a duration: {cooldown!r}", "such as 30s, 10m, 2h or 1d")
    return syntax.Extras(
        group_by=_read_names(own, "group_by", report),
        cooldown_s=int(seconds[1]) * _SECONDS[seconds[2]] if seconds else None,
        notify=_read_names(own, "notify", report),
    )


def choose_view(rule: Rule) -> tuple[str, str]:
    """Which view of an event the rule's log source asks for; where nothing here produces it, "" and the reason."""
    if rule.product not in (None, "linux"):
        return "", f"nothing here produces logs of the product {rule.product!r}: this version watches Linux"
    if rule.category in syntax.CATEGORIES and rule.service in (None, "auditd"):
        return rule.category or "", ""
    if rule.category is None and rule.service in (None, "auditd"):
        return syntax.RECORDS, ""
    if rule.service not in (None, "auditd"):
        return "", f"the service {rule.service!r} is not read by this version"
    return "", f"no event of this version has the category {rule.category!r}"


def _read_id(data: dict[str, Any], report: Report) -> str | None:
    value = data.get("id")
    hint = "a random UUID, as `uuidgen` prints it"
    if value is None:
        report.add(("id",), "the rule has no id", f"alert ids depend on it: add `id:` with {hint}")
        return None
    try:
        return str(UUID(value if isinstance(value, str) else ""))
    except ValueError:
        report.add(("id",), f"not a UUID: {value!r}", hint)
        return None


def _read_level(data: dict[str, Any], report: Report) -> Level | None:
    value = data.get("level")
    if value is None:
        report.add((), "the rule has no level: medium is assumed", _one_of(_LEVELS), severity="warning")
        return Level.MEDIUM
    if isinstance(value, str) and value.lower() in _LEVELS:
        return Level(value.lower())
    report.add(("level",), f"unknown level {value!r}", suggest(value, _LEVELS) or _one_of(_LEVELS))
    return None


def _read_source(data: dict[str, Any], report: Report) -> SigmaLogSource | None:
    value = data.get("logsource")
    if value is None and ("correlation" in data):
        return SigmaLogSource(product="linux")
    if not isinstance(value, dict):
        report.add(("logsource",), "the rule has no log source", "such as `product: linux, category: process_creation`")
        return None
    try:
        return SigmaLogSource.from_dict(value)
    except se.SigmaError as error:
        report.add(("logsource",), _plain(error))
        return None


def _read_triage(data: dict[str, Any], report: Report) -> str:
    own = data.get("watchdogd")
    if own is None:
        return "auto"
    if not isinstance(own, dict):
        report.add(("watchdogd",), "not a map", _one_of(_OWN_KEYS))
        return "auto"
    triage = own.get("triage", "auto")
    if triage in _TRIAGE:
        return str(triage)
    report.add(("watchdogd", "triage"), f"unknown value {triage!r}", suggest(triage, _TRIAGE) or _one_of(_TRIAGE))
    return "auto"


def _read_names(own: dict[str, Any], key: str, report: Report) -> tuple[str, ...]:
    value = own.get(key, [])
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) and name for name in names):
        return tuple(names)
    report.add(("watchdogd", key), "not a list of names")
    return ()


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def _one_of(words: Iterable[str]) -> str:
    return "one of " + ", ".join(words)


def _plain(error: Exception) -> str:
    text = str(error).removeprefix("Sigma ")
    return text[:1].lower() + text[1:]
