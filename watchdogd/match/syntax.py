"""A rule's detection as plain data: what the reader process hands over, and what the engine compiles.

Nothing here knows pySigma. Modifiers are resolved: what `contains`, `windash` or `base64offset` mean has become
texts with wildcards. Sigma's specification (version 2) is the reference for every type.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from watchdogd.entities import Level, Rule  # noqa: TC001 - msgspec reads the annotations
from watchdogd.errors import Place, Problem  # noqa: TC001

MANY = 0
"""Wildcard part: any number of characters, none included."""
ONE = 1
"""Wildcard part: exactly one character."""

RECORDS = "auditd"
"""The view in which each raw audit record stands alone, under auditd's own field names."""
CATEGORIES = (
    "process_creation",
    "file_event",
    "file_access",
    "file_change",
    "file_delete",
    "file_rename",
    "network_connection",
    "authentication",
    "service",
    "syscall",
    "audit_record",
    "host_metrics",
    "file_integrity",
)
"""Event views that this version produces: Sigma's own categories and ours."""


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Text with wildcards; compared without regard to case unless `cased`."""

    parts: tuple[str | int, ...]
    cased: bool = False


class Pattern(msgspec.Struct, frozen=True, tag="regex"):
    """A regular expression in RE2's syntax, flags included; it may match anywhere in the value."""

    pattern: str


class Number(msgspec.Struct, frozen=True, tag="number"):
    """Equal to this number, or text that reads so."""

    number: int | float


class Truth(msgspec.Struct, frozen=True, tag="bool"):
    """`true` or `yes`, `false` or `no`: YAML 1.1 reads them alike, so `success: yes` works unquoted."""

    value: bool


class Null(msgspec.Struct, frozen=True, tag="null"):
    """The field is absent or has no value."""


class Exists(msgspec.Struct, frozen=True, tag="exists"):
    """The field has a value (or, with `present` false, has none)."""

    present: bool


class Network(msgspec.Struct, frozen=True, tag="cidr"):
    """An address within this network."""

    network: str


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """Numeric order: `operator` is one of lt, lte, gt, gte; with `part` it is that part of a time, in UTC."""

    operator: str
    number: int | float
    part: str | None = None


class TimePart(msgspec.Struct, frozen=True, tag="time"):
    """A part of a time in UTC: minute, hour, day, week (ISO), month or year."""

    part: str
    number: int


class OtherField(msgspec.Struct, frozen=True, tag="field"):
    """The value of another field of the same view: equal, or its start, end, or (both set) any part."""

    field: str
    start: bool = False
    end: bool = False


class AnyOf(msgspec.Struct, frozen=True, tag="any"):
    """Values that one modifier made of one value: any will do, even below `all`."""

    values: tuple[Value, ...]


Value: TypeAlias = Text | Pattern | Number | Truth | Null | Exists | Network | Compare | TimePart | OtherField | AnyOf


class Test(msgspec.Struct, frozen=True, tag="test"):
    """One field against values; `field` None asks the raw lines (keywords)."""

    __test__ = False  # for pytest: a detection's test, not a test case

    field: str | None
    values: tuple[Value, ...]
    every: bool = False
    """All values must match (`all`), not just one."""
    negated: bool = False


class Group(msgspec.Struct, frozen=True, tag="group"):
    """A map (`every`: all of its tests) or a list of maps (any of them)."""

    items: tuple[Detection, ...]
    every: bool


Detection: TypeAlias = Test | Group


class Named(msgspec.Struct, frozen=True, tag="named"):
    """A detection by its name."""

    name: str


class Not(msgspec.Struct, frozen=True, tag="not"):
    """The opposite."""

    item: Condition


class Junction(msgspec.Struct, frozen=True, tag="junction"):
    """`and` (`every`) or `or` over conditions; `1 of x*` and `all of x*` have become these."""

    items: tuple[Condition, ...]
    every: bool


Condition: TypeAlias = Named | Not | Junction


class Extras(msgspec.Struct, frozen=True):
    """The rest of a rule's own `watchdogd:` key; `triage` is on the rule itself."""

    group_by: tuple[str, ...] = ()
    cooldown_s: int | None = None
    notify: tuple[str, ...] = ()
    disabled: bool = False


class RuleBody(msgspec.Struct, frozen=True, tag="rule"):
    """A rule with everything that makes it match. `view` is empty where it can never match; `reason` says why."""

    rule: Rule
    place: Place
    view: str
    """RECORDS or one of CATEGORIES."""
    detections: dict[str, Detection]
    condition: Condition | None
    reason: str = ""
    extras: Extras = Extras()
    name: str = ""
    """Sigma's `name`: by it, or by the id, correlations and filters refer to the rule."""
    silent: bool = False
    """Only correlations hear of it: one refers to it, and none of those has `generate`. The linker decides."""


class Reference(msgspec.Struct, frozen=True):
    """A rule by its id or its name, and where that is written."""

    to: str
    place: Place


class Bound(msgspec.Struct, frozen=True):
    """`operator` is one of lt, lte, gt, gte, eq, neq."""

    operator: str
    number: int | float


class Alias(msgspec.Struct, frozen=True):
    """A name for `group-by`, with the field that it stands for in each rule's events."""

    name: str
    fields: tuple[tuple[Reference, str], ...]


class CorrelationBody(msgspec.Struct, frozen=True, tag="correlation"):
    """A correlation as its author wrote it; what it refers to is looked up by the linker."""

    rule: Rule
    place: Place
    kind: str
    """event_count, value_count, temporal, temporal_ordered, value_sum, value_avg, value_percentile, value_median."""
    rules: tuple[Reference, ...]
    group_by: tuple[str, ...]
    timespan_s: int
    bounds: tuple[Bound, ...] = ()
    """All of them must hold; empty for temporal kinds without a number."""
    fields: tuple[str, ...] = ()
    """What value_* kinds look at."""
    percentile: float | None = None
    expression: Condition | None = None
    """A temporal kind's own condition over its rules' names, None where all of them must occur."""
    aliases: tuple[Alias, ...] = ()
    generate: bool = False
    """The rules it refers to alert by themselves, too."""
    extras: Extras = Extras()
    name: str = ""


class FilterBody(msgspec.Struct, frozen=True, tag="filter"):
    """Sigma's exceptions: it must hold, too, for events of the named rules (None: of any rule of that log source)."""

    id: str
    title: str
    place: Place
    product: str | None
    category: str | None
    service: str | None
    rules: tuple[Reference, ...] | None
    detections: dict[str, Detection]
    condition: Condition
    name: str = ""


class Amendment(msgspec.Struct, frozen=True, tag="amendment"):
    """What a file of the same or a later layer says of a rule that stands elsewhere, by its id alone."""

    id: str
    place: Place
    disabled: bool | None = None
    """None: as it was in the layers below."""
    level: Level | None = None
    """None: the rule keeps its own."""


Body: TypeAlias = RuleBody | CorrelationBody | FilterBody | Amendment


class FileReading(msgspec.Struct, frozen=True):
    """All documents of one file, unlinked, and every mistake that shows without the other files."""

    path: str
    digest: str
    """sha256 of the file's bytes, in hex."""
    bodies: tuple[Body, ...]
    problems: tuple[Problem, ...] = ()


class Restriction(msgspec.Struct, frozen=True):
    """A filter where it acts on a correlation: of events of that rule, only those count for which it holds."""

    detections: dict[str, Detection]
    condition: Condition


class Feed(msgspec.Struct, frozen=True):
    """What a correlation takes from one rule (or from another correlation)."""

    rule_id: str
    reference: str
    """As `Correlation.expression` calls it."""
    group_by: tuple[str, ...]
    """The fields of that rule's view, in the order of `Correlation.group_by`: aliases are resolved."""
    fields: tuple[str, ...] = ()
    """Likewise for the values."""
    restrictions: tuple[Restriction, ...] = ()


class Correlation(msgspec.Struct, frozen=True):
    """A correlation with everything looked up. Bounds and kind as in CorrelationBody."""

    rule: Rule
    place: Place
    kind: str
    feeds: tuple[Feed, ...]
    """In the order in which the rules are written, which `temporal_ordered` asks for."""
    group_by: tuple[str, ...]
    timespan_ms: int
    bounds: tuple[Bound, ...] = ()
    percentile: float | None = None
    expression: Condition | None = None
    extras: Extras = Extras()
    silent: bool = False
    """Only correlations above it hear of it."""
    reason: str = ""
    """Why it can never match here (a rule that it needs is inactive); empty where it can."""
    copy_of: str = ""
    """Where a filter names a correlation above another one, that one's id: of the lower one, this is a copy of which
    only the upper one hears. Its `rule.id` is of its own."""


class ReadRequest(msgspec.Struct, frozen=True):
    """What the reader process is asked, on its standard input."""

    paths: tuple[bytes, ...]
    """As the file system writes them. The answer is one FileReading for each, in the same order."""
    placeholders: bytes | None = None
    """A YAML file that gives the values of `expand` placeholders; where it is among the paths, too, its own mistakes
    are that reading's problems."""
    lint: bool = False
    """Warn of what is allowed and surely not meant, too."""


class Overrides(msgspec.Struct, frozen=True):
    """What the configuration says of rules, by rule id, and where it says so."""

    disabled: dict[str, Place] = {}
    levels: dict[str, tuple[Level, Place]] = {}


class RuleSet(msgspec.Struct, frozen=True):
    """Rules that were linked together, without mistakes."""

    bodies: tuple[RuleBody, ...]
    """Active and inactive, in the order of their files."""
    warnings: tuple[Problem, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    """Active and inactive; each stands behind those that it builds on."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Rules that can match, correlations among them."""
        events = (body.rule for body in self.bodies if body.view)
        return (*events, *(found.rule for found in self.correlations if not found.reason and not found.copy_of))

    @property
    def inactive(self) -> tuple[tuple[Rule, str], ...]:
        """Rules that never match here, and why."""
        events = ((body.rule, body.reason) for body in self.bodies if not body.view)
        correlations = ((found.rule, found.reason) for found in self.correlations if found.reason and not found.copy_of)
        return (*events, *correlations)
