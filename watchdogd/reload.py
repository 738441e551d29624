"""What is in force, and how it is replaced while the daemon runs: all is built first, then swapped in at once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.assembly import build_sinks, choose_routes, choose_terms
from watchdogd.errors import Place, Problem, ProblemsError, RuleError
from watchdogd.grouping_settings import plan_grouping
from watchdogd.loading import log_load
from watchdogd.memory import freeze_memory
from watchdogd.notify import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from watchdogd.config import Config
    from watchdogd.loading import Loaded, Loader
    from watchdogd.match.engine import Engine
    from watchdogd.pipeline import Pipeline
    from watchdogd.ports import Clock
    from watchdogd.reports import LoadReport
    from watchdogd.telemetry import Counters
    from watchdogd.triage_desk import Asker
    from watchdogd.write.deliver import Deliverer

NEED_RESTART: Final = ("sources", "store", "control", "health", "api")
"""Settings that stay as they were at the start (config.yaml says so)."""

log = logging.getLogger("watchdogd.service")


class Reloader:
    """Swaps in what the files say now. `retire_later(asker, after_s)` closes what is asked no more."""

    def __init__(  # noqa: PLR0913, PLR0917 - everything that a reload swaps
        self,
        loader: Loader,
        first: Loaded,
        pipeline: Pipeline,
        deliverer: Deliverer,
        retire_later: Callable[[Asker, float], None],
        counters: Counters,
        clock: Clock,
        build_asker: Callable[[Config], Asker | None],
        replace_contexts: Callable[[Mapping[str, Sequence[str]]], None] = lambda _: None,
    ) -> None:
        self._loader = loader
        self._config = first.config
        self._pipeline = pipeline
        self._deliverer = deliverer
        self._retire_later = retire_later
        self._counters = counters
        self._clock = clock
        self._build_asker = build_asker
        self._replace_contexts = replace_contexts
        self._lock = asyncio.Lock()
        self.rules_from_ms = first.from_ms
        self.last = first.report
        self.inactive = first.inactive

    async def serve(self, wanted: asyncio.Event) -> None:
        """Reload each time that the event is set, for ever."""
        while True:
            await wanted.wait()
            wanted.clear()
            await self.reload()

    async def reload(self) -> LoadReport:
        """Load everything anew and swap it in; whatever is wrong, the old stays in force. Never raises."""
        async with self._lock:
            notify("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic_s() * 1_000_000)}")
            try:
                loaded = await asyncio.to_thread(self._loader.load)
            except ProblemsError as error:
                self.last = self._refuse(error.problems)
            except Exception as error:  # a fault of ours must not cost the rules that are in force
                log.exception("loading the rules failed: please report this")
                problem = Problem(Place("watchdogd"), f"failed to load: {type(error).__name__}: {error}")
                self.last = self._refuse((problem,))
            else:
                try:
                    await self._swap(loaded)
                except RuleError as error:
                    self.last = self._refuse(error.problems)
            await asyncio.to_thread(self._loader.keep)
            notify("READY=1", f"STATUS={self.describe()}")
            return self.last

    def describe(self) -> str:
        """One line for `systemctl status`."""
        if self.last.accepted:
            return f"watching with {self.last.active} rules"
        errors = sum(problem.severity == "error" for problem in self.last.problems)
        mistakes = f"{errors} mistake{'' if errors == 1 else 's'}"
        return f"watching with {self.last.active} older rules: {mistakes} in the files, see watchdogd status"

    def _refuse(self, problems: tuple[Problem, ...]) -> LoadReport:
        self._counters.add("service_reloads_refused_total")
        lines = "\n".join(str(problem) for problem in problems)
        log.error("reload refused, the old rules and settings stay in force:\n%s", lines)
        return self._loader.report_refusal(self.last.active, self.last.inactive, problems)

    def _take_former_engine(self) -> Engine:
        try:
            return self._loader.take_former_engine()
        except Exception as error:
            log.critical("neither the new rules nor the old ones can be compiled: ending, to be started anew")
            raise SystemExit(1) from error

    async def _swap(self, loaded: Loaded) -> None:
        """Everything between two batches: no event is judged half by the old and half by the new.

        Raises RuleError where the new rules cannot be compiled after all; then nothing has changed.
        """
        fresh, config, pipeline = loaded.config, self._config, self._pipeline
        pipeline.judge.replace_engine(self._loader.take_engine, self._take_former_engine)
        kept = [name for name in NEED_RESTART if getattr(fresh, name) != getattr(config, name)]
        if kept:
            log.warning("changes of %s need a restart: systemctl restart watchdogd", ", ".join(kept))
        apply_log_level(fresh.log.level)
        self._replace_contexts(fresh.contexts)
        freeze_memory()
        if fresh.triage != config.triage:
            retired = pipeline.desk.asker
            pipeline.desk.replace(self._build_asker(fresh), fresh.triage)
            if retired is not None:
                self._retire_later(retired, config.triage.timeout_s)
        pipeline.desk.routes = choose_routes(fresh)
        pipeline.grouping = plan_grouping(fresh.grouping, fresh.inhibit_rules)
        self._config = msgspec.structs.replace(fresh, **{name: getattr(config, name) for name in NEED_RESTART})
        self.last, self.rules_from_ms = loaded.report, loaded.from_ms
        self.inactive = loaded.inactive
        unchanged = {"journald", *(hook.name for hook in fresh.webhooks if hook in config.webhooks)}
        await self._deliverer.replace_sinks(build_sinks(fresh, self._clock), choose_terms(fresh), unchanged)
        self._counters.add("service_reloads_total")
        log_load(loaded)
        log.info("reloaded: %s", describe_load(loaded.report))


def describe_load(report: LoadReport) -> str:
    """What a load that was accepted has changed, in a line."""
    return (
        f"{report.active} rules active, {report.inactive} inactive; "
        f"{len(report.added)} added, {len(report.removed)} removed, {len(report.changed)} changed"
    )


def apply_log_level(level: str) -> None:
    """Set the level of the daemon's own messages."""
    logging.getLogger("watchdogd").setLevel(level.upper())
