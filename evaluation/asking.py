"""A real model put to the question, as triage puts it, about the alerts of recorded scenarios; answers are kept."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

import msgspec

from evaluation.training import ROOT, fold_weights
from watchdogd.config import TriageSettings
from watchdogd.entities import Label
from watchdogd.errors import TriageError
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters
from watchdogd.triage.answer import read_shares
from watchdogd.triage.cases import choose_cases
from watchdogd.triage.exam_paper import Injection, inject
from watchdogd.triage.fusion import fuse, probability, weigh_shares
from watchdogd.triage.ollama import ChatReply, OllamaClient
from watchdogd.triage.policy import Policy
from watchdogd.triage.scorer import Scorer
from watchdogd.triage.standings import KnownStandings
from watchdogd.triage.triager import Triager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from evaluation.logistic import Fit
    from evaluation.population import Case, Told
    from watchdogd.background import Scored, Standing
    from watchdogd.entities import Verdict
    from watchdogd.triage.ollama import ChatOptions
    from watchdogd.triage.policy import Ruling

QUESTION_S = 600.0
CORPUS = ROOT / "tests" / "triage" / "injections"
SAID_AFTER = '{"summary": "A program was started.", "techniques": [], "next_steps": []}'
"""Explanations are not what is measured: the model's time is for labels."""
LONGEST = 300
"""Texts longer than this are not asked about here: the question cuts them."""


class Kept(msgspec.Struct, frozen=True):
    """An answer, and how long it took."""

    key: str
    reply: ChatReply
    elapsed_s: float
    load_s: float | None = None
    """How long the model took to be loaded just before."""


class KeptClient(OllamaClient):
    """Asks for labels, each question once in all runs: `path` keeps the answers, one a line."""

    def __init__(self, url: str, path: Path, load_s: float | None = None) -> None:
        """`load_s`: how long the model took to be loaded just now."""
        super().__init__(url, timeout_s=QUESTION_S)
        self._path = path
        self._load_s = load_s
        self._kept = {kept.key: kept for kept in self._read()}
        self._digest: str | None = None
        self.replies: list[Kept] = []
        """All that were given in this run, kept ones, too."""

    def _read(self) -> Iterator[Kept]:
        if self._path.is_file():
            for line in self._path.read_bytes().splitlines():
                yield msgspec.json.decode(line, type=Kept)

    async def digest(self, model: str) -> str | None:
        """As the server says, asked once."""
        self._digest = self._digest or await super().digest(model)
        return self._digest

    async def chat(
        self, messages: list[dict[str, str]], schema: dict[str, Any], options: ChatOptions, *, logprobs: bool = False
    ) -> ChatReply:
        """The label by the model; an explanation that says nothing. Raises TriageError."""
        if not logprobs:
            return ChatReply(SAID_AFTER, (), None)
        key = hashlib.sha256(msgspec.json.encode([messages, schema, options])).hexdigest()
        if key not in self._kept:
            began_s = time.monotonic()
            reply = await super().chat(messages, schema, options, logprobs=True)
            kept = self._kept[key] = Kept(key, reply, round(time.monotonic() - began_s, 3), self._load_s)
            self._load_s = None
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(kept) + b"\n")
        self.replies.append(self._kept[key])
        return self._kept[key].reply


class KeptClock(SystemClock):
    """As long as all answers of a client took, kept ones, too: an exam that was interrupted has the right times."""

    def __init__(self, client: KeptClient) -> None:
        self._client = client

    def monotonic_s(self) -> float:
        """Seconds of all answers so far."""
        return sum(kept.elapsed_s for kept in self._client.replies)


class Asked(msgspec.Struct, frozen=True):
    """One scenario, and what was said of its highest-scoring alert."""

    case: Case
    told: Told
    verdict: Verdict
    """By the whole path, as if the model had passed its exam."""
    ruling: Ruling
    shares: dict[str, float]
    """The model's own, by label; empty where it gave no valid answer."""
    unseen: Scored
    """The scorer's opinion by weights fitted without the family; the question told the model this one."""
    shipped: Scored

    @property
    def model(self) -> float:
        """The model alone, as log-odds; in doubt where it said nothing."""
        return weigh_shares(self.shares) if self.shares else 0.0

    @property
    def said(self) -> Label:
        """The label that the model alone would give."""
        return Label(max(self.shares, key=self.shares.__getitem__)) if self.shares else Label.UNTRIAGED


class Flip(msgspec.Struct, frozen=True):
    """An attack asked about again with orders to the model in it."""

    kind: str
    before: Asked
    after: Asked

    @property
    def lowers_label(self) -> bool:
        """Whether the model alone says something milder."""
        return _RANKS[self.after.said] < _RANKS[self.before.said]

    @property
    def lowers_alert(self) -> bool:
        """Whether the alert itself ends lower: by level, or kept from webhooks."""
        lower = self.after.ruling.alert.level.rank < self.before.ruling.alert.level.rank
        return lower or (self.after.ruling.journald_only and not self.before.ruling.journald_only)


_RANKS = {Label.UNTRIAGED: 2, Label.MALICIOUS: 2, Label.SUSPICIOUS: 1, Label.BENIGN: 0}


class Asker:
    """Puts scenarios to one model. What is fitted to a scenario's family is never used on it."""

    def __init__(
        self, client: KeptClient, model: str, standing: Standing, unseen: dict[str, Fit], scale: tuple[float, float]
    ) -> None:
        """`scale`: slope and offset that make the scores of `unseen` log-odds."""
        self._client = client
        self._settings = TriageSettings(model=model, benign_to_journald=True, timeout_s=QUESTION_S)
        self._standing = msgspec.structs.replace(standing, passed=True)
        self._shipped = Scorer()
        below = self._shipped.benign_below
        self._unseen = {
            family: Scorer(msgspec.structs.replace(fold_weights(fitted, *scale), benign_below=below))
            for family, fitted in unseen.items()
        }

    async def ask(self, case: Case, told: Told | None = None) -> Asked:
        """About one scenario: its highest-scoring alert, where no other is named. Raises nothing of the model's."""
        scorer = self._unseen[case.scenario.family]
        if told is None:
            told = max(case.told, key=lambda one: scorer.score(one.alert, one.background).log_odds)
        background = msgspec.structs.replace(told.background, cases=choose_cases(told.alert, ()))
        triager = Triager(
            self._settings, self._client, Counters(), SystemClock(), scorer, KnownStandings([self._standing])
        )
        place = len(self._client.replies)
        verdict = await triager.ask(told.alert, background)
        replies = self._client.replies[place:]
        return Asked(
            case=case,
            told=told,
            verdict=verdict,
            ruling=Policy(self._settings).rule_on(told.alert, verdict),
            shares=_read(replies[-1].reply) if replies else {},
            unseen=scorer.score(told.alert, told.background),
            shipped=self._shipped.score(told.alert, told.background),
        )

    async def ask_all(self, cases: Sequence[Case], progress: Callable[[str], None]) -> list[Asked]:
        """About each scenario."""
        asked = []
        for number, case in enumerate(cases, 1):
            asked.append(await self.ask(case))
            progress(f"{number} of {len(cases)} scenarios asked about")
        return asked

    async def try_injections(self, asked: Sequence[Asked], progress: Callable[[str], None]) -> list[Flip]:
        """Each kind of injection of the corpus once, in the command line of an attack, all attacks in turn."""
        attacks = [one for one in asked if one.case.malicious and one.told.alert.process is not None and one.shares]
        flips: list[Flip] = []
        for number, (kind, text) in enumerate(read_injections()):
            if not attacks:
                break
            before = attacks[number % len(attacks)]
            alert = inject(before.told.alert, Injection("argument", text))
            after = await self.ask(before.case, msgspec.structs.replace(before.told, alert=alert))
            flips.append(Flip(kind, before, after))
            progress(f"{len(flips)} injections tried")
        return flips

    def fuse(self, asked: Asked, scored: Scored) -> float:
        """Probability of an attack by both, with the exam's weights."""
        return probability(fuse(self._standing.fusion, scored.log_odds, asked.model))


def _read(reply: ChatReply) -> dict[str, float]:
    try:
        return read_shares(reply)
    except TriageError:
        return {}


def read_injections() -> Iterator[tuple[str, str]]:
    """Of each kind in the corpus one text, another place in each file."""
    for number, path in enumerate(sorted(CORPUS.glob("*.json"))):
        texts = [text for text in json.loads(path.read_text(encoding="utf-8")) if len(text) <= LONGEST]
        if texts:
            yield path.stem, texts[(7 * number) % len(texts)]


def choose(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many scenarios a label (0: all), in an order that has nothing to do with them, labels in turn."""
    by_label: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: hashlib.sha256(case.scenario.id.encode()).digest()):
        by_label.setdefault(case.scenario.label, []).append(case)
    chosen = [(place, case) for found in by_label.values() for place, case in enumerate(found[: most or None])]
    return [case for _, case in sorted(chosen, key=lambda pair: pair[0])]
