"""The HTTP API, given what it answers with."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.api.backend import Backend, Triage
from watchdogd.api.server import ApiServer
from watchdogd.background import NO_BACKGROUND
from watchdogd.triage.ollama import OllamaClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from watchdogd.api.backend import ModelServer
    from watchdogd.api.server import Start
    from watchdogd.assembly import TriageParts
    from watchdogd.config import Config
    from watchdogd.delivery_desk import DeliveryDesk
    from watchdogd.entities import Alert
    from watchdogd.history_desk import HistoryDesk
    from watchdogd.ports import Clock
    from watchdogd.reports import StatusReport
    from watchdogd.telemetry import Counters


KNOWN: Final = (
    "api_requests_total",
    "api_refused_total",
    "api_failed_total",
    "api_questions_total",
    "api_question_errors_total",
    "collect_lines_total",
    "collect_netlink_lines_total",
    "collect_netlink_overruns_total",
    "collect_sampled_events_total",
    "judge_events_total",
    "judge_evaluated_events_total",
    "judge_matches_total",
    "judge_own_events_total",
    "store_folded_alerts_total",
    "triage_requests_total",
    "triage_cached_total",
    "triage_folded_total",
    "triage_shed_total",
    "triage_over_quota_total",
    "triage_timeouts_total",
    "triage_errors_total",
    "triage_breaker_open_total",
    "triage_injections_total",
    "triage_obeyed_total",
    "write_sent_total",
    "write_retries_total",
    "write_dead_letters_total",
)
"""Counters that are there from the start, so that a dashboard (deploy/) shows 0 and not nothing."""


def open_api(
    config: Config,
    triage: TriageParts,
    history: HistoryDesk,
    deliveries: DeliveryDesk,
    report: Callable[[], Awaitable[StatusReport]],
    counters: Counters,
    clock: Clock,
    start: Start,
) -> ApiServer:
    """The server, which listens from now on. What is asked later is asked of the daemon as it is then."""

    def score(alert: Alert) -> Alert:
        scored = triage.scorer.score(alert, NO_BACKGROUND)
        return msgspec.structs.replace(alert, evidence_score=scored.probability, reasons=scored.reasons)

    def look_at_triage() -> Triage:
        desk = triage.desk
        return Triage(desk.settings, desk.policy, None if desk.asker is None else desk.asker.ask, score)

    def connect(url: str, timeout_s: float) -> ModelServer:
        return OllamaClient(url, timeout_s=timeout_s)

    def build_backend() -> Backend:
        return Backend(
            status=report,
            search=history.search,
            show=history.show,
            take_opinion=triage.opinions.take,
            list_outbox=deliveries.list,
            triage=look_at_triage,
            connect=connect,
            counters=counters,
            clock=clock,
            host=socket.gethostname(),
        )

    for name in KNOWN:
        counters.add(name, 0)
    if "store_refusing" not in counters.gauges():
        counters.set_gauge("store_refusing", 0)
    server = ApiServer(config.api, build_backend, start)
    server.open()
    return server
