"""What the daemon is asked about its alerts and silences, and what it answers: requests and reports of `control`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from watchdogd.entities import AlertState, Label, Level  # noqa: TC001 - msgspec reads the annotations

PAGE = 100
"""Alerts in one answer, at most."""

_Text = Annotated[str, msgspec.Meta(max_length=1000)]


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place in the list of all alerts: by their time, then in the order of arrival."""

    time_ms: int
    seq: int


class AlertsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts, the newest first by their own time; what is not given does not matter."""

    state: AlertState | None = None
    rule: _Text | None = None
    """Id or title, whatever its case."""
    level: Level | None = None
    verdict: Label | None = None
    user: _Text | None = None
    """Who ran it or logged in, by name or number."""
    since_ms: int | None = None
    until_ms: int | None = None
    before: Cursor | None = None
    """Only those behind this one in the list: the next page."""
    before_id: _Text | None = None
    """The same by an alert's id, or how it begins."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE)] = PAGE


class ListedAlert(msgspec.Struct, frozen=True):
    """One alert of a list, or a repeat of another one."""

    state: AlertState
    document: msgspec.Raw
    """An entities.Alert."""
    leader: str | None = None
    """Id of the alert that it was folded into, or inhibited by."""
    silence: str | None = None
    """Id of the silence that muted it."""


class AlertsReport(msgspec.Struct, frozen=True):
    """A page of alerts, the newest first; short, or empty, where the search took long."""

    alerts: tuple[ListedAlert, ...]
    next: Cursor | None
    """`before` of the next page; None where there is none."""


class AlertRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about one alert."""

    alert_id: _Text
    """Its id, or how it begins."""


class DeliveryReport(msgspec.Struct, frozen=True):
    """What became of telling one sink."""

    sink: str
    kind: str
    state: str
    """`pending`, `delivered`, `dead` (given up), `routed` (its verdict kept it in the journal)..."""
    attempts: int
    created_ms: int
    due_ms: int
    ended_ms: int | None
    last_error: str | None


class OpinionGiven(msgspec.Struct, frozen=True):
    """The operator's own verdict."""

    label: str
    note: str
    given_ms: int


class AlertReport(msgspec.Struct, frozen=True):
    """One alert, what became of it, and the repeats that were folded into it."""

    alert: ListedAlert
    deliveries: tuple[DeliveryReport, ...]
    repeats: tuple[ListedAlert, ...]
    """The newest of those folded into it or inhibited by it."""
    more_repeats: bool
    opinion: OpinionGiven | None = None
    silence: str = ""
    """Of the silence that muted it: until when, why, and whose it is."""


class HistoryReport(msgspec.Struct, frozen=True):
    """The database of alerts as it is now."""

    states: dict[str, int]
    """Alerts by state."""
    oldest_ms: int | None
    used_bytes: int
    """Pages in use; the file may be larger."""
    file_bytes: int
    keep_ms: int | None
    max_bytes: int | None
    pruned_age: int
    """Alerts that were older than `keep`, ever."""
    pruned_size: int
    """Alerts that had no room in `max_size`, ever."""


class SilenceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Alerts that nobody wants to hear of for a while: those for which everything given holds."""

    until_ms: int
    reason: _Text
    rules: tuple[_Text, ...] = ()
    """Ids or titles, whatever their case: one of them."""
    matchers: tuple[_Text, ...] = ()
    """As `silences.parse_matcher` reads them."""
    all_rules: bool = False
    """Whether it may cover every alert."""


class SilencesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which silences are asked for."""

    ended: bool = False
    """Those that have ended, too."""


class EndSilenceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The silence that is to end now."""

    silence_id: _Text
    """Its id, or how it begins."""


class SilenceReport(msgspec.Struct, frozen=True):
    """A silence, and how many alerts it has muted."""

    id: str
    matchers: tuple[str, ...]
    """As Alertmanager writes them."""
    created_ms: int
    until_ms: int
    """When it ends, or has ended."""
    ended: bool
    reason: str
    author: str
    muted: int


class SilencesReport(msgspec.Struct, frozen=True):
    """Silences, the newest first."""

    silences: tuple[SilenceReport, ...]


class SilenceMade(msgspec.Struct, frozen=True):
    """A new silence, and what it would have muted already."""

    silence: SilenceReport
    looked_at: int
    """Alerts of the last day, or the newest of them."""
    complete: bool
    """Whether that were all of the last day."""
    covered: int
    """Of these, how many it would have muted."""
    titles: dict[str, int]
    """Of these, how many by title of their rule: the most frequent."""
    notes: tuple[str, ...] = ()
    """What looks like a mistake."""
