"""Plain detections to closures. A closure asks a Subject and answers yes or no; it never raises."""

from __future__ import annotations

import ipaddress
import operator
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import re2

from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.entities import FieldValue
    from watchdogd.match.subject import Subject

Predicate: TypeAlias = "Callable[[Subject], bool]"
TextMatcher: TypeAlias = "Callable[[str], bool]"
T = TypeVar("T")

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "eq": operator.eq,
}
_DECIMAL = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300})?", re.ASCII)
TRUTHS = {True: ("true", "yes"), False: ("false", "no")}
_SECONDS_BELOW = 10_000_000_000
"""Larger numbers are ms since the epoch, smaller ones seconds (until the year 2286)."""


class Compiled(NamedTuple):
    """A detection with its closure; the parts keep theirs, so that a match can be explained."""

    detection: syntax.Detection
    holds: Predicate
    items: tuple[Compiled, ...] = ()


def compile_body(body: syntax.RuleBody) -> dict[str, Compiled]:
    """Compile every detection of a rule. Raises ValueError where RE2 refuses a pattern."""
    return {name: compile_detection(detection) for name, detection in body.detections.items()}


def compile_detection(detection: syntax.Detection) -> Compiled:
    """One detection, held against one subject as a whole."""
    if isinstance(detection, syntax.Test):
        return Compiled(detection, compile_test(detection))
    items = tuple(compile_detection(item) for item in detection.items)
    predicates = [item.holds for item in items]
    return Compiled(detection, join_all(predicates) if detection.every else join_any(predicates), items)


def compile_test(test: syntax.Test) -> Predicate:
    """One field (or, as keywords, the lines) against its values."""
    joined = _compile_values(test.field, test.values, every=test.every)
    return negate(joined) if test.negated else joined


def join_all(predicates: Sequence[Callable[[T], bool]]) -> Callable[[T], bool]:
    """Return `and`, in the given order."""
    if len(predicates) == 1:
        return predicates[0]

    def all_hold(subject: T) -> bool:
        for predicate in predicates:  # noqa: SIM110 - half the time of all() with a generator, once for each rule
            if not predicate(subject):
                return False
        return True

    return all_hold


def join_any(predicates: Sequence[Callable[[T], bool]]) -> Callable[[T], bool]:
    """Return `or`, in the given order."""
    if len(predicates) == 1:
        return predicates[0]

    def any_holds(subject: T) -> bool:
        for predicate in predicates:  # noqa: SIM110 - as above
            if predicate(subject):
                return True
        return False

    return any_holds


def negate(predicate: Predicate) -> Predicate:
    """Return `not`."""
    return lambda subject: not predicate(subject)


def _compile_values(field: str | None, values: Sequence[syntax.Value], *, every: bool) -> Predicate:
    if every:
        return join_all([_compile_values(field, (value,), every=False) for value in values])
    texts = [value for value in values if isinstance(value, syntax.Text) and not value.cased]
    others = [value for value in values if not (isinstance(value, syntax.Text) and not value.cased)]
    predicates = [_compile_value(field, value) for value in others]
    if texts:
        predicates.insert(0, _compile_texts(field, texts))
    return join_any(predicates)


def _compile_value(field: str | None, value: syntax.Value) -> Predicate:  # noqa: PLR0911 - one for each type
    match value:
        case syntax.AnyOf():
            return _compile_values(field, value.values, every=False)
        case syntax.Text():
            return _ask_plain(field, text_matcher(value, anywhere=field is None))
        case syntax.Pattern():
            return _ask_plain(field, pattern_matcher(value.pattern))
        case syntax.Number():
            return _compile_number(field, value)
        case syntax.Truth():
            return _compile_texts(field, [syntax.Text((text,)) for text in TRUTHS[value.value]])
        case syntax.Network():
            return _ask_plain(field, _network_matcher(value.network))
    if field is None:
        raise ValueError(f"{type(value).__name__} needs a field")
    return _compile_field_value(field, value)


def _compile_field_value(field: str, value: syntax.Value) -> Predicate:
    match value:
        case syntax.Null():
            return lambda subject: all(found is None for found in subject.values(field))
        case syntax.Exists():
            wanted = value.present
            return lambda subject: any(found is not None for found in subject.values(field)) is wanted
        case syntax.Compare():
            return _compile_compare(field, value)
        case syntax.TimePart():
            return _compile_compare(field, syntax.Compare("eq", value.number, value.part))
        case syntax.OtherField():
            return _compile_other(field, value)
    raise ValueError(f"unknown value {type(value).__name__}")


def _ask_plain(field: str | None, matches: TextMatcher) -> Predicate:
    if field is None:
        return lambda subject: any(matches(text) for text in subject.lines())
    return lambda subject: any(matches(text) for text in subject.plain(field))


def _ask_folded(field: str | None, matches: TextMatcher) -> Predicate:
    if field is None:
        return lambda subject: any(matches(text) for text in subject.folded_lines())

    def ask(subject: Subject) -> bool:
        for text in subject.folded(field):  # noqa: SIM110 - the hottest loop there is
            if matches(text):
                return True
        return False

    return ask


def _compile_texts(field: str | None, texts: Sequence[syntax.Text]) -> Predicate:  # noqa: C901 - one line a shape
    """Case-insensitive texts together: exact ones by hash, ends and starts in one call each."""
    exact: list[str] = []
    starts: list[str] = []
    ends: list[str] = []
    inside: list[str] = []
    matchers: list[TextMatcher] = []
    for text in texts:
        match _widen(text.parts) if field is None else text.parts:
            case ():
                exact.append("")
            case (str() as only,):
                exact.append(only.casefold())
            case (str() as start, syntax.MANY):
                starts.append(start.casefold())
            case (syntax.MANY, str() as end):
                ends.append(end.casefold())
            case (syntax.MANY, str() as middle, syntax.MANY):
                inside.append(middle.casefold())
            case _:
                matchers.append(text_matcher(text, anywhere=field is None))
    if exact:
        matchers.insert(0, frozenset(exact).__contains__)
    if starts:
        matchers.append(_starts_matcher(tuple(starts)))
    if ends:
        matchers.append(_ends_matcher(tuple(ends)))
    if inside:
        matchers.append(_inside_matcher(tuple(inside)))
    return join_any([_ask_folded(field, matches) for matches in matchers])


def _starts_matcher(starts: tuple[str, ...]) -> TextMatcher:
    return lambda text: text.startswith(starts)


def _ends_matcher(ends: tuple[str, ...]) -> TextMatcher:
    return lambda text: text.endswith(ends)


def _inside_matcher(inside: tuple[str, ...]) -> TextMatcher:
    if len(inside) == 1:
        one = inside[0]
        return lambda text: one in text

    def holds_one(text: str) -> bool:
        for one in inside:  # noqa: SIM110 - as above
            if one in text:
                return True
        return False

    return holds_one


def text_matcher(text: syntax.Text, *, anywhere: bool = False) -> TextMatcher:
    """Match one text with wildcards against a whole value, or (`anywhere`) any part of it.

    Where the text is not `cased` the value must be case-folded already. Linear: between two wildcards the leftmost
    occurrence is always a right one.
    """
    parts = _widen(text.parts) if anywhere else text.parts
    if not text.cased:
        parts = tuple(part.casefold() if isinstance(part, str) else part for part in parts)
    pieces = _split_pieces(parts)
    head, tail = pieces[0], pieces[-1]
    if len(pieces) == 1:
        whole = re.compile(head, re.DOTALL)
        return lambda value: whole.fullmatch(value) is not None
    start, end = re.compile(head, re.DOTALL), re.compile(f"(?:{tail})\\Z", re.DOTALL)
    tail_length = _measure(parts)
    middles = [re.compile(piece, re.DOTALL) for piece in pieces[1:-1] if piece]

    def matches(value: str) -> bool:
        found = start.match(value)
        for middle in middles:
            if found is None:
                return False
            found = middle.search(value, found.end())
        if found is None or len(value) - tail_length < found.end():
            return False
        return end.match(value, len(value) - tail_length) is not None

    return matches


def _split_pieces(parts: Sequence[str | int]) -> list[str]:
    """Regexes of fixed length for what stands between the MANY wildcards."""
    pieces = [""]
    for part in parts:
        if part == syntax.MANY:
            pieces.append("")
        else:
            pieces[-1] += "." if part == syntax.ONE else re.escape(str(part))
    return pieces


def _measure(parts: Sequence[str | int]) -> int:
    """Characters behind the last MANY."""
    length = 0
    for part in reversed(parts):
        if part == syntax.MANY:
            break
        length += 1 if part == syntax.ONE else len(str(part))
    return length


def _widen(parts: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Let a keyword stand anywhere: MANY on both sides."""
    if parts[:1] != (syntax.MANY,):
        parts = (syntax.MANY, *parts)
    return parts if parts[-1] == syntax.MANY else (*parts, syntax.MANY)


def pattern_matcher(pattern: str) -> TextMatcher:
    r"""Search on RE2. A lone surrogate, which UTF-8 cannot hold, is matched as the text `\udcNN`.

    Raises ValueError with RE2's reason where it refuses the pattern. What RE2 makes of it (7 KB) is kept from the first
    search on: most patterns of a rule set are never asked for, as the index rules their rules out.
    """
    _compile_pattern(pattern)
    compiled: re.Pattern[str] | None = None

    def matches(text: str) -> bool:
        nonlocal compiled
        if compiled is None:
            compiled = _compile_pattern(pattern)
        try:
            return compiled.search(text) is not None
        except UnicodeEncodeError:
            return compiled.search(text.encode("utf-8", "backslashreplace").decode()) is not None

    return matches


def forget_patterns() -> None:
    """Let go of what RE2's wrapper remembers of the patterns that were compiled last."""
    re2.purge()


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled: re.Pattern[str] = re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"RE2 refuses the pattern: {error}") from error
    return compiled


def _compile_number(field: str | None, value: syntax.Number) -> Predicate:
    number = value.number
    text = str(number)
    if field is None:
        token = re.compile(rf"(?<![\w.]){re.escape(text)}(?![\w.])")
        return lambda subject: any(token.search(line) for line in subject.lines())
    return lambda subject: any(
        found == text if isinstance(found, str) else found == number for found in subject.values(field)
    )


def _compile_compare(field: str, value: syntax.Compare) -> Predicate:
    compare, number, part = _OPERATORS[value.operator], value.number, value.part

    def holds(found: FieldValue) -> bool:
        read = to_number(found) if part is None else time_part(found, part)
        return read is not None and compare(read, number)

    return lambda subject: any(holds(found) for found in subject.values(field))


def _compile_other(field: str, value: syntax.OtherField) -> Predicate:
    def related(mine: str, other: str) -> bool:
        if value.start and value.end:
            return other in mine
        if value.start:
            return mine.startswith(other)
        return mine.endswith(other) if value.end else mine == other

    return lambda subject: any(
        related(mine, other) for mine in subject.folded(field) for other in subject.folded(value.field)
    )


def to_number(value: FieldValue) -> float | None:
    """Return a value as a number where it is one, or decimal text."""
    if isinstance(value, str):
        return float(value) if _DECIMAL.fullmatch(value) else None
    return value if isinstance(value, int | float) else None


def time_part(value: FieldValue, part: str) -> int | None:
    """Return a part of a time in UTC, None where it is none: ISO 8601 text, or seconds or ms since the epoch."""
    try:
        number = to_number(value)
        if number is None:
            moment = datetime.fromisoformat(str(value))
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        else:
            moment = datetime.fromtimestamp(number if number < _SECONDS_BELOW else number / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isocalendar().week if part == "week" else int(getattr(moment, part))


def _network_matcher(network: str) -> TextMatcher:
    known = ipaddress.ip_network(network)

    def matches(text: str) -> bool:
        if not text or text[0] not in "0123456789abcdefABCDEF:":
            return False
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        if known.version == 4 and address.version == 6 and address.ipv4_mapped is not None:  # noqa: PLR2004
            address = address.ipv4_mapped
        return address in known

    return matches
