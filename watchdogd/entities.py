"""The types that pass from room to room. All are frozen; times are in the unit that their name ends in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, overload

import msgspec

FieldValue = str | int | float | None
"""One value of a Sigma view; a list of values is a tuple of these."""

FieldMap = dict[str, FieldValue | tuple[FieldValue, ...]]
"""Sigma field name to value or values."""

FieldTriple = tuple[str, str, str]
"""Name, raw value and interpreted value of one audit field; order and repeated names are kept."""

Likeness = bytes
"""All lines of an event, but for time and serial in the headers and for values of VOLATILE_FIELDS."""


VOLATILE_FIELDS: Mapping[str, frozenset[str]] = {
    "SYSCALL": frozenset({"exit", "a0", "a1", "a2", "a3", "items", "ppid", "pid"}),
    "PATH": frozenset({"inode"}),
}
"""By type of record, fields whose numbers hardly ever come again."""


class Level(StrEnum):
    """Sigma's rule levels, least first: `list(Level)` is their order."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for informational up to 4 for critical."""
        return _LEVELS.index(self)


_LEVELS = tuple(Level)


class Label(StrEnum):
    """What triage says about an alert. `untriaged` is never a synonym of `benign`."""

    MALICIOUS = "malicious"
    SUSPICIOUS = "suspicious"
    BENIGN = "benign"
    UNTRIAGED = "untriaged"


class AlertState(StrEnum):
    """What became of an alert. Every alert is kept, whatever its state; only active ones are delivered."""

    ACTIVE = "active"
    FOLDED = "folded"
    """A repeat: it raised the count of the alert `leader`."""
    INHIBITED = "inhibited"
    """The alert `leader` says it already."""
    SILENCED = "silenced"
    """The operator wants to hear nothing of it for a while: the silence `silence`."""


class Position(msgspec.Struct, frozen=True, gc=False):
    """Where a line stood: bytes `start` to `end` (its newline included) of one file.

    `file_id` is `device:inode:hash of the first line`, so that a rotated file stays itself and a reused inode
    does not.
    """

    source: str
    file_id: str
    start: int
    end: int


class Record(msgspec.Struct, frozen=True, gc=False):
    """One raw line as it was read, without its line ending. `position` is None for sockets and replay."""

    source: str
    position: Position | None
    data: bytes
    lost_ms: int = 0
    """Where not 0, lines of this source were lost here, the last at this time (ms since the epoch). Such a record has
    no data and makes a batch of its own."""


class EventId(msgspec.Struct, frozen=True, order=True, gc=False):
    """What makes an event itself. Audit: node, time and serial together (serials restart at boot and roll over).

    Sources without serials use 0 and a `name` of their own: the metric of a host metric.
    """

    source: str
    node: str | None
    time_ms: int
    serial: int
    name: str = ""

    def text(self) -> str:
        """Canonical form, stable across versions: alert ids are hashed from it."""
        return f"{self.source}|{self.node or ''}|{self.time_ms}|{self.serial}|{self.name}"


class AuditRecord(Protocol):
    """One decoded record of an event, as rules and alerts see it. `decode` implements it lazily."""

    @property
    def type(self) -> str:
        """Record type by name (`SYSCALL`), or `UNKNOWN[n]`."""

    @property
    def line(self) -> bytes:
        """The original line."""

    @property
    def fields(self) -> tuple[FieldTriple, ...]:
        """Every field in order; repeated names stay."""

    @property
    def position(self) -> Position | None:
        """Where the line stood, None for sockets and replay."""

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """Parts of the line behind its header that may come again in other lines of this type.

        Each holds whole fields and what they mean depends on nothing else. What lies between them are the values of
        VOLATILE_FIELDS. Empty where the line cannot be cut.
        """

    @property
    def body(self) -> bytes:
        """All of the line behind its header; empty where the line cannot be cut."""

    def may_have(self, name: str) -> bool:
        """False only where the record surely has no field of that name, in upper or lower case: known at a glance."""

    def read_piece(self, piece: bytes) -> tuple[FieldTriple, ...] | None:
        """The fields of one of the pieces; None where they do not stand alone after all."""

    def get(self, name: str) -> str | None:
        """Raw value of the first field of that name, None where absent."""


class View(msgspec.Struct, frozen=True, gc=False):
    """One Sigma view of an event: `category` is Sigma's log source category, `fields` carry its field names."""

    category: str
    action: str
    outcome: str
    fields: FieldMap


class LazyViews(Sequence[View]):
    """Views that are made when the first of them is asked for: most events' never are."""

    __slots__ = ("_made", "_make", "_outline", "_source", "likeness")

    def __init__(
        self,
        make: Callable[[Any], Sequence[View]],
        source: Any,  # noqa: ANN401 - `make` knows it
        likeness: Likeness | None = None,
        outline: Callable[[Any], FieldMap | None] | None = None,
    ) -> None:
        """`make` is called at most once, with `source`; `outline` answers for the property of that name.

        Views of equal `likeness` differ in nothing but ProcessId and ParentProcessId; None where that is not known.
        """
        self.likeness = likeness
        self._make = make
        self._outline = outline
        self._source = source
        self._made: tuple[View, ...] | None = None

    @property
    def outline(self) -> FieldMap | None:
        """Under each name every value that any of the views has there, and maybe more; None where none is at hand.

        Made in less time than the views. A new map each time.
        """
        return None if self._outline is None or self._made is not None else self._outline(self._source)

    @property
    def made(self) -> tuple[View, ...]:
        """All of them."""
        if self._made is None:
            self._made = tuple(self._make(self._source))
        return self._made

    @overload
    def __getitem__(self, index: int) -> View: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[View]: ...

    def __getitem__(self, index: int | slice) -> View | Sequence[View]:
        """As of a tuple."""
        return self.made[index]

    def __iter__(self) -> Iterator[View]:
        """As of a tuple."""
        return iter(self.made)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.made)

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of the same views."""
        return self.made == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        """As of a tuple."""
        return hash(self.made)


class LazyFields(Mapping[str, str]):
    """Fields that are collected when the first of them is asked for: not every match becomes an alert."""

    __slots__ = ("_collect", "_found")

    def __init__(self, collect: Callable[[], dict[str, str]]) -> None:
        """`collect` is called at most once."""
        self._collect: Callable[[], dict[str, str]] | None = collect
        self._found: dict[str, str] = {}

    @property
    def found(self) -> dict[str, str]:
        """All of them."""
        if self._collect is not None:
            self._found = self._collect()
            self._collect = None
        return self._found

    def __getitem__(self, name: str) -> str:
        """As of a dict."""
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        """As of a dict."""
        return iter(self.found)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.found)


class ProcessKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """Unique on a host: boot id (empty in replay), pid, and start time in ms since the epoch."""

    boot: str
    pid: int
    start_ms: int


class Process(msgspec.Struct, frozen=True, gc=False):
    """One process as far as audit and /proc tell. Unknown parts are None or empty, never guessed."""

    key: ProcessKey
    pid: int
    ppid: int | None
    exe: str | None
    comm: str | None
    argv: tuple[str, ...]
    cwd: str | None
    uid: int | None
    user: str | None
    auid: int | None
    login: str | None
    session: str | None
    tty: str | None
    unit: str | None = None
    container: str | None = None


class Rarity(msgspec.Struct, frozen=True, gc=False):
    """How often this pattern (program below its parent, by its user) was seen on this host before now."""

    pattern: str
    seen: int
    first_seen_ms: int | None
    observed: int
    """How many patterns were counted in all: a young baseline calls everything rare."""
    recent: int | None = None
    """Of `seen`, how often in the last 30 days; None where that is unknown."""


DAY_MS = 86_400_000
RECENT_DAYS = 30
"""What `Rarity.recent` looks back at, today included."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """How often a pattern was seen: all that is known of it, or what was added since the last commit."""

    count: int
    first_ms: int
    days: tuple[tuple[int, int], ...] = ()
    """Of the last RECENT_DAYS days: day since the epoch (UTC) and how often, oldest first."""
    days_from: int = 0
    """`days` lacks what was seen before this day."""

    def plus(self, more: Seen) -> Seen:
        """Both together."""
        total: dict[int, int] = {}
        for day, count in (*self.days, *more.days):
            total[day] = total.get(day, 0) + count
        days = tuple(sorted(total.items())[-RECENT_DAYS:])
        return Seen(self.count + more.count, min(self.first_ms, more.first_ms), days, self.days_from)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One audit event, metric sample or other observation, with everything that rules may ask about."""

    id: EventId
    source: str
    records: tuple[AuditRecord, ...] = ()
    views: Sequence[View] = ()
    """`decode` makes them when they are first asked for."""
    process: Process | None = None
    lineage: tuple[Process, ...] = ()
    """Ancestors, parent first."""
    rarity: Rarity | None = None
    warnings: tuple[str, ...] = ()
    own: bool = False
    """True where watchdogd itself is the actor: never matched, always counted."""
    seen_before: bool = False
    """True where the other source gave the same event before, with records missing: nothing is learned twice."""
    categories: frozenset[str] | None = None
    """All that `views` can be of, known without making them; None where only `views` tells."""
    call: str | None = None
    """The syscall by name, known without making the views; None where no syscall is part of the event."""
    likeness: Likeness | None = None
    """Records of events of equal likeness differ in nothing but headers and values of VOLATILE_FIELDS; None where that
    is not known."""


class Part(msgspec.Struct, frozen=True):
    """A rule that a correlation is made of, directly or not."""

    rule_id: str
    names: tuple[str, ...] = ()
    """What the correlation is grouped by."""
    fields: tuple[str, ...] = ()
    """The same, as the rule's own events call it."""


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an alert needs to know of a Sigma rule; how it matches stays in the match room."""

    id: str
    title: str
    level: Level
    description: str = ""
    techniques: tuple[str, ...] = ()
    """ATT&CK ids in upper case, `T1059.004`."""
    tags: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    product: str | None = None
    category: str | None = None
    service: str | None = None
    path: str = ""
    triage: str = "auto"
    """`auto`, `always` or `never`: the rule's own `watchdogd.triage`."""
    group_by: tuple[str, ...] = ()
    """Labels, in place of the configuration's `grouping.group_by`."""
    cooldown_s: int | None = None
    """In place of the configuration's `grouping.repeat_interval_s`."""
    notify: tuple[str, ...] = ()
    """Sinks, in place of those that its level chooses."""
    parts: tuple[Part, ...] = ()
    """Of a correlation: the rules that alert by themselves, too."""
    timespan_ms: int = 0
    """Of a correlation."""
    part_of: tuple[tuple[str, ...], ...] = ()
    """Of a rule that correlations are made of: the fields by which each of them groups its events."""


class Match(msgspec.Struct, frozen=True, gc=False):
    """A rule that an event satisfied, with the fields that made it so (name to value, as text)."""

    rule: Rule
    event_ids: tuple[EventId, ...]
    """The completing event is last."""
    fields: Mapping[str, str]
    category: str
    """Log source category or service of the view that matched."""
    group: tuple[str, ...] | None = None
    """Of a correlation: the values that its events have in common, case-folded."""
    first_seen_ms: int | None = None
    """Of a correlation: time of its first event."""


class CorrelationRow(msgspec.Struct, frozen=True):
    """What a correlation knows of one group, as the database keeps it; `state` None deletes it."""

    rule_id: str
    digest: str
    """Of the correlation itself: another one must not go on with its state."""
    group_key: str
    state: bytes | None
    updated_ms: int
    """Time of the group's newest event."""


class Verdict(msgspec.Struct, frozen=True):
    """What triage concluded, with everything that is needed to reproduce it."""

    label: Label
    by: str
    """`fusion` (scorer and an examined model), `scorer`, `model` alone, or `none`: nothing valid was said."""
    confidence: float | None = None
    summary: str = ""
    evidence: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
    model: str | None = None
    model_digest: str | None = None
    prompt_version: str | None = None
    prompt_sha256: str | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    options: dict[str, str | int | float] = {}
    """What shaped the answer: num_ctx, num_predict, temperature, seed, keep_alive."""
    scorer: float | None = None
    """The embedded scorer's probability, with the background."""
    model_share: float | None = None
    """The model's own probability of `malicious` against `benign`, before any fusion, which weighs just that."""
    believed: bool = False
    """Whether the model passed its exam: else its opinion carries no weight."""
    truncated: bool = False
    cached: bool = False
    elapsed_s: float | None = None
    error: str | None = None
    injection: str = ""
    """Empty, or what became of text that reads like an order to the model: `suspected` (no second answer to compare),
    `withstood` (with that text withheld the answer is the same), `obeyed` (it is another: verdict discarded)."""


class Alert(msgspec.Struct, frozen=True):
    """One alert, complete: what is stored, shown and sent. `level` is never below the rule's floor."""

    id: str
    time_ms: int
    rule: Rule
    level: Level
    source: str
    category: str
    action: str
    outcome: str
    events: tuple[EventId, ...]
    fields: FieldMap
    """The view's own fields (file_event's TargetFilename, a metric's value...)."""
    matched: dict[str, str]
    process: Process | None
    lineage: tuple[Process, ...]
    group_key: str
    first_seen_ms: int
    last_seen_ms: int
    evidence_score: float
    """0 (nothing speaks for an attack) to 1, from rule level, lineage and rarity alone."""
    reasons: tuple[str, ...]
    lines: tuple[str, ...]
    """Original lines; bytes that are not UTF-8 are written `\\xNN`."""
    host: str = ""
    state: AlertState = AlertState.ACTIVE
    leader: str | None = None
    """Id of the alert that this one was folded into, or is inhibited by."""
    silence: str | None = None
    """Id of the silence."""
    count: int = 1
    late: bool = False
    rarity: Rarity | None = None
    verdict: Verdict | None = None
    is_correlation: bool = False
    """Events that mean something together: `matched` is what they have in common, and how many there are at last (with
    `+` where there may be more). All else is the completing event's."""


class Delivery(msgspec.Struct, frozen=True):
    """One thing to tell one sink: the alert itself, the verdict that came after it, or that it came again."""

    id: int
    alert_id: str
    sink: str
    kind: str
    """`alert`; `verdict`, or `update`: the group went on, count and last_seen_ms rose."""
    attempts: int
    created_ms: int
    number: int = 0
    """Of updates, the how many-th of this alert for this sink."""

    @property
    def message_id(self) -> str:
        """What receivers recognise repeats by: the same at every attempt, another for each thing that is told."""
        number = f"_{self.number}" if self.number else ""
        return f"{self.kind}_{self.alert_id}{number}"


class SinkTrouble(msgspec.Struct, frozen=True):
    """What the database knows of a sink that fails, or has failed."""

    sink: str
    paused_until_ms: int
    """Until then it is left alone; 0 where it is not."""
    down_since_ms: int | None
    """When it failed first, None where it worked since."""
    gave_up_ms: int | None
    """When, since it last worked, deliveries to it were given up first."""


class GivenUp(msgspec.Struct, frozen=True):
    """Deliveries to a sink that were given up, and no alert says so yet."""

    sink: str
    since_ms: int
    count: int
    error: str
    """The last one's."""


class Checkpoint(msgspec.Struct, frozen=True):
    """Where reading resumes: the lowest byte whose event has not been judged."""

    source: str
    path: str
    file_id: str
    offset: int
