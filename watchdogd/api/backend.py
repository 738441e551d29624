"""What the API is made of: the daemon's own answers, and the model's server."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from watchdogd.background import Background
    from watchdogd.config import TriageSettings
    from watchdogd.entities import Alert, Verdict
    from watchdogd.listings import AlertReport, AlertRequest, AlertsReport, AlertsRequest
    from watchdogd.ports import Clock
    from watchdogd.reports import OpinionReport, OpinionRequest, OutboxReport, OutboxRequest, StatusReport
    from watchdogd.telemetry import Counters
    from watchdogd.triage.ollama import AnswerPiece, ChatOptions, LoadedModel
    from watchdogd.triage.policy import Policy


class ModelServer(Protocol):
    """`triage.ollama.OllamaClient`, as far as the API needs it. All raise TriageError."""

    async def version(self) -> str:
        """The server's version."""

    async def list_loaded(self) -> tuple[LoadedModel, ...]:
        """The models in memory."""

    async def digest(self, model: str) -> str | None:
        """Of the installed model, None where it is not."""

    def answer(self, messages: list[dict[str, str]], options: ChatOptions) -> AsyncGenerator[AnswerPiece]:
        """The pieces of a free answer."""

    async def close(self) -> None:
        """End the connections."""


class Triage(NamedTuple):
    """Triage as it is now: a reload changes it."""

    settings: TriageSettings
    policy: Policy
    ask: Callable[[Alert, Background], Awaitable[Verdict]] | None
    """None where triage is turned off."""
    score: Callable[[Alert], Alert]
    """The alert with the embedded scorer's opinion."""


class Backend(NamedTuple):
    """The daemon's answers. Raise WatchdogdError with what is wrong."""

    status: Callable[[], Awaitable[StatusReport]]
    search: Callable[[AlertsRequest], Awaitable[AlertsReport]]
    show: Callable[[AlertRequest], Awaitable[AlertReport]]
    take_opinion: Callable[[OpinionRequest], Awaitable[OpinionReport]]
    list_outbox: Callable[[OutboxRequest], Awaitable[OutboxReport]]
    triage: Callable[[], Triage]
    connect: Callable[[str, float], ModelServer]
    """A client of the server at a URL, with a timeout in seconds."""
    counters: Counters
    clock: Clock
    host: str
