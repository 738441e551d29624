"""The log and the kernel's socket, read side by side: each alert once, every line closed, whatever the order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.collect.netlink_messages import make_end
from tests.daemon import RULE, make_exec_lines
from tests.test_judge import TIME_MS, make_records, name_alert
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.repeats import Repeats
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Position, Record
from watchdogd.judge import Judge
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters
from watchdogd.triage.scorer import Scorer

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Alert
    from watchdogd.judge import Judged

SOCKET = "audit_netlink"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    folder: Path = tmp_path_factory.mktemp("rules")
    (folder / "implant.yml").write_text(RULE.format(level="high"))
    return load_rules([folder])


class Bench:
    """A judge of both sources, wired as the service does it, and what came of it."""

    def __init__(self, rules: RuleSet) -> None:
        self.counters = Counters()
        self.baseline = Baseline()
        self.alerts: list[Alert] = []
        self.closed: list[Position] = []
        self.now_ms = TIME_MS + 50
        repeats = Repeats()
        enricher = Enricher(ProcessTree(), Identity(SystemClock()), self.baseline, OwnProcesses(()))
        self.judge = Judge(
            Decoder(self.counters, live=True, repeats=repeats, source="audit_log"),
            enricher,
            Engine(rules),
            Scorer().score,
            self.counters,
            beside={SOCKET: Decoder(self.counters, live=True, repeats=repeats, source=SOCKET, from_kernel=True)},
        )

    def feed(self, records: list[Record]) -> None:
        self._take(self.judge.feed(records, self.now_ms))

    def wait(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        self._take(self.judge.tick(self.now_ms))

    def starts(self) -> int:
        return sum(seen.count for seen in self.baseline.take_changes().values())

    def _take(self, judged: Judged) -> None:
        self.alerts += judged.alerts
        self.closed += judged.closed


def make_both(count: int) -> tuple[list[Record], list[Record]]:
    """The same execs as records of the log (with positions) and of the socket (with EOE)."""
    events = [make_exec_lines(serial, TIME_MS + serial, pid=5000 + serial) for serial in range(1, count + 1)]
    log = make_records(b"".join(events))
    kernel = []
    for event in events:
        lines = event.splitlines()
        kernel += [Record(SOCKET, None, line) for line in (*lines, make_end(lines[0]))]
    return log, kernel


def test_the_alert_is_the_same_whoever_was_first(rules: RuleSet) -> None:
    found = []
    for first in (0, 1):
        bench = Bench(rules)
        both = make_both(1)
        for records in (both[first], both[1 - first]):
            bench.feed(records)
            bench.wait(30)
        (alert,) = bench.alerts
        assert len(bench.closed) == 5
        assert bench.counters.get("decode_repeated_events_total") == 1
        assert bench.counters.get("judge_events_total") == 1
        found.append(alert)
    assert found[0] == found[1]
    assert found[0].id == name_alert(1, TIME_MS + 1)


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 6), data=st.data())
def test_in_any_interleaving_each_alert_comes_once_and_every_line_is_closed(
    rules: RuleSet, count: int, data: st.DataObject
) -> None:
    bench = Bench(rules)
    log, kernel = make_both(count)
    left = [log[:], kernel[:]]
    while left[0] or left[1]:
        stream = left[data.draw(st.sampled_from([index for index in (0, 1) if left[index]]))]
        size = data.draw(st.integers(1, 12))
        bench.feed(stream[:size])
        del stream[:size]
        bench.wait(data.draw(st.sampled_from([0, 0, 5, 25])))
    bench.wait(3000)
    assert sorted(alert.id for alert in bench.alerts) == sorted(name_alert(n, TIME_MS + n) for n in range(1, count + 1))
    assert sorted(position.start for position in bench.closed) == [record.position.start for record in log]  # type: ignore[union-attr]
    assert bench.judge.pending == 0
    assert bench.starts() == count
    assert all(alert.lines == bench.alerts[0].lines or len(alert.lines) == 5 for alert in bench.alerts)


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 5), data=st.data())
def test_what_the_socket_lost_comes_from_the_log(rules: RuleSet, count: int, data: st.DataObject) -> None:
    bench = Bench(rules)
    log, kernel = make_both(count)
    start = data.draw(st.integers(0, len(kernel) - 1))
    end = data.draw(st.integers(start + 1, len(kernel)))
    before, after = kernel[:start], kernel[end:]
    silent = end - start == 1 and not kernel[start].data.startswith((b"type=CWD", b"type=PROCTITLE"))
    bench.feed(before)
    bench.wait(data.draw(st.sampled_from([0, 5, 25])))
    log_first = data.draw(st.booleans())
    if log_first:
        bench.feed(log)
    if not silent:
        bench.feed([Record(SOCKET, None, b"", bench.now_ms)])
    bench.feed(after)
    bench.wait(data.draw(st.sampled_from([0, 1500])))
    if not log_first:
        bench.feed(log)
    bench.wait(3000)
    expected = {name_alert(n, TIME_MS + n) for n in range(1, count + 1)}
    assert {alert.id for alert in bench.alerts} == expected
    whole = {alert.id for alert in bench.alerts if len(alert.lines) == 5}
    assert whole == expected  # none was held back for a fragment of it
    assert sorted(position.start for position in bench.closed) == [record.position.start for record in log]  # type: ignore[union-attr]
    assert bench.starts() == count


def test_a_socket_alone_is_enough(rules: RuleSet) -> None:
    bench = Bench(rules)
    _, kernel = make_both(3)
    bench.feed(kernel)
    bench.wait(30)
    assert len(bench.alerts) == 3
    assert [alert.lines[-1].partition(" ")[0] for alert in bench.alerts] == ["type=PROCTITLE"] * 3


def test_what_the_socket_left_open_is_judged_at_the_stop_and_the_logs_is_not(rules: RuleSet) -> None:
    bench = Bench(rules)
    log, kernel = make_both(2)
    bench.feed(log[:4])
    bench.feed(kernel[6:-1])
    assert bench.alerts == []
    judged = bench.judge.drain_beside(bench.now_ms)
    assert [alert.id for alert in judged.alerts] == [name_alert(2, TIME_MS + 2)]
    assert judged.closed == []


def test_the_node_that_only_the_log_names(rules: RuleSet) -> None:
    bench = Bench(rules)
    log, kernel = make_both(1)
    bench.feed(kernel)
    bench.wait(30)
    bench.feed([replace(record, data=b"node=web01 " + record.data) for record in log])
    bench.wait(30)
    assert len(bench.alerts) == 1
    assert len(bench.closed) == 5
