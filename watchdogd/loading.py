"""Configuration and rules from their files, by way of what the daemon keeps on disk; blocking, run on a thread."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.config import load_config
from watchdogd.errors import Place, Problem, RuleError
from watchdogd.match.cache import RuleCache, describe_rules
from watchdogd.match.engine import Engine
from watchdogd.match.sources import choose_sources, load_sources
from watchdogd.match.watch import look
from watchdogd.reports import LoadReport, RuleName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from watchdogd.config import Config
    from watchdogd.match.sources import RuleSources
    from watchdogd.match.syntax import RuleSet
    from watchdogd.match.watch import Look
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.service")


class StartOptions(msgspec.Struct, frozen=True):
    """How the daemon was started: enough to load its configuration again."""

    config_path: Path | None
    rules: tuple[Path, ...]
    cwd: Path
    environ: Mapping[str, str]
    overrides: Mapping[str, object]
    from_start: bool = False

    def load_config(self) -> Config:
        """The configuration as the files say now. Raises ConfigError with every mistake."""
        return load_config(self.config_path, environ=self.environ, overrides=self.overrides)


class Loaded(msgspec.Struct, frozen=True):
    """What is to be in force."""

    config: Config
    from_ms: int
    """When these rules were loaded from files."""
    inactive: tuple[RuleName, ...]
    report: LoadReport


class Loader:
    """Loads again and again, and knows what was loaded last. One call at a time; `look` and `seen` at any time."""

    def __init__(
        self,
        options: StartOptions,
        counters: Counters,
        clock: Clock,
        try_rules: Callable[[RuleSet, Sequence[Path], frozenset[str]], tuple[Problem, ...]],
    ) -> None:
        """`try_rules(rules, folders, ids)`: what compiling, and the samples of the rules with these ids, find wrong."""
        self._options = options
        self._counters = counters
        self._clock = clock
        self._try_rules = try_rules
        self._cache: RuleCache | None = None
        self._unsaved: RuleSet | None = None
        self._rules: RuleSet | None = None
        self._folders: tuple[Path, ...] = ()
        self._files: tuple[Path, ...] = ()
        self._seen = ""
        self._digests: dict[str, str] = {}
        self._titles: dict[str, str] = {}

    @property
    def folders(self) -> tuple[Path, ...]:
        """The rule folders, lowest layer first."""
        return self._folders

    def look(self) -> Look:
        """How the files in use are now."""
        return look(self._folders, self._files)

    def seen(self) -> str:
        """The fingerprint of the files when they were loaded last."""
        return self._seen

    def load_first(self) -> Loaded:
        """What to start with: the files', or where their rules are broken the last good set of an earlier run.

        Raises ConfigError, and RuleError where there is no such set.
        """
        config = self._options.load_config()
        self._cache = RuleCache(Path(config.store.path), self._counters)
        last = self._cache.load_last_good()
        if last is not None:
            self._digests, self._titles = last.digests, last.titles
        sources = self._choose(config)
        try:
            rules = self._load_rules(sources)
        except RuleError as error:
            older = None if last is None else self._cache.decode_rules(last)
            if last is None or older is None:
                raise
            report = self.report_refusal(len(older.rules), len(older.inactive), error.problems)
            self._rules = older
            return Loaded(config, last.time_ms, _name_inactive(older), report)
        return self._accept(config, rules)

    def load(self) -> Loaded:
        """As the files say now. Raises ConfigError or RuleError with every mistake; then nothing is to change."""
        self._seen = self.look().fingerprint
        sources = self._choose(config := self._options.load_config())
        return self._accept(config, self._load_rules(sources))

    def take_engine(self) -> Engine:
        """Compile the rules that were loaded last, once: what judges by them takes megabytes. Blocks for some 0.2 s.

        Raises RuleError where they cannot be compiled, RuntimeError where nothing was loaded since.
        """
        rules, self._rules = self._rules, None
        if rules is None:
            raise RuntimeError("no rules were loaded since the last call")
        try:
            return Engine(rules)
        except ValueError as error:  # the reader has checked that; but no mistake of ours may cost the old set
            raise RuleError((Problem(Place("rules"), f"the rules cannot be compiled: {error}"),)) from error

    def take_former_engine(self) -> Engine:
        """Compile the set that was in force before the last load, as it was kept on disk; that load is forgotten.

        Raises RuleError where it cannot be had.
        """
        self._rules = self._unsaved = None
        last = None if self._cache is None else self._cache.load_last_good()
        if self._cache is None or last is None or (older := self._cache.decode_rules(last)) is None:
            raise RuleError((Problem(Place("rules"), "the set that was in force is not there any more"),))
        self._rules, self._digests, self._titles = older, last.digests, last.titles
        return self.take_engine()

    def keep(self) -> None:
        """Write down what was read last and, where it was good, the set. Only with the database's lock held.

        What loading took of memory is then given back.
        """
        if self._cache is not None:
            self._cache.save(self._unsaved, self._clock.now_ms())
        self._unsaved = None
        release_memory()

    def report_refusal(self, active: int, inactive: int, problems: tuple[Problem, ...]) -> LoadReport:
        """What to tell of a load that was refused, while so many rules stay in force."""
        self._counters.set_gauge("rules_last_load_failed", 1)
        return LoadReport(self._clock.now_ms(), accepted=False, active=active, inactive=inactive, problems=problems)

    def _choose(self, config: Config) -> RuleSources:
        """The sources; from now on their files are those that are looked at."""
        sources = choose_sources(config, self._options.rules, self._options.cwd)
        files = [path for path in (self._options.config_path, sources.placeholders) if path is not None]
        if (sources.folders, tuple(files)) != (self._folders, self._files):
            self._folders, self._files = sources.folders, tuple(files)
            self._seen = self.look().fingerprint
        return sources

    def _load_rules(self, sources: RuleSources) -> RuleSet:
        rules = load_sources(sources, self._cache.read if self._cache is not None else None)
        digests, _ = describe_rules(rules)
        changed = frozenset(rule_id for rule_id, digest in digests.items() if self._digests.get(rule_id) != digest)
        problems = self._try_rules(rules, sources.folders, changed) if changed else ()
        if problems:
            raise RuleError(problems)
        return rules

    def _accept(self, config: Config, rules: RuleSet) -> Loaded:
        before, names = self._digests, self._titles
        self._digests, self._titles = describe_rules(rules)
        self._counters.set_gauge("rules_last_load_failed", 0)
        now = self._titles
        report = LoadReport(
            self._clock.now_ms(),
            accepted=True,
            active=len(rules.rules),
            inactive=len(rules.inactive),
            added=tuple(RuleName(rule_id, now[rule_id]) for rule_id in now if rule_id not in before),
            removed=tuple(RuleName(rule_id, names[rule_id]) for rule_id in names if rule_id not in now),
            changed=tuple(
                RuleName(rule_id, now[rule_id])
                for rule_id in now
                if rule_id in before and before[rule_id] != self._digests[rule_id]
            ),
            problems=rules.warnings,
        )
        self._unsaved = self._rules = rules
        return Loaded(config, report.time_ms, _name_inactive(rules), report)


def release_memory() -> None:
    """Give what is no longer used back to the system: glibc keeps it (measured: 20 MB after a reload of 250 rules)."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def log_load(loaded: Loaded) -> None:
    """Log what a person should know of rules that are in force now."""
    if not loaded.report.accepted:
        lines = "\n".join(str(problem) for problem in loaded.report.problems)
        log.error("the rules are broken; those that were loaded last stay in force:\n%s", lines)
        return
    for problem in loaded.report.problems:
        log.warning("%s", problem)
    for rule in loaded.inactive:
        log.info("rule %s (%s) is inactive: %s", rule.title, rule.id, rule.reason)


def _name_inactive(rules: RuleSet) -> tuple[RuleName, ...]:
    return tuple(RuleName(rule.id, rule.title, reason) for rule, reason in rules.inactive)
