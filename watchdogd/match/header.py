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
    from collections.abc import Iterable, Iterator, Sequence

    from watchdogd.marks import MarkedDocument

_TECHNIQUE = re.compile(r"attack\.(t\d{4}(?:\.\d{3})?)", re.IGNORECASE)
_DURATION = re.compile(r"(0|[1-9]\d{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_OWN_KEYS = ("triage", "group_by", "cooldown", "notify", "disabled")
_AMENDMENT_KEYS = frozenset({"id", "level", "description", "watchdogd"})
_SOURCE_KEYS = ("product", "category", "service")
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


def check_head(report: Report) -> None:
    """Report what is wrong with the keys that every kind of document has."""
    _, errors = SigmaRule.from_dict_common_params(
        {key: value for key, value in report.document.data.items() if key != "id"}, collect_errors=True
    )
    bare_tags = _find_bare_tags(report.document.data)
    for error in errors:
        if not isinstance(error, _OWN_CHECKS):
            key = next((key for kind, key in _KEY_OF_ERROR if isinstance(error, kind)), "title")
            bare = next(bare_tags, None) if key == "tags" else None
            if bare is None:
                report.add((key,), _plain(error))
            else:
                where = report.document.place_value("tags", bare[0])
                report.add_at(where, f"the tag {bare[1]!r} has no namespace", "such as attack.t1059")


def _find_bare_tags(data: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Tags without a namespace: pySigma has an error for each, which does not say which it was."""
    return ((number, tag) for number, tag in enumerate(_list(data, "tags")) if isinstance(tag, str) and "." not in tag)


def read_rule(report: Report, extras: syntax.Extras, *, has_source: bool = True) -> Rule | None:
    """Read what alerts show of a rule; None where it has no usable id, level or log source (reported)."""
    check_head(report)
    data: dict[str, Any] = report.document.data
    rule_id, level = read_id(report), read_level(report)
    source = read_source(report) if has_source else None
    triage = _read_triage(data, report)
    if rule_id is None or level is None or (source is None and has_source):
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
        product=source.product if source else None,
        category=source.category if source else None,
        service=source.service if source else None,
        path=report.document.path,
        triage=triage,
        group_by=extras.group_by,
        cooldown_s=extras.cooldown_s,
        notify=extras.notify,
    )


def read_extras(report: Report) -> syntax.Extras:
    """Validate the rest of the rule's own `watchdogd:` key; what is wrong is reported and left out."""
    own = report.document.data.get("watchdogd")
    if not isinstance(own, dict):
        return syntax.Extras()
    for key in own:
        if key not in _OWN_KEYS:
            report.add(("watchdogd", key), f"unknown key {key!r}", suggest(key, _OWN_KEYS) or one_of(_OWN_KEYS))
    cooldown = own.get("cooldown")
    seconds = _DURATION.fullmatch(cooldown) if isinstance(cooldown, str) else None
    if cooldown is not None and seconds is None:
        report.add(("watchdogd", "cooldown"), f"not a duration: {cooldown!r}", "such as 30s, 10m, 2h or 1d")
    disabled = own.get("disabled", False)
    if not isinstance(disabled, bool):
        report.add(("watchdogd", "disabled"), f"not true or false: {disabled!r}")
    return syntax.Extras(
        disabled=disabled is True,
        group_by=_read_names(own, "group_by", report),
        cooldown_s=int(seconds[1]) * _SECONDS[seconds[2]] if seconds else None,
        notify=_read_names(own, "notify", report),
    )


def is_amendment(data: dict[str, Any]) -> bool:
    """Tell whether the document says something of a rule that stands elsewhere: an id, and little else."""
    own = data.get("watchdogd")
    disables = isinstance(own, dict) and "disabled" in own
    return "id" in data and data.keys() <= _AMENDMENT_KEYS and ("level" in data or disables)


def read_amendment(report: Report) -> syntax.Amendment | None:
    """None where it cannot be used (reported)."""
    data: dict[str, Any] = report.document.data
    before = len(report.problems)
    rule_id = read_id(report)
    level = read_level(report) if "level" in data else None
    extras = read_extras(report)
    own = data.get("watchdogd", {})
    if not isinstance(own, dict):
        report.add(("watchdogd",), "not a map", "such as `watchdogd: {disabled: true}`")
        return None
    for key in own:
        if key != "disabled":
            hint = "it can be disabled, or be given another level: copy the rule to change more"
            report.add(("watchdogd", key), f"{key!r} cannot be said of a rule that stands elsewhere", hint)
    if rule_id is None or len(report.problems) > before:
        return None
    disabled = extras.disabled if "disabled" in own else None
    return syntax.Amendment(rule_id, report.document.place("id"), disabled, level)


def read_name(data: dict[str, Any]) -> str:
    """Return the name by which others refer to the document, empty where it has none."""
    name = data.get("name")
    return name if isinstance(name, str) else ""


def read_id(report: Report) -> str | None:
    """None where there is none, or it is no UUID (reported)."""
    value = report.document.data.get("id")
    hint = "a random UUID, as `uuidgen` prints it"
    if value is None:
        report.add(("id",), "the rule has no id", f"alert ids depend on it: add `id:` with {hint}")
        return None
    try:
        return str(UUID(value if isinstance(value, str) else ""))
    except ValueError:
        report.add(("id",), f"not a UUID: {value!r}", hint)
        return None


def read_level(report: Report) -> Level | None:
    """Medium where there is none (a warning), None where it is none of Sigma's (reported)."""
    value = report.document.data.get("level")
    if value is None:
        report.add((), "the rule has no level: medium is assumed", one_of(_LEVELS), severity="warning")
        return Level.MEDIUM
    if isinstance(value, str) and value.lower() in _LEVELS:
        return Level(value.lower())
    report.add(("level",), f"unknown level {value!r}", suggest(value, _LEVELS) or one_of(_LEVELS))
    return None


def read_source(report: Report) -> SigmaLogSource | None:
    """None where it has none, or an unusable one (reported)."""
    value = report.document.data.get("logsource")
    if not isinstance(value, dict):
        report.add(("logsource",), "the rule has no log source", "such as `product: linux, category: process_creation`")
        return None
    given = {key: value[key] for key in _SOURCE_KEYS if value.get(key) is not None}
    wrong = [key for key, name in given.items() if not (isinstance(name, str) and name)]
    for key in wrong:
        report.add(("logsource", key), f"not a {key}: {value[key]!r}", "a name, in lower case")
    if wrong:
        return None
    if not given:
        report.add(("logsource",), "the log source is empty", "such as `product: linux, category: process_creation`")
        return None
    return SigmaLogSource(value.get("category"), value.get("product"), value.get("service"))


def _read_triage(data: dict[str, Any], report: Report) -> str:
    own = data.get("watchdogd")
    if own is None:
        return "auto"
    if not isinstance(own, dict):
        report.add(("watchdogd",), "not a map", one_of(_OWN_KEYS))
        return "auto"
    triage = own.get("triage", "auto")
    if triage in _TRIAGE:
        return str(triage)
    report.add(("watchdogd", "triage"), f"unknown value {triage!r}", suggest(triage, _TRIAGE) or one_of(_TRIAGE))
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


def one_of(words: Iterable[str]) -> str:
    """Hint at all words that could stand there."""
    return "one of " + ", ".join(words)


def _plain(error: Exception) -> str:
    text = str(error).removeprefix("Sigma ")
    return text[:1].lower() + text[1:]
