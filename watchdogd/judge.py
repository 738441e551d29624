"""The synchronous half of the pipeline: decode, enrich, match, score. The daemon and replay share it."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Protocol

import msgspec

from watchdogd.background import Background
from watchdogd.entities import Alert, Event, Position, View
from watchdogd.match.engine import Engine
from watchdogd.match.syntax import RuleSet
from watchdogd.sessions import SessionAlerts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from watchdogd.background import Scored
    from watchdogd.decode.decoder import Decoded, Decoder
    from watchdogd.enrich.enricher import Enricher
    from watchdogd.entities import CorrelationRow, EventId, Match, Record
    from watchdogd.match.correlate import Correlator, Firing
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.judge")

JOURNAL = "journal"
"""`source` of events of which every one has a name of its own."""

FILE_INTEGRITY = "file_integrity"

LISTEN = "listen"
"""`action` of a metric's view that is no state which lasts: a port began to listen."""

REPEAT_MS = 86_400_000
"""A sampled condition that goes on is alerted about again after this long."""


class Judged(msgspec.Struct, frozen=True):
    """What came of a batch: alerts in order of their events, and the lines that need not be read again."""

    alerts: list[Alert]
    closed: list[Position]
    events: int


class LineDecoder(Protocol):
    """Lines of one source to events: audit's, or the journal's."""

    @property
    def pending(self) -> int:
        """Events whose records may not all be here yet."""

    @property
    def pending_lines(self) -> int:
        """Lines that were fed and have come to nothing yet."""

    def feed(self, records: Sequence[Record], now_ms: int) -> Decoded:
        """The events that these records complete."""

    def tick(self, now_ms: int) -> Decoded:
        """The events that are complete because nothing more came."""

    def drain(self) -> Decoded:
        """What is left."""


class Judge:
    """Turns records into alerts. Holds the state that an event's context needs; does no I/O but /proc."""

    def __init__(
        self,
        decoder: Decoder,
        enricher: Enricher,
        engine: Engine,
        score: Callable[[Alert, Background], Scored],
        counters: Counters,
        *,
        host: str = "",
        late_after_ms: int | None = None,
        beside: Mapping[str, LineDecoder] | None = None,
    ) -> None:
        """`beside`: decoders of further sources by name, for records of different sources must not mix."""
        self._decoder = decoder
        self._beside = dict(beside or {})
        self._enricher = enricher
        self._engine = engine
        engine.correlator.count_in(counters)
        self._score = score
        self._counters = counters
        self._host = host
        self._late_after_ms = late_after_ms
        self._standing: dict[str, dict[str, int]] = {}
        self._sessions = SessionAlerts()
        self.note_deeds: Callable[[Event, Event], None] = lambda *_: None
        """Hears of every event with its context, and as it was decoded; the service sets this and the next."""
        self.tell_judged: Callable[[Event], None] = lambda _: None
        """Hears of every event that needed no decoding, once it was judged."""

    @property
    def pending(self) -> int:
        """Events whose records may not all be here yet."""
        return sum(decoder.pending for decoder in self._decoders())

    @property
    def pending_lines(self) -> int:
        """Lines that were fed and have come to nothing yet."""
        return sum(decoder.pending_lines for decoder in self._decoders())

    def replace_engine(self, build: Callable[[], Engine], build_former: Callable[[], Engine]) -> None:
        """Judge by other rules from the next event on; correlations that are the same go on with what they know.

        What judged so far is let go of before `build` makes the other: both at once would take 9 MB more, of which half
        never went back to the system. Where `build` raises, `build_former` makes again what was in force, and that is
        raised.
        """
        before, self._engine = self._engine.correlator, Engine(RuleSet(()))
        try:
            engine = build()
        except Exception:
            self._go_on_with(build_former(), before)
            raise
        self._go_on_with(engine, before)

    def _go_on_with(self, engine: Engine, before: Correlator) -> None:
        engine.correlator.count_in(self._counters)
        engine.correlator.adopt(before)
        self._engine = engine

    def take_correlations(self) -> list[CorrelationRow]:
        """What correlations have learnt since the last call, to be stored with the alerts and the checkpoint."""
        return self._engine.correlator.take_changes()

    def feed(self, records: Sequence[Record], now_ms: int) -> Judged:
        """Judge the events that these records, all of one source, complete."""
        decoder = self._beside.get(records[0].source, self._decoder) if records else self._decoder
        return self._judge(decoder.feed(records, now_ms), now_ms=now_ms)

    def tick(self, now_ms: int) -> Judged:
        """Judge the events that are complete because nothing more came, and what only time can tell."""
        judged = self._judge(*(decoder.tick(now_ms) for decoder in self._decoders()), now_ms=now_ms)
        overdue = self._build_overdue(self._engine.advance(now_ms, is_wall=True), now_ms)
        return Judged(judged.alerts + overdue, judged.closed, judged.events) if overdue else judged

    def drain(self, now_ms: int) -> Judged:
        """Judge what is left at the end of the input, and what correlations waited for: there will be no more."""
        judged = self._judge(self._decoder.drain(), now_ms=now_ms)
        overdue = self._build_overdue(self._engine.finish(), now_ms)
        return Judged(judged.alerts + overdue, judged.closed, judged.events)

    def drain_beside(self, now_ms: int) -> Judged:
        """Judge what is left of the further sources, which cannot be read again as the log can."""
        return self._judge(*(decoder.drain() for decoder in self._beside.values()), now_ms=now_ms)

    def _decoders(self) -> tuple[LineDecoder, ...]:
        return (self._decoder, *self._beside.values())

    def judge_events(self, events: Iterable[Event], now_ms: int) -> Judged:
        """Judge events of a source that needs no decoding."""
        events = list(events)
        return Judged(
            [alert for event in events for alert in self._judge_event(event, now_ms, sampled=True)], [], len(events)
        )

    def warm(self, records: Sequence[Record], decoder: Decoder) -> set[str | None]:
        """Learn the process tree from lines that were judged before; nothing is counted or matched again.

        Returns the nodes that recorded them.
        """
        nodes: set[str | None] = set()
        for decoded in (decoder.feed(records, 0), decoder.drain()):
            for event in decoded.events:
                nodes.add(event.id.node)
                try:
                    self._enricher.learn(event)
                except Exception:  # as in `_judge_event`
                    self._counters.add("judge_unlearnt_events_total")
                    log.exception("event %s could not be learnt: please report this", event.id.text())
        return nodes

    def _judge(self, *results: Decoded, now_ms: int) -> Judged:
        alerts: list[Alert] = []
        closed = [position for decoded in results for position in decoded.ignored]
        events = [event for decoded in results for event in decoded.events]
        for event in events:
            for record in event.records:
                position = record.position
                if position is not None:
                    closed.append(position)
            alerts.extend(self._judge_event(event, now_ms))
        return Judged(alerts, closed, len(events))

    def _judge_event(self, event: Event, now_ms: int, *, sampled: bool = False) -> list[Alert]:
        self._counters.add("judge_events_total")
        alerts: list[Alert] = []
        try:
            is_own = self._find_alerts(event, now_ms, alerts, sampled=sampled)
        except Exception:  # our own fault, on text an attacker chose: read again at each start, it would end each run
            self._counters.add("judge_failed_events_total")
            log.exception("event %s could not be judged: please report this", event.id.text())
        else:
            self._counters.add("judge_own_events_total" if is_own else "judge_evaluated_events_total")
        if sampled:
            self.tell_judged(event)
        return alerts

    def _find_alerts(self, event: Event, now_ms: int, alerts: list[Alert], *, sampled: bool) -> bool:
        """Add what comes of an event; True where it is our own doing and nothing does."""
        alerts += self._build_overdue(self._engine.advance(event.id.time_ms), now_ms)
        is_change = event.source == FILE_INTEGRITY  # which has the context of the audit event that it is due to
        if not is_change:
            decoded = event
            event = self._enricher.enrich(decoded)
            self.note_deeds(event, decoded)
        if event.own:
            return True
        matches = self._engine.judge(event)
        if matches:
            self._counters.add("judge_matches_total", len(matches))
        if sampled and not is_change and not any(view.action == LISTEN for view in event.views):
            matches = self._keep_new(matches, event.id)
        if not matches:
            return False
        try:
            found = [self._build_alert(match, event, now_ms) for match in matches]
        except Exception:
            self._counters.add("judge_failed_matches_total", len(matches))
            raise
        self._counters.add("judge_alerts_total", len(found))
        alerts += found
        return False

    def _build_overdue(self, firings: Sequence[Firing], now_ms: int) -> list[Alert]:
        """Alerts of correlations that hold because their window has passed."""
        alerts: list[Alert] = []
        if firings:
            self._counters.add("judge_matches_total", len(firings))
        for firing in firings:
            try:
                alerts.append(self._build_alert(firing.match, firing.event, now_ms))
            except Exception:  # as in `_judge_event`
                self._counters.add("judge_failed_matches_total")
                log.exception("event %s could not be judged: please report this", firing.event.id.text())
            else:
                self._counters.add("judge_alerts_total")
        return alerts

    def _keep_new(self, matches: list[Match], event_id: EventId) -> list[Match]:
        """Matches that did not hold at the last sample of the same thing: a disk is full once, not every ten seconds.

        What still holds after a day is said again. Correlations say themselves how often they are heard.
        """
        before = self._standing.get(event_id.name, {})
        since_ms = {
            match.rule.id: before[match.rule.id]
            for match in matches
            if match.group is None and event_id.time_ms - before.get(match.rule.id, -REPEAT_MS) < REPEAT_MS
        }
        new = [match for match in matches if match.rule.id not in since_ms]
        since_ms.update((match.rule.id, event_id.time_ms) for match in new if match.group is None)
        self._standing.pop(event_id.name, None)
        if since_ms:
            self._standing[event_id.name] = since_ms
        self._counters.add("judge_standing_total", len(matches) - len(new))
        return new

    def _build_alert(self, match: Match, event: Event, now_ms: int) -> Alert:
        view = _find_view(event, match)
        time_ms = match.event_ids[-1].time_ms
        alert = Alert(
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
            matched=dict(match.fields),
            process=event.process,
            lineage=event.lineage,
            group_key=_name_group(match, event, view),
            first_seen_ms=time_ms if match.first_seen_ms is None else match.first_seen_ms,
            last_seen_ms=time_ms,
            evidence_score=0.0,
            reasons=(),
            lines=tuple(record.line.decode("utf-8", "backslashreplace") for record in event.records),
            host=event.id.node or self._host,
            rarity=event.rarity,
            is_correlation=match.group is not None,
            late=self._late_after_ms is not None and now_ms - time_ms > self._late_after_ms,
        )
        scored = self._score(alert, Background(related=self._sessions.find(alert)))
        self._sessions.remember(alert)
        return msgspec.structs.replace(alert, evidence_score=round(scored.probability, 3), reasons=scored.reasons)


def hash_alert_id(match: Match) -> str:
    """sha256 over the rule's id, the completing event's and the group's values: reading again gives the same id."""
    text = "\n".join((match.rule.id, match.event_ids[-1].text(), *(match.group or ())))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _find_view(event: Event, match: Match) -> View:
    """The view that the match is about: of several of its category the one that has the values which matched."""
    views = [view for view in event.views if view.category == match.category] or event.views
    if not views:
        return View(category=match.category, action="", outcome="unknown", fields={})
    return max(views, key=lambda view: sum(str(view.fields.get(name)) == value for name, value in match.fields.items()))


def _name_group(match: Match, event: Event, view: View) -> str:
    if match.group is not None:
        return "|".join((match.rule.id, *match.group))
    process = event.process
    if process is not None:
        actor = f"{process.exe or '?'}|{process.uid}"
    elif event.source == JOURNAL:
        actor = "|".join(str(view.fields.get(name) or "?") for name in ("Identifier", "User", "SourceIp"))
    else:
        actor = event.id.name
    return f"{match.rule.id}|{actor}"
