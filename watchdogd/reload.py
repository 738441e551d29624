"""Configuration and rules loaded anew while the daemon runs: everything is built first, then swapped in at once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING

import msgspec

from watchdogd.assembly import build_sinks, build_triager, choose_give_up_s, choose_routes
from watchdogd.config import load_config, rule_folders
from watchdogd.errors import ProblemsError, SourceError
from watchdogd.match.engine import Engine
from watchdogd.match.library import load_rules
from watchdogd.notify import notify
from watchdogd.triage.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from watchdogd.config import Config
    from watchdogd.match.library import RuleSet
    from watchdogd.pipeline import Pipeline
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters
    from watchdogd.triage.triager import Triager
    from watchdogd.write.deliver import Deliverer

log = logging.getLogger("watchdogd.service")


class StartOptions(msgspec.Struct, frozen=True):
    """How the daemon was started: enough to load its configuration again."""

    config_path: Path | None
    rules: tuple[Path, ...]
    cwd: Path
    environ: Mapping[str, str]
    overrides: Mapping[str, object]
    from_start: bool = False

    def load(self) -> tuple[Config, RuleSet]:
        """Configuration and rules as the files say now. Raises ConfigError or RuleError with every mistake."""
        config = load_config(self.config_path, environ=self.environ, overrides=self.overrides)
        return config, load_rules(rule_folders(config, self.rules, self.cwd))


class Reloader:
    """Swaps in what the files say now. `retire_later(triager, after_s)` closes what is asked no more."""

    def __init__(
        self,
        options: StartOptions,
        config: Config,
        pipeline: Pipeline,
        deliverer: Deliverer,
        retire_later: Callable[[Triager, float], None],
        counters: Counters,
        clock: Clock,
    ) -> None:
        self._options = options
        self._config = config
        self._pipeline = pipeline
        self._deliverer = deliverer
        self._retire_later = retire_later
        self._counters = counters
        self._clock = clock

    async def serve(self, wanted: asyncio.Event) -> None:
        """Reload each time that the event is set, for ever."""
        while True:
            await wanted.wait()
            wanted.clear()
            await self.reload()

    async def reload(self) -> None:
        """Load everything anew and swap it in; whatever is wrong, the old stays in force."""
        notify("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic_s() * 1_000_000)}")
        try:
            fresh, rules = await asyncio.to_thread(self._options.load)
            engine = await asyncio.to_thread(Engine, rules)
        except (ProblemsError, SourceError) as error:
            self._counters.add("service_reloads_refused_total")
            log.error("reload refused, the old rules and settings stay in force:\n%s", error)
            notify("READY=1", "STATUS=last reload refused: see the journal")
            return
        await self._swap(fresh, engine)
        self._counters.add("service_reloads_total")
        report_rules(rules)
        log.info("reloaded: %d rules active, %d inactive", len(rules.rules), len(rules.inactive))
        notify("READY=1", f"STATUS=watching with {len(rules.rules)} rules")

    async def _swap(self, fresh: Config, engine: Engine) -> None:
        """Everything between two batches: no event is judged half by the old and half by the new."""
        config, pipeline = self._config, self._pipeline
        if (fresh.sources, fresh.store) != (config.sources, config.store):
            log.warning("changes of sources and store need a restart: systemctl restart watchdogd")
        apply_log_level(fresh.log.level)
        pipeline.judge.replace_engine(engine)
        if fresh.triage != config.triage:
            retired, pipeline.triager = pipeline.triager, build_triager(fresh, self._counters, self._clock)
            if retired is not None:
                self._retire_later(retired, config.triage.timeout_s)
        pipeline.policy = Policy(fresh.triage)
        pipeline.routes = choose_routes(fresh)
        self._config = msgspec.structs.replace(fresh, sources=config.sources, store=config.store)
        await self._deliverer.replace_sinks(build_sinks(fresh, self._clock), choose_give_up_s(fresh))


def report_rules(rules: RuleSet) -> None:
    """Log what of the rules a person should know."""
    for problem in rules.warnings:
        log.warning("%s", problem)
    for rule, reason in rules.inactive:
        log.info("rule %s (%s) is inactive: %s", rule.title, rule.id, reason)


def apply_log_level(level: str) -> None:
    """Set the level of the daemon's own messages."""
    logging.getLogger("watchdogd").setLevel(level.upper())
