"""The synchronous half of the pipeline: decode, enrich, match, score. The daemon and replay share it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Alert, Event, Position, Process, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from watchdogd.decode.decoder import Decoded, Decoder
    from watchdogd.enrich.enricher import Enricher
    from watchdogd.entities import Match, Record, Rule
    from watchdogd.match.engine import Engine
    from watchdogd.telemetry import Counters


class Judged(msgspec.Struct, frozen=True):
    """What came of a batch: alerts in order of their events, and the lines that need not be read again."""

    alerts: list[Alert]
    closed: list[Position]
    events: int


class Judge:
    """Turns records into alerts. Holds the state that an event's context needs; does no I/O but /proc."""

    def __init__(
        self,
        decoder: Decoder,
        enricher: Enricher,
        engine: Engine,
        score: Callable[[Rule, Event], tuple[float, tuple[str, ...]]],
        counters: Counters,
        *,
        host: str = "",
        late_after_ms: int | None = None,
    ) -> None:
        self._decoder = decoder
        self._enricher = enricher
        self._engine = engine
        self._score = score
        self._counters = counters
        self._host = host
        self._late_after_ms = late_after_ms

    @property
    def pending(self) -> int:
        """Events whose records may not all be here yet."""
        return self._decoder.pending

    def replace_engine(self, engine: Engine) -> None:
        """Judge by other rules from the next event on."""
        self._engine = engine

    def feed(self, records: Sequence[Record], now_ms: int) -> Judged:
        """Judge the events that these records complete."""
        return self._judge(self._decoder.feed(records, now_ms), now_ms)

    def tick(self, now_ms: int) -> Judged:
        """Judge the events that are complete because nothing more came."""
        return self._judge(self._decoder.tick(now_ms), now_ms)

    def drain(self, now_ms: int) -> Judged:
        """Judge what is left at the end of the input."""
        return self._judge(self._decoder.drain(), now_ms)

    def judge_events(self, events: Iterable[Event], now_ms: int) -> Judged:
        """Judge events of a source that needs no decoding."""
        events = list(events)
        return Judged([alert for event in events for alert in self._judge_event(event, now_ms)], [], len(events))

    def warm(self, records: Sequence[Record], decoder: Decoder) -> None:
        """Learn the process tree from lines that were judged before; nothing is counted or matched again."""
        for decoded in (decoder.feed(records, 0), decoder.drain()):
            for event in decoded.events:
                self._enricher.learn(event)

    def _judge(self, decoded: Decoded, now_ms: int) -> Judged:
        alerts: list[Alert] = []
        closed = list(decoded.ignored)
        for event in decoded.events:
            closed.extend(record.position for record in event.records if record.position is not None)
            alerts.extend(self._judge_event(event, now_ms))
        return Judged(alerts, closed, len(decoded.events))

    def _judge_event(self, event: Event, now_ms: int) -> list[Alert]:
        event = self._enricher.enrich(event)
        self._counters.add("judge_events_total")
        if event.own:
            self._counters.add("judge_own_events_total")
            return []
        alerts = [self._build_alert(match, event, now_ms) for match in self._engine.judge(event)]
        if alerts:
            self._counters.add("judge_alerts_total", len(alerts))
        return alerts

    def _build_alert(self, match: Match, event: Event, now_ms: int) -> Alert:
        score, reasons = self._score(match.rule, event)
        view = _find_view(event, match.category)
        time_ms = event.id.time_ms
        return Alert(
            id=hash_alert_id(match),
            time_ms=time_ms,
            rule=match.rule,
            level=match.rule.level,
            source=event.source,
            category=match.category,
            action=view.action,
            outcome=view.outcome,
            events=match.event_ids,
            fields=view.fields,
            matched=match.fields,
            process=event.process,
            lineage=event.lineage,
            group_key=_name_group(match.rule, event.process, event.id.name),
            first_seen_ms=time_ms,
            last_seen_ms=time_ms,
            evidence_score=round(score, 3),
            reasons=reasons,
            lines=tuple(record.line.decode("utf-8", "backslashreplace") for record in event.records),
            host=event.id.node or self._host,
            late=self._late_after_ms is not None and now_ms - time_ms > self._late_after_ms,
        )


def hash_alert_id(match: Match) -> str:
    """sha256 over the rule's id and the completing event's, so that reading again gives the same id."""
    text = f"{match.rule.id}\n{match.event_ids[-1].text()}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _find_view(event: Event, category: str) -> View:
    for view in event.views:
        if view.category == category:
            return view
    return event.views[0] if event.views else View(category=category, action="", outcome="unknown", fields={})


def _name_group(rule: Rule, process: Process | None, name: str) -> str:
    actor = f"{process.exe or '?'}|{process.uid}" if process else name
    return f"{rule.id}|{actor}"
