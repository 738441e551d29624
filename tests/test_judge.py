"""Decode, enrich, match and score joined, with the real rooms."""

from __future__ import annotations

import gc
import hashlib
import weakref
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.daemon import IMPLANT, NO_PID, RULE, RULE_ID, make_exec_lines
from watchdogd.decode.decoder import Decoder
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import Instance, OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Alert, Event, EventId, Level, Position, Record, View
from watchdogd.errors import RuleError
from watchdogd.judge import REPEAT_MS, Judge
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters
from watchdogd.triage.scorer import Scorer

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.background import Background, Scored

TIME_MS = 1_795_000_000_000
METRIC_RULE = """\
title: Memory is in use
id: 0a4c6f0e-8d7e-4a9d-b1f3-0c9f2f0f7a01
status: test
level: low
logsource:
    product: linux
    category: host_metrics
detection:
    selection:
        metric: memory.used_percent
        value|gte: 90
    condition: selection
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    folder: Path = tmp_path_factory.mktemp("rules")
    (folder / "implant.yml").write_text(RULE.format(level="high"))
    (folder / "memory.yml").write_text(METRIC_RULE)
    return load_rules([folder])


def build_judge(
    rules: RuleSet,
    counters: Counters | None = None,
    *,
    own: tuple[Instance, ...] = (),
    late_after_ms: int | None = None,
    live: bool = False,
) -> Judge:
    counters = counters or Counters()
    enricher = Enricher(ProcessTree(), Identity(SystemClock()), Baseline(), OwnProcesses(own))
    decoder = Decoder(counters, live=live)
    engine = Engine(rules)
    return Judge(decoder, enricher, engine, Scorer().score, counters, host="web01", late_after_ms=late_after_ms)


def make_records(data: bytes) -> list[Record]:
    records, start = [], 0
    for line in data.splitlines(keepends=True):
        end = start + len(line)
        records.append(Record("audit_log", Position("audit_log", "1:2:x", start, end), line.rstrip(b"\n")))
        start = end
    return records


def judge_all(judge: Judge, records: list[Record], now_ms: int = TIME_MS) -> list[Alert]:
    return [*judge.feed(records, now_ms).alerts, *judge.drain(now_ms).alerts]


def name_alert(serial: int, time_ms: int) -> str:
    return hashlib.sha256(f"{RULE_ID}\naudit||{time_ms}|{serial}|".encode()).hexdigest()


def test_an_alert_carries_what_the_event_and_the_rule_say(rules: RuleSet) -> None:
    counters = Counters()
    (alert,) = judge_all(build_judge(rules, counters), make_records(make_exec_lines(7, TIME_MS)))
    assert alert.id == name_alert(7, TIME_MS)
    assert (alert.rule.id, alert.level, alert.category) == (RULE_ID, Level.HIGH, "process_creation")
    assert (alert.action, alert.outcome, alert.source, alert.host) == ("exec", "success", "audit", "web01")
    assert alert.process is not None
    assert alert.process.argv == (IMPLANT, "7")
    assert alert.matched["Image"] == IMPLANT
    assert alert.group_key == f"{RULE_ID}|{IMPLANT}|1001"
    assert alert.lines == tuple(make_exec_lines(7, TIME_MS).decode().splitlines())
    assert 0 < alert.evidence_score < 1
    assert alert.reasons[0] == "rule level high"
    assert alert.verdict is None
    assert counters.get("judge_events_total") == counters.get("judge_alerts_total") == 1


def test_node_of_the_record_wins_over_our_own_name(rules: RuleSet) -> None:
    lines = make_exec_lines(7, TIME_MS).replace(b"type=", b"node=db02 type=")
    (alert,) = judge_all(build_judge(rules), make_records(lines))
    assert alert.host == "db02"
    assert alert.events[0].node == "db02"


@pytest.mark.parametrize(("after_ms", "late"), [(0, False), (60_000, False), (60_001, True), (-5_000, False)])
def test_what_is_judged_long_after_it_happened_is_late(rules: RuleSet, after_ms: int, *, late: bool) -> None:
    records = make_records(make_exec_lines(7, TIME_MS))
    (alert,) = judge_all(build_judge(rules, late_after_ms=60_000), records, TIME_MS + after_ms)
    assert alert.late is late
    (alert,) = judge_all(build_judge(rules), records, TIME_MS + after_ms)
    assert alert.late is False


def test_own_doing_is_counted_and_never_matched(rules: RuleSet) -> None:
    counters = Counters()
    judge = build_judge(rules, counters, own=(Instance(NO_PID, TIME_MS - 1000, TIME_MS + 1000),))
    child = make_exec_lines(2, TIME_MS, pid=5000).replace(b" ppid=1 ", f" ppid={NO_PID} ".encode())
    later = make_exec_lines(3, TIME_MS + 60_000)
    alerts = judge_all(judge, make_records(make_exec_lines(1, TIME_MS) + child + later))
    assert [alert.events[0].serial for alert in alerts] == [3]
    assert counters.get("judge_own_events_total") == 2
    assert counters.get("judge_events_total") == 3


@given(data=st.data())
def test_ids_do_not_depend_on_the_order_or_the_batches_of_reading(rules: RuleSet, data: st.DataObject) -> None:
    """Records of events interleave as they like, each event's own stay in order, as the kernel writes them."""
    waiting = [make_records(make_exec_lines(serial, TIME_MS + serial)) for serial in (1, 2, 3)]
    mixed: list[Record] = []
    while waiting:
        queue = data.draw(st.sampled_from(waiting))
        mixed.append(queue.pop(0))
        waiting = [rest for rest in waiting if rest]
    cut = data.draw(st.integers(0, len(mixed)))
    judge = build_judge(rules)
    alerts = [*judge.feed(mixed[:cut], TIME_MS).alerts, *judge_all(judge, mixed[cut:])]
    assert {alert.id for alert in alerts} == {name_alert(serial, TIME_MS + serial) for serial in (1, 2, 3)}
    assert len(alerts) == 3


def test_reading_again_gives_the_same_alert(rules: RuleSet) -> None:
    records = make_records(make_exec_lines(7, TIME_MS))
    first, second = judge_all(build_judge(rules), records), judge_all(build_judge(rules), records)
    assert first == second


def test_every_line_is_closed_once_its_event_is_judged(rules: RuleSet) -> None:
    records = make_records(make_exec_lines(1, TIME_MS) + b"garbage\n\n" + make_exec_lines(2, TIME_MS)[:-60] + b"\n")
    judge = build_judge(rules)
    fed, drained = judge.feed(records, TIME_MS), judge.drain(TIME_MS)
    closed = [*fed.closed, *drained.closed]
    assert sorted(closed, key=lambda position: position.start) == [record.position for record in records]
    assert fed.events + drained.events == 2


def test_an_event_that_lacks_records_stays_open_until_it_is_quiet(rules: RuleSet) -> None:
    records = make_records(make_exec_lines(1, TIME_MS))
    judge = build_judge(rules, live=True)
    begun = judge.feed(records[:2], TIME_MS)
    assert (begun.alerts, begun.closed, judge.pending) == ([], [], 1)
    assert judge.tick(TIME_MS + 1).alerts == []
    ended = judge.tick(TIME_MS + 60_000)
    assert [alert.id for alert in ended.alerts] == [name_alert(1, TIME_MS)]
    assert ended.closed == [record.position for record in records[:2]]
    assert judge.pending == 0


def test_warming_gives_lineage_after_a_restart_and_alerts_about_nothing(rules: RuleSet) -> None:
    shell = make_exec_lines(1, TIME_MS, "/bin/dash", pid=100)
    implant = make_exec_lines(2, TIME_MS + 5, pid=101).replace(b" ppid=1 ", b" ppid=100 ")
    history = make_records(make_exec_lines(0, TIME_MS - 5) + shell)

    (cold,) = judge_all(build_judge(rules), make_records(implant))
    assert cold.lineage == ()

    counters = Counters()
    judge = build_judge(rules, counters)
    judge.warm(history, Decoder(Counters(), live=False))
    assert counters.snapshot().get("judge_events_total", 0) == counters.get("judge_alerts_total") == 0
    (warm,) = judge_all(judge, make_records(implant))
    assert [process.exe for process in warm.lineage] == ["/bin/dash"]
    assert warm.id == cold.id


def test_rules_are_swapped_between_events(rules: RuleSet, tmp_path: Path) -> None:
    (tmp_path / "other.yml").write_text(METRIC_RULE)
    judge = build_judge(rules)
    assert len(judge.feed(make_records(make_exec_lines(1, TIME_MS)), TIME_MS).alerts) <= 1
    judge.drain(TIME_MS)
    judge.replace_engine(lambda: Engine(load_rules([tmp_path])), pytest.fail)
    assert judge_all(judge, make_records(make_exec_lines(2, TIME_MS))) == []


def test_rules_that_cannot_be_compiled_leave_the_former_in_force(rules: RuleSet) -> None:
    judge = build_judge(rules)
    known = weakref.ref(judge._engine)

    def build() -> Engine:
        gc.collect()
        assert known() is None, "two sets in memory at once"
        raise RuleError(())

    with pytest.raises(RuleError):
        judge.replace_engine(build, lambda: Engine(rules))
    (alert,) = judge_all(judge, make_records(make_exec_lines(2, TIME_MS)))
    assert alert.rule.id == RULE_ID


def make_metric(time_ms: int, value: float, name: str = "memory.used_percent") -> Event:
    view = View("host_metrics", "sample", "success", {"metric": "memory.used_percent", "value": value})
    return Event(id=EventId("host_metrics", None, time_ms, 0, name), source="host_metrics", views=(view,))


def test_a_metric_that_stays_bad_alerts_once_and_again_after_it_was_good(rules: RuleSet) -> None:
    counters = Counters()
    judge = build_judge(rules, counters)

    def alert_times(*events: Event) -> list[int]:
        return [alert.time_ms for alert in judge.judge_events(events, TIME_MS).alerts]

    assert alert_times(make_metric(10, 95), make_metric(20, 96), make_metric(30, 97)) == [10]
    assert alert_times(make_metric(40, 50), make_metric(50, 95)) == [50]
    assert counters.get("judge_standing_total") == 2
    assert alert_times(make_metric(60, 95, "memory.used_percent:other")) == [60]
    assert alert_times(make_metric(50 + REPEAT_MS, 95)) == [50 + REPEAT_MS]


def test_events_of_a_metric_have_ids_of_their_own(rules: RuleSet) -> None:
    judge = build_judge(rules)
    first, second = judge.judge_events([make_metric(10, 95), make_metric(10, 95, "other")], 10).alerts
    assert first.id != second.id
    assert first.process is None
    assert first.group_key.endswith("|memory.used_percent")


CORRELATIONS = """\
---
title: Memory stays in use
id: 0a4c6f0e-8d7e-4a9d-b1f3-0c9f2f0f7a02
level: high
correlation:
  type: event_count
  rules: [0a4c6f0e-8d7e-4a9d-b1f3-0c9f2f0f7a01]
  group-by: [metric]
  timespan: 1m
  condition: {gte: 3}
---
title: Memory is rarely in use
id: 0a4c6f0e-8d7e-4a9d-b1f3-0c9f2f0f7a03
level: low
correlation:
  type: event_count
  rules: [0a4c6f0e-8d7e-4a9d-b1f3-0c9f2f0f7a01]
  group-by: [metric]
  timespan: 1m
  condition: {lt: 2}
"""


def build_correlating_judge(tmp_path: Path, counters: Counters | None = None) -> Judge:
    (tmp_path / "memory.yml").write_text(METRIC_RULE + CORRELATIONS)
    return build_judge(load_rules([tmp_path]), counters, live=True)


def test_each_sample_of_a_metric_counts_for_correlations(tmp_path: Path) -> None:
    """What stands is said once; that it stands is what they count. They are said again once a timespan."""
    judge = build_correlating_judge(tmp_path)
    times = []
    for second in range(0, 130, 10):
        judged = judge.judge_events([make_metric(TIME_MS + second * 1000, 95)], TIME_MS)
        times += [(alert.time_ms - TIME_MS) // 1000 for alert in judged.alerts]
    assert times == [20, 80]


def test_what_only_time_can_tell_is_told_by_the_clock_about_the_event(tmp_path: Path) -> None:
    counters = Counters()
    judge = build_correlating_judge(tmp_path, counters)
    assert judge.judge_events([make_metric(TIME_MS, 95)], TIME_MS).alerts == []
    assert judge.tick(TIME_MS + 65_000).alerts == []
    (alert,) = judge.tick(TIME_MS + 65_001).alerts
    assert (alert.rule.title, alert.time_ms, alert.is_correlation) == ("Memory is rarely in use", TIME_MS, True)
    assert alert.fields["value"] == 95
    assert alert.matched == {"metric": "memory.used_percent", "count": "1"}
    assert counters.get("judge_alerts_total") == 1


def test_a_correlation_that_breaks_the_judge_is_counted_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("poison")

    counters = Counters()
    judge = build_correlating_judge(tmp_path, counters)
    judge.judge_events([make_metric(TIME_MS, 95)], TIME_MS)
    monkeypatch.setattr(judge, "_score", refuse)
    assert judge.tick(TIME_MS + 70_000).alerts == []
    assert counters.get("judge_failed_matches_total") == 1
    assert "could not be judged" in caplog.text


def test_the_state_of_correlations_goes_with_the_alerts(tmp_path: Path) -> None:
    judge = build_correlating_judge(tmp_path)
    assert judge.take_correlations() == []
    judge.judge_events([make_metric(TIME_MS, 95)], TIME_MS)
    assert len(judge.take_correlations()) == 2
    assert judge.take_correlations() == []


def test_an_event_that_breaks_the_judge_is_counted_and_stops_nothing(
    rules: RuleSet, caplog: pytest.LogCaptureFixture
) -> None:
    """Read again after each restart, it would else end the daemon again and again."""

    def score(alert: Alert, background: Background) -> Scored:
        if alert.events[-1].serial == 1:
            raise ValueError("poison")
        return Scorer().score(alert, background)

    counters = Counters()
    enricher = Enricher(ProcessTree(), Identity(SystemClock()), Baseline(), OwnProcesses(()))
    judge = Judge(Decoder(counters, live=False), enricher, Engine(rules), score, counters)
    records = make_records(make_exec_lines(1, TIME_MS) + make_exec_lines(2, TIME_MS))
    judged = [judge.feed(records, TIME_MS), judge.drain(TIME_MS)]
    assert [alert.events[0].serial for part in judged for alert in part.alerts] == [2]
    assert sum(len(part.closed) for part in judged) == len(records)
    assert counters.get("judge_failed_events_total") == 1
    assert "audit||" in caplog.text
    assert "poison" in caplog.text
