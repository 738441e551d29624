"""What a model said, read strictly: shares of the labels, and of an explanation only what the evidence supports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from watchdogd.entities import Label
from watchdogd.errors import TriageError
from watchdogd.triage import prompt
from watchdogd.triage.guard import clean, find_ungrounded, supported_techniques
from watchdogd.triage.logprobs import first_token_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.ports import AlertScorer
    from watchdogd.triage.ollama import ChatReply

_SAID_SHARE = 0.9
"""What a label counts for where the server gives no probabilities."""


class _LabelAnswer(msgspec.Struct):
    label: Label


class _Explanation(msgspec.Struct):
    summary: Annotated[str, msgspec.Meta(max_length=prompt.SUMMARY_CHARS)]
    techniques: Annotated[tuple[str, ...], msgspec.Meta(max_length=prompt.MAX_TECHNIQUES)]
    next_steps: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=prompt.STEP_CHARS)], ...],
        msgspec.Meta(max_length=prompt.MAX_STEPS),
    ]


class Explained(msgspec.Struct, frozen=True):
    """What of an explanation may be shown."""

    summary: str
    techniques: tuple[str, ...]
    next_steps: tuple[str, ...]
    dropped: int
    """Techniques and steps that neither rule nor evidence supports."""


class InvalidExplanationError(TriageError):
    """The explanation does not follow the schema."""


class UngroundedError(TriageError):
    """The summary is empty, or claims what the evidence does not hold."""


def read_shares(reply: ChatReply) -> dict[str, float]:
    """How the model's probability falls on the labels. Raises TriageError where it said no label."""
    try:
        label = msgspec.json.decode(reply.content, type=_LabelAnswer).label
    except (msgspec.DecodeError, UnicodeError):
        label = Label.UNTRIAGED
    if label is Label.UNTRIAGED:
        raise TriageError(f"the label does not follow the schema: {clean(reply.content, 60)!r}")
    shares = first_token_shares(reply.logprobs, "label", prompt.LABELS)
    return {name: shares.get(name, 0.0) for name in prompt.LABELS} if shares else share_out(label.value)


def share_out(said: str) -> dict[str, float]:
    """Shares by the label alone, for servers that give no probabilities."""
    rest = (1 - _SAID_SHARE) / (len(prompt.LABELS) - 1)
    return {label: _SAID_SHARE if label == said else rest for label in prompt.LABELS}


def choose_label(probability: float, scorer: AlertScorer, scored: float) -> Label:
    """The label of a probability. `benign` needs the scorer's own, too: no model alone talks an alert down."""
    if probability >= scorer.malicious_from:
        return Label.MALICIOUS
    return Label.BENIGN if max(probability, scored) < scorer.benign_below else Label.SUSPICIOUS


def find_confidence(label: Label, probability: float) -> float | None:
    """The probability of the label; None of `suspicious`, which says that it cannot be told."""
    if label is Label.SUSPICIOUS:
        return None
    return round(probability if label is Label.MALICIOUS else 1 - probability, 4)


def check_explanation(content: str, evidence: str, supported: Sequence[str]) -> Explained:
    """What of the explanation the evidence and the rule support.

    Raises InvalidExplanationError or UngroundedError where nothing of it may be shown.
    """
    try:
        said = msgspec.json.decode(content, type=_Explanation)
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidExplanationError("no explanation: it does not follow the schema") from None
    summary = clean(said.summary, prompt.SUMMARY_CHARS).strip()
    ungrounded = find_ungrounded(summary, evidence)
    if ungrounded or not summary:
        what = clean(", ".join(ungrounded), 120) or "it is empty"
        raise UngroundedError(f"summary discarded, not in the evidence: {what}")
    steps = [clean(step, prompt.STEP_CHARS).strip() for step in said.next_steps]
    grounded = tuple(step for step in steps if step and not find_ungrounded(step, evidence))
    techniques = supported_techniques(said.techniques, supported)
    dropped = len(steps) - len(grounded) + len(said.techniques) - len(techniques)
    return Explained(summary, techniques, grounded, dropped)
