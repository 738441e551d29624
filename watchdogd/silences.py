"""Silences: the operator wants to hear nothing of certain alerts until a given time. Nothing here does any I/O.

Matchers are written as Alertmanager writes them: `user="backup"`, `executable=~"/opt/.*"`, `level!=low`.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.labels import complain_label, read_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from watchdogd.entities import Alert

_MATCHER: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9_.]*)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)
_VALUE_CHARACTERS: Final = 4096
_MOST_MATCHERS: Final = 32


class MatcherError(ValueError):
    """A matcher that cannot be read; the text says why."""


class Matcher(msgspec.Struct, frozen=True):
    """One condition on an alert. `operator` is `=`, `!=`, `=~` or `!~`; patterns are RE2 and match whole values."""

    name: str
    operator: str
    value: str

    def holds(self, alert: Alert) -> bool:
        """Whether one of the label's values is the one wanted; negated: whether none is. Unknown is an empty value."""
        values = read_label(alert, self.name) or ("",)
        if self.operator.endswith("~"):
            pattern = _compile(self.value)
            found = any(pattern.fullmatch(value.encode("utf-8", "backslashreplace")) for value in values)
        else:
            found = self.value in values
        return found != self.operator.startswith("!")

    def text(self) -> str:
        """As it is written: `parse_matcher` reads it again."""
        quoted = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.name}{self.operator}"{quoted}"'


class Silence(msgspec.Struct, frozen=True):
    """Alerts for which all matchers hold are silenced from `starts_ms` until `until_ms`, or until it was ended."""

    id: str
    matchers: tuple[Matcher, ...]
    created_ms: int
    starts_ms: int
    until_ms: int
    reason: str
    author: str
    ended_ms: int | None = None

    def holds_at(self, now_ms: int) -> bool:
        """Whether it is in force: by the host's clock, for what is written now, whenever it happened."""
        return self.ended_ms is None and self.starts_ms <= now_ms < self.until_ms

    def covers(self, alert: Alert) -> bool:
        """Whether all matchers hold. Without matchers it covers nothing."""
        return bool(self.matchers) and all(matcher.holds(alert) for matcher in self.matchers)


def find_silence(silences: Iterable[Silence], alert: Alert, now_ms: int) -> Silence | None:
    """The silence that covers the alert now; of several the one that lasts longest."""
    found = [one for one in silences if one.holds_at(now_ms) and one.covers(alert)]
    return max(found, key=lambda one: (one.until_ms, one.id), default=None)


def parse_matcher(text: str) -> Matcher:
    """Read `name=value`, `name!=value`, `name=~pattern` or `name!~pattern`; the value may stand in double quotes.

    Raises MatcherError: no such form, no such label, not RE2.
    """
    read = _MATCHER.fullmatch(text)
    if read is None:
        raise MatcherError(f'not a matcher: {text[:80]!r}; such as user="backup" or executable=~"/opt/.*"')
    name, operator, value = read.groups()
    return check_matcher(Matcher(name, operator, _unquote(value)))


def check_matcher(matcher: Matcher) -> Matcher:
    """The matcher again. Raises MatcherError where it can never be used."""
    complaint = complain_label(matcher.name)
    if complaint is not None:
        raise MatcherError(complaint)
    if len(matcher.value) > _VALUE_CHARACTERS:
        raise MatcherError(f"{matcher.name}: the value is longer than {_VALUE_CHARACTERS} characters")
    if matcher.operator.endswith("~"):
        _compile(matcher.value)
    return matcher


def check_matchers(matchers: Sequence[Matcher]) -> tuple[Matcher, ...]:
    """The matchers of one silence. Raises MatcherError: none, too many, unusable, or all alerts would be silenced."""
    if not matchers:
        raise MatcherError("at least one matcher is needed: a silence must say what it silences")
    if len(matchers) > _MOST_MATCHERS:
        raise MatcherError(f"more than {_MOST_MATCHERS} matchers")
    for matcher in matchers:
        check_matcher(matcher)
    return tuple(matchers)


def encode_matchers(matchers: Sequence[Matcher]) -> str:
    """As the column `silences.matchers` keeps them."""
    return msgspec.json.encode(list(matchers)).decode()


def decode_matchers(text: str | bytes) -> tuple[Matcher, ...]:
    """Read the column again. Raises msgspec.DecodeError, or MatcherError where a pattern is unusable."""
    return tuple(check_matcher(one) for one in msgspec.json.decode(text, type=tuple[Matcher, ...]))


def _unquote(value: str) -> str:
    if len(value) < 2 or not (value[0] == value[-1] == '"'):  # noqa: PLR2004 - two quotes
        return value
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], value[1:-1], flags=re.DOTALL)


@functools.lru_cache(maxsize=256)
def _compile(pattern: str) -> re.Pattern[bytes]:
    """A pattern over UTF-8 bytes: linear time, and no value makes it raise. Raises MatcherError."""
    import re2  # noqa: PLC0415 - only where a matcher has a pattern

    options = re2.Options()
    options.log_errors = False
    try:
        compiled: re.Pattern[bytes] = re2.compile(pattern.encode("utf-8", "backslashreplace"), options)
    except re2.error as error:
        raise MatcherError(f"not a regular expression that RE2 knows: {pattern[:80]!r} ({_explain(error)})") from error
    return compiled


def _explain(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
