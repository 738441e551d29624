"""Where the time goes on the real path: decode, enrich and match with our rules, over one file, in one process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.read_log import read_batches
from watchdogd.cli.replay import build_judge
from watchdogd.decode.decoder import Decoder
from watchdogd.enrich.enricher import Enricher
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.telemetry import Counters


class Stopwatch:
    """CPU seconds by stage: what passes between two `lap`s belongs to the stage that is named at the second one."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._since_s = time.process_time()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now_s = time.process_time()
        self.spent_s[stage] = self.spent_s.get(stage, 0.0) + now_s - self._since_s
        self._since_s = now_s


def split(path: Path, rules: RuleSet) -> dict[str, float]:
    """CPU seconds by stage."""
    decoder = Decoder(Counters(), live=False)
    enricher = _take_enricher(rules)
    engine = Engine(rules)
    watch = Stopwatch()
    for batch in read_batches(path):
        watch.lap("read")
        decoded = decoder.feed(batch, 0)
        watch.lap("decode")
        events = [enricher.enrich(event) for event in decoded.events]
        watch.lap("enrich")
        for event in events:
            engine.judge(event)
        watch.lap("match")
    return watch.spent_s


def time_judge(path: Path, rules: RuleSet) -> float:
    """CPU seconds of the judge, as replay builds it."""
    judge = build_judge(rules, Counters())
    started_s = time.process_time()
    for batch in read_batches(path):
        judge.feed(batch, 0)
    judge.drain(0)
    return time.process_time() - started_s


def _take_enricher(rules: RuleSet) -> Enricher:
    enricher = build_judge(rules, Counters())._enricher  # noqa: SLF001 - the very one that replay uses
    assert isinstance(enricher, Enricher)  # noqa: S101 - tells mypy
    return enricher


def main() -> None:
    """Print the split of the best of three runs."""
    path = Path(sys.argv[1])
    rules = load_rules([Path(__file__).resolve().parent.parent / "rules"])
    best = min((split(path, rules) for _ in range(3)), key=lambda spent_s: sum(spent_s.values()))
    whole_s = min(time_judge(path, rules) for _ in range(3))
    parts = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in best.items())
    print(f"{len(rules.rules)} rules: {whole_s:.2f} CPU s, of which {parts}")


if __name__ == "__main__":
    main()
