"""What matching costs: decode and match with all SigmaHQ rules and with ours, beside laurel and zargunlite.

CPU seconds of the work alone: rules are loaded, compiled and frozen before the clock starts, and so is the interpreter.
laurel is given no such grace, for it loads nothing. Rounds are interleaved; the best of each counts. Also: ten times
the rules, which are copies with other texts, so that they are as dear to look for and match nothing.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from benchmarks.read_log import read_batches
from watchdogd.cli.replay import build_judge
from watchdogd.decode.decoder import Decoder
from watchdogd.match import syntax
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.memory import freeze_memory
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 3
TIMES = 10
_SAME = frozenset({"type", "syscall", "SYSCALL", "Syscall", "success", "Initiated", "nametype"})
"""Fields whose values a copy keeps: other ones would never occur, and cost nothing."""


class Work(NamedTuple):
    """What one run measured about itself."""

    cpu_s: float
    peak_kib: int
    rules: int
    matches: int


def multiply(ruleset: RuleSet, times: int) -> RuleSet:
    """The rules, and copies of them with other texts."""
    copies = [_alter_body(body, f"~{number}") for number in range(1, times) for body in ruleset.bodies]
    return msgspec.structs.replace(ruleset, bodies=(*ruleset.bodies, *copies))


def _alter_body(body: syntax.RuleBody, mark: str) -> syntax.RuleBody:
    rule = msgspec.structs.replace(body.rule, id=body.rule.id + mark)
    detections = {name: _alter(detection, mark) for name, detection in body.detections.items()}
    return msgspec.structs.replace(body, rule=rule, detections=detections)


def _alter(detection: syntax.Detection, mark: str) -> syntax.Detection:
    if isinstance(detection, syntax.Group):
        return msgspec.structs.replace(detection, items=tuple(_alter(item, mark) for item in detection.items))
    if detection.field in _SAME:
        return detection
    return msgspec.structs.replace(detection, values=tuple(_alter_value(value, mark) for value in detection.values))


def _alter_value(value: syntax.Value, mark: str) -> syntax.Value:
    if isinstance(value, syntax.AnyOf):
        return syntax.AnyOf(tuple(_alter_value(inner, mark) for inner in value.values))
    if isinstance(value, syntax.Pattern):
        return syntax.Pattern(f"(?:{value.pattern}){mark}")
    if isinstance(value, syntax.Text) and any(isinstance(part, str) for part in value.parts):
        parts = list(value.parts)
        last = max(place for place, part in enumerate(parts) if isinstance(part, str))
        parts[last] = f"{parts[last]}{mark}"
        return syntax.Text(tuple(parts), value.cased)
    return value


def run_match(path: Path, ruleset: RuleSet) -> Iterator[int]:
    """Decode and match; yields 0 when all is ready, then the number of matches."""
    decoder, engine = Decoder(Counters(), live=False), Engine(ruleset)
    yield 0
    matches = 0
    for batch in read_batches(path):
        for event in decoder.feed(batch, 0).events:
            matches += len(engine.judge(event))
    yield matches + sum(len(engine.judge(event)) for event in decoder.drain().events)


def run_decode(path: Path, ruleset: RuleSet) -> Iterator[int]:
    """Decode alone."""
    yield from run_match(path, msgspec.structs.replace(ruleset, bodies=(), correlations=()))


def run_judge(path: Path, ruleset: RuleSet) -> Iterator[int]:
    """All that replay does: decode, enrich, match, and build alerts."""
    judge = build_judge(ruleset, Counters())
    yield 0
    alerts = sum(len(judge.feed(batch, 0).alerts) for batch in read_batches(path))
    yield alerts + len(judge.drain(0).alerts)


MODES: dict[str, Callable[[Path, RuleSet], Iterator[int]]] = {
    "decode": run_decode,
    "match": run_match,
    "judge": run_judge,
}


def work(mode: str, folder: str, times: int, log: Path) -> Work:
    """One run in this process."""
    ruleset = multiply(load_rules([Path(folder)]), times)
    steps = MODES[mode](log, ruleset)
    next(steps)
    freeze_memory()
    started_s = time.process_time()
    matches = next(steps)
    cpu_s = time.process_time() - started_s
    return Work(cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(ruleset.rules), matches)


def measure_ours(python: str, mode: str, folder: Path, times: int, log: Path) -> Work:
    """One run in a process of its own."""
    command = [python, "-m", "benchmarks.match", mode, str(folder), str(times), str(log)]
    return ask_work(command)


def ask_work(command: list[str]) -> Work:
    """Run a command that prints its own measurements."""
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Work(**answer)


class Runner(NamedTuple):
    """Something to measure, once a round."""

    name: str
    what: str
    measure: Callable[[], Work]


def list_runners(log: Path, sigmahq: Path | None, own: Path, peers: list[Runner], python: str) -> list[Runner]:
    """Ours with both sets of rules, and the others."""
    runners = list(peers)
    for label, folder in (("SigmaHQ", sigmahq), ("our rules", own)):
        if folder is None:
            print("SigmaHQ's rules are missing: set WATCHDOGD_CORPORA")
            continue
        for mode, times, what in (
            ("match", 1, "decode and match"),
            ("match", TIMES, "decode and match, ten times the rules"),
            ("judge", 1, "decode, enrich, match, build alerts"),
        ):
            name = f"{label} x{times} {mode}"
            runners.append(Runner(name, what, partial(measure_ours, python, mode, folder, times, log)))
    runners.append(Runner("decode", "decode alone, no rule", partial(measure_ours, python, "decode", own, 1, log)))
    return runners


def compare(runners: list[Runner]) -> None:
    """Run all of them in turn, and print a table with the ratios."""
    best: dict[str, Work] = {}
    for _ in range(ROUNDS):
        for runner in runners:
            done = runner.measure()
            known = best.get(runner.name)
            best[runner.name] = done if known is None or done.cpu_s < known.cpu_s else known
    references = [name for name in ("laurel", "zargunlite") if name in best]
    heads = "".join(f" {'x ' + name:>12}" for name in references)
    print(f"{'':20} {'CPU s':>6} {'rules':>6} {'matches':>8} {'peak MiB':>8}{heads}")
    for runner in runners:
        done = best[runner.name]
        ratios = "".join(f" {best[name].cpu_s / done.cpu_s:>12.2f}" for name in references)
        numbers = f"{done.cpu_s:6.2f} {done.rules:>6} {done.matches:>8} {done.peak_kib / 1024:8.0f}"
        print(f"{runner.name:20} {numbers}{ratios}  {runner.what}")
    for label in ("SigmaHQ", "our rules"):
        once, often = best.get(f"{label} x1 match"), best.get(f"{label} x{TIMES} match")
        if once and often:
            print(f"{label}: {TIMES} times the rules cost {often.cpu_s / once.cpu_s:.2f} times the CPU time")


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))._asdict()))
