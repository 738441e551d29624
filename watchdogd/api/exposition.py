"""`/metrics`: what the daemon counts, in Prometheus' text format.

Names: `watchdogd_` and the counter's own, as docs/architecture.md has it. Labels come from fixed lists (levels, labels,
states), from the configuration (sinks), or from the model's server (models, at most MODELS of them): never from events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from watchdogd.telemetry import DESCRIPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from watchdogd.api.ai import Health
    from watchdogd.reports import OutboxReport, StatusReport, TriageReport
    from watchdogd.telemetry import Counters

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MODELS = 16
"""Models that are told; further ones are left out."""
_STATES = ("closed", "half-open", "open")


class Exposition:
    """One per daemon."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def render(self, counters: Counters, status: StatusReport, health: Health | None, outbox: OutboxReport) -> bytes:
        """The whole page."""
        registry = CollectorRegistry()
        registry.register(_Page(counters, status, health, outbox))
        return generate_latest(registry) + generate_latest(self._registry)


class _Page:
    """What one scrape is told."""

    def __init__(self, counters: Counters, status: StatusReport, health: Health | None, outbox: OutboxReport) -> None:
        self._counters = counters
        self._status = status
        self._health = health
        self._outbox = outbox

    def collect(self) -> Iterator[Metric]:
        """All families, each once."""
        yield InfoMetricFamily("watchdogd_build", "What runs.", {"version": self._status.version})
        for name, value in self._status.counters.items():
            short = name.removesuffix("_total")
            yield CounterMetricFamily(f"watchdogd_{short}", "See docs/architecture.md.", value)
        for name, gauge in self._status.gauges.items():
            yield GaugeMetricFamily(f"watchdogd_{name}", "See docs/architecture.md.", gauge)
        yield from _expose_labelled(self._counters)
        yield from _expose_status(self._status)
        if self._status.triage is not None:
            yield from _expose_triage(self._status.triage)
        if self._health is not None:
            yield from _expose_models(self._health)
        yield from _expose_outbox(self._outbox)


def _expose_labelled(counters: Counters) -> Iterator[Metric]:
    for name, (labels, values) in counters.labelled().items():
        counted = CounterMetricFamily(f"watchdogd_{name.removesuffix('_total')}", DESCRIPTIONS[name], labels=labels)
        for key, value in values.items():
            counted.add_metric(key, value)
        yield counted
    for name, (labels, histograms) in counters.histograms().items():
        family = HistogramMetricFamily(f"watchdogd_{name}", DESCRIPTIONS[name], labels=labels)
        for key, histogram in histograms.items():
            buckets = [*((f"{bound:g}", count) for bound, count in histogram.cumulated()), ("+Inf", histogram.count)]
            family.add_metric(key, buckets, histogram.total)
        yield family


def _expose_status(status: StatusReport) -> Iterator[Metric]:
    yield GaugeMetricFamily("watchdogd_start_time_seconds", "Start of the daemon.", status.since_ms / 1000)
    rules = GaugeMetricFamily(
        "watchdogd_rules", "Sigma rules in force, and those that cannot match here.", labels=["state"]
    )
    rules.add_metric(["active"], status.active)
    rules.add_metric(["inactive"], len(status.inactive))
    yield rules
    yield GaugeMetricFamily("watchdogd_rules_load_time_seconds", "When they were loaded.", status.rules_from_ms / 1000)
    yield GaugeMetricFamily(
        "watchdogd_last_load_accepted", "1 unless it was refused.", float(status.last_load.accepted)
    )
    sources = GaugeMetricFamily("watchdogd_source_running", "1 where the source is read now.", labels=["source"])
    for source in status.sources:
        sources.add_metric([source.name], float(source.running))
    yield sources
    yield GaugeMetricFamily("watchdogd_blind_conditions", "What the daemon is blind to now.", len(status.blind))
    yield GaugeMetricFamily("watchdogd_silences", "Silences in force.", len(status.silences))
    amounts = GaugeMetricFamily(
        "watchdogd_in_hand", "What is between two stages now, of the ledger.", labels=["amount"]
    )
    for balance in status.ledger.balances if status.ledger is not None else ():
        for name, amount in {**balance.left, **balance.right}.items():
            if not name.endswith("_total"):
                amounts.add_metric([name], amount)
    yield amounts
    history = status.history
    if history is None:
        return
    states = GaugeMetricFamily("watchdogd_stored_alerts", "Alerts in the database.", labels=["state"])
    for state, count in history.states.items():
        states.add_metric([state], count)
    yield states
    yield GaugeMetricFamily("watchdogd_database_bytes", "Size of the database's file.", history.file_bytes)


def _expose_triage(triage: TriageReport) -> Iterator[Metric]:
    for name, text, value in (
        ("ai_waiting", "Questions that nobody was asked yet.", triage.waiting),
        ("ai_in_flight", "Questions that are being answered.", triage.in_flight),
        ("ai_budget_left", "Questions that may be asked at once.", triage.budget_left),
        ("ai_kept_verdicts", "Verdicts that may be used again.", triage.cached),
        ("ai_model_examined", "1 where the model passed its exam.", bool(triage.standing and triage.standing.passed)),
    ):
        yield GaugeMetricFamily(f"watchdogd_{name}", text, float(value))
    breaker = GaugeMetricFamily("watchdogd_ai_breaker", "1 for the breaker's state.", labels=["state"])
    for state in _STATES:
        breaker.add_metric([state], float(state == triage.server))
    yield breaker


def _expose_models(health: Health) -> Iterator[Metric]:
    yield GaugeMetricFamily("watchdogd_ai_reachable", "1 where the model's server answers.", float(health.reachable))
    yield GaugeMetricFamily("watchdogd_ai_model_loaded", "1 where the model is in memory.", float(health.loaded))
    vram = GaugeMetricFamily("watchdogd_ai_vram_bytes", "VRAM that a loaded model takes.", labels=["model"])
    size = GaugeMetricFamily("watchdogd_ai_model_bytes", "Memory that a loaded model takes.", labels=["model"])
    for model in {model.name: model for model in health.models[:MODELS]}.values():
        vram.add_metric([model.name], model.vram_bytes)
        size.add_metric([model.name], model.size_bytes)
    yield from (vram, size)


def _expose_outbox(outbox: OutboxReport) -> Iterator[Metric]:
    family = GaugeMetricFamily("watchdogd_deliveries", "Deliveries in the database.", labels=["sink", "state"])
    for sink, states in outbox.counts.items():
        for state, count in states.items():
            family.add_metric([sink, state], count)
    yield family


def list_families(page: Iterable[str]) -> set[str]:
    """Names of the families that a page in text format tells."""
    return {line.split()[2] for line in page if line.startswith("# TYPE ")}
