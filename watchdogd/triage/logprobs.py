"""Which of a few words a model would say, read from the probabilities of its first token.

The form is Ollama's: https://github.com/ollama/ollama/blob/main/docs/api.md (`logprobs`, `top_logprobs`).
"""

from __future__ import annotations

import math

import msgspec


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token and its natural log probability before any grammar was applied."""

    token: str
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    """One generated token, and the likeliest tokens at its place."""

    token: str
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()


def first_token_shares(logprobs: tuple[Logprob, ...], field: str, choices: tuple[str, ...]) -> dict[str, float]:
    """How the model's probability falls on `choices` at the first token of the string `field`, summing to 1.

    Several tokens may begin one choice (`b`, `ben`, `benign`): their probabilities add up. Empty where the tokens do
    not show the field, or where nothing likely begins any choice.
    """
    said = "".join(entry.token for entry in logprobs)
    place = _find_value(said, field)
    if place is None:
        return {}
    start = 0
    for entry in logprobs:
        if start <= place < start + len(entry.token):
            prefix = entry.token[: place - start]
            return _shares(entry, prefix, choices)
        start += len(entry.token)
    return {}


def _find_value(said: str, field: str) -> int | None:
    """Where the text of a JSON string field begins."""
    _, name, rest = said.rpartition(f'"{field}"')
    colon = rest.lstrip()
    value = colon[1:].lstrip()
    if not name or not colon.startswith(":") or not value.startswith('"'):
        return None
    return len(said) - len(value) + 1


def _shares(entry: Logprob, prefix: str, choices: tuple[str, ...]) -> dict[str, float]:
    alternatives = {other.token: other.logprob for other in entry.top_logprobs} | {entry.token: entry.logprob}
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in alternatives.items():
        if not token.startswith(prefix) or not math.isfinite(logprob):
            continue
        begins = token.removeprefix(prefix).strip().lower()
        hits = [choice for choice in choices if begins and (choice.startswith(begins) or begins.startswith(choice))]
        if len(hits) == 1:
            mass[hits[0]] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    return {choice: part / total for choice, part in mass.items()} if total > 0 else {}
