"""The questions of the exam: shipped alerts whose label is known, and texts that try to talk a model into `benign`."""

from __future__ import annotations

from importlib import resources

import msgspec

from watchdogd.background import Background, Package, RelatedAlert
from watchdogd.entities import Alert, EventId, FieldValue, Label, Level, Process, ProcessKey, Rarity, Rule

FILE = "exam_cases.json"
CASE_TIME_MS = 1_767_225_600_000
"""When every case happens: no question may depend on when it is asked."""
VARIANTS = 2
"""How many attacks each injection is tried on."""

_PID = 2000
_HOUR_MS = 3_600_000


class Injection(msgspec.Struct, frozen=True):
    """Text that gives orders to a model, and where an attacker would put it: `argument` or `folder`."""

    place: str
    text: str


class ExamCase(msgspec.Struct, frozen=True):
    """One alert with a known label."""

    id: str
    label: Label
    tactic: str
    alert: Alert
    background: Background


class InjectedCase(msgspec.Struct, frozen=True):
    """An attack whose texts give orders to the model; `original` is the id of the case without them."""

    original: str
    alert: Alert
    background: Background


class Paper(msgspec.Struct, frozen=True):
    """Everything that is asked."""

    cases: tuple[ExamCase, ...]
    injected: tuple[InjectedCase, ...]


class _ProcessText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    exe: str
    argv: tuple[str, ...]
    uid: int
    user: str
    auid: int | None = None
    login: str | None = None
    session: str | None = None
    tty: str | None = None
    cwd: str | None = None
    unit: str | None = None
    container: str | None = None


class _RarityText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seen: int
    observed: int


class _AlertText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: Rule
    category: str
    action: str
    outcome: str
    fields: dict[str, str]
    matched: dict[str, str]
    process: _ProcessText
    lineage: tuple[_ProcessText, ...]
    rarity: _RarityText


class _RelatedText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule_id: str
    title: str
    level: Level
    techniques: tuple[str, ...]
    command: str


class _BackgroundText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    package: Package | None = None
    related: tuple[_RelatedText, ...] = ()


class _CaseText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    label: Label
    tactic: str
    alert: _AlertText
    background: _BackgroundText


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: str
    cases: tuple[_CaseText, ...]
    injections: tuple[Injection, ...]


def load_paper() -> Paper:
    """The shipped exam."""
    text = msgspec.json.decode(resources.files(__package__).joinpath(FILE).read_bytes(), type=_File)
    cases = tuple(_make_case(case, number) for number, case in enumerate(text.cases))
    attacks = [case for case in cases if case.label is Label.MALICIOUS]
    injected = tuple(
        InjectedCase(attack.id, inject(attack.alert, injection), attack.background)
        for number, injection in enumerate(text.injections)
        for attack in _choose(attacks, number)
    )
    return Paper(cases, injected)


def inject(alert: Alert, injection: Injection) -> Alert:
    """The alert as it would be if its process had carried the text."""
    process = alert.process
    if process is None:
        return alert
    fields: dict[str, FieldValue | tuple[FieldValue, ...]] = dict(alert.fields)
    matched = dict(alert.matched)
    if injection.place == "folder":
        process = msgspec.structs.replace(process, cwd=injection.text)
        fields["CurrentDirectory"] = injection.text
    else:
        process = msgspec.structs.replace(process, argv=(*process.argv, injection.text))
        fields["CommandLine"] = " ".join(process.argv)
        if "CommandLine" in matched:
            matched["CommandLine"] = " ".join(process.argv)
    return msgspec.structs.replace(alert, process=process, fields=fields, matched=matched)


def _choose(attacks: list[ExamCase], number: int) -> list[ExamCase]:
    """Which attacks the injection of this number is tried on: all of them in turn."""
    return [attacks[(number * VARIANTS + turn) % len(attacks)] for turn in range(VARIANTS)]


def _make_case(case: _CaseText, number: int) -> ExamCase:
    related = tuple(
        RelatedAlert(
            id=f"{number:02}{place:02}" * 16,
            time_ms=CASE_TIME_MS - 60_000,
            rule_id=alert.rule_id,
            title=alert.title,
            level=alert.level,
            techniques=alert.techniques,
            command=alert.command,
        )
        for place, alert in enumerate(case.background.related)
    )
    background = Background(package=case.background.package, related=related)
    return ExamCase(case.id, case.label, case.tactic, _make_alert(case.alert, number), background)


def _make_alert(text: _AlertText, number: int) -> Alert:
    process = _make_process(text.process, _PID)
    lineage = tuple(_make_process(ancestor, _PID - 1 - place) for place, ancestor in enumerate(text.lineage))
    fields = text.fields | {"Image": text.process.exe, "User": text.process.user}
    if text.process.cwd:
        fields["CurrentDirectory"] = text.process.cwd
    if lineage:
        parent = text.lineage[0]
        fields |= {"ParentImage": parent.exe, "ParentCommandLine": " ".join(parent.argv)}
    pattern = f"{text.process.exe}|{text.lineage[0].exe if lineage else ''}|{text.process.user}"
    first_seen_ms = CASE_TIME_MS - text.rarity.seen * _HOUR_MS if text.rarity.seen else None
    return Alert(
        id=f"{number:064x}",
        time_ms=CASE_TIME_MS,
        rule=text.rule,
        level=text.rule.level,
        source="audit",
        category=text.category,
        action=text.action,
        outcome=text.outcome,
        events=(EventId("audit", None, CASE_TIME_MS, number + 1),),
        fields=dict(fields),
        matched=text.matched,
        process=process,
        lineage=lineage,
        group_key=text.rule.id,
        first_seen_ms=CASE_TIME_MS,
        last_seen_ms=CASE_TIME_MS,
        evidence_score=0.0,
        reasons=(),
        lines=(),
        host="host",
        rarity=Rarity(pattern, text.rarity.seen, first_seen_ms, text.rarity.observed),
    )


def _make_process(text: _ProcessText, pid: int) -> Process:
    return Process(
        key=ProcessKey("", pid, CASE_TIME_MS - 1_000),
        pid=pid,
        ppid=pid - 1,
        comm=text.exe.rpartition("/")[2][:15],
        **{name: getattr(text, name) for name in _ProcessText.__struct_fields__},
    )
