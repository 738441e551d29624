"""Where models differ: the label question of each alert put to several of them, believed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.background import NO_BACKGROUND
from watchdogd.entities import Label
from watchdogd.errors import TriageError
from watchdogd.triage import prompt
from watchdogd.triage.answer import read_shares
from watchdogd.triage.injection import withhold_from, withhold_orders
from watchdogd.triage.ollama import ChatOptions, ModelMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.background import Background
    from watchdogd.config import TriageSettings
    from watchdogd.entities import Alert
    from watchdogd.ports import AlertScorer
    from watchdogd.triage.ollama import OllamaClient


class Opinion(msgspec.Struct, frozen=True):
    """What one model says of one alert."""

    model: str
    label: str
    """`untriaged` where it gave no valid answer."""
    malicious: float | None = None
    """The share of its belief that falls on `malicious`."""
    error: str | None = None


class Comparison:
    """Asks several models the same, as triage would ask them: texts that order a model around are withheld."""

    def __init__(
        self, models: Sequence[str], settings: TriageSettings, client: OllamaClient, scorer: AlertScorer
    ) -> None:
        self._models = tuple(models)
        self._settings = settings
        self._client = client
        self._scorer = scorer

    async def check(self) -> None:
        """Raises TriageError where the server or one of the models is not there."""
        for model in self._models:
            if await self._client.digest(model) is None:
                raise ModelMissingError(f"Ollama has no model {model!r}: ollama pull {model}")

    async def ask(self, alert: Alert, background: Background = NO_BACKGROUND) -> tuple[Opinion, ...]:
        """One opinion a model, in their order; never raises TriageError."""
        settings = self._settings
        scored = self._scorer.score(alert, background)
        seen = withhold_orders(
            msgspec.structs.replace(alert, evidence_score=scored.probability, reasons=scored.reasons)
        )
        if seen is None:
            return self._say_nothing("the alert holds orders to the model that cannot be withheld")
        background = withhold_from(background)
        try:
            question = prompt.build_question(
                seen, background, num_ctx=settings.num_ctx, num_predict=settings.num_predict
            )
        except TriageError as error:
            return self._say_nothing(str(error))
        return tuple([await self._ask_one(model, question) for model in self._models])

    def _say_nothing(self, error: str) -> tuple[Opinion, ...]:
        return tuple(Opinion(model, Label.UNTRIAGED.value, error=error) for model in self._models)

    async def _ask_one(self, model: str, question: prompt.Question) -> Opinion:
        options = ChatOptions.choose(self._settings, prompt.LABEL_TOKENS, model)
        try:
            reply = await self._client.chat(list(question.messages), prompt.LABEL_SCHEMA, options, logprobs=True)
            shares = read_shares(reply)
        except TriageError as error:
            return Opinion(model, Label.UNTRIAGED.value, error=str(error))
        return Opinion(model, max(shares, key=shares.__getitem__), round(shares[Label.MALICIOUS.value], 4))


def differ(opinions: Sequence[Opinion]) -> bool:
    """Whether not all of them say the same label."""
    return len({opinion.label for opinion in opinions}) > 1
