"""Names, rarity, and our own processes."""

from __future__ import annotations

from msgspec.structs import replace

from tests.enrich.test_process import make_process
from watchdogd.enrich.baseline import Baseline, name_pattern
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity, look_up_host_user
from watchdogd.enrich.own import Instance, OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import DAY_MS, Event, EventId, Process, Seen, View
from watchdogd.ports import SystemClock


def make_event(process: Process | None, time_ms: int = 5_000, category: str = "process_creation") -> Event:
    fields = {"Image": process.exe, "User": "1001"} if process else {}
    return Event(
        id=EventId("audit", None, time_ms, 1),
        source="audit",
        views=(View(category, "exec", "success", dict(fields)),),
        process=process,
    )


def make_enricher(own: tuple[Instance, ...] = (), names: dict[int, str] | None = None) -> Enricher:
    identity = Identity(SystemClock(), names.get if names is not None else None)
    return Enricher(ProcessTree(), identity, Baseline(), OwnProcesses(own))


def test_views_learn_parent_and_ancestors() -> None:
    enricher = make_enricher()
    enricher.enrich(make_event(make_process(10, 1, "/usr/sbin/nginx", "nginx", "-g")))
    enricher.enrich(make_event(make_process(11, 10, "/bin/sh", "sh", "-c", "id")))
    event = enricher.enrich(make_event(make_process(12, 11, "/usr/bin/id")))
    fields = event.views[0].fields
    assert fields["ParentImage"] == "/bin/sh"
    assert fields["ParentCommandLine"] == "sh -c id"
    assert fields["AncestorImages"] == ("/bin/sh", "/usr/sbin/nginx")


def test_replay_never_asks_this_machine_for_names() -> None:
    event = make_enricher().enrich(make_event(make_process(10, 1, "/bin/sh")))
    assert event.process is not None
    assert event.process.user is None
    assert event.views[0].fields["User"] == "1001"


def test_host_names_replace_numbers() -> None:
    event = make_enricher(names={1001: "alice"}).enrich(make_event(make_process(10, 1, "/bin/sh")))
    assert event.process is not None
    assert event.process.user == "alice"
    assert event.views[0].fields["User"] == "alice"


def test_host_look_up() -> None:
    assert look_up_host_user(0) == "root"
    assert look_up_host_user(2**32) is None
    assert look_up_host_user(3_999_999_999) is None


def test_rarity_counts_what_came_before() -> None:
    enricher = make_enricher()
    first = enricher.enrich(make_event(make_process(10, 1, "/usr/bin/id")))
    second = enricher.enrich(make_event(make_process(11, 1, "/usr/bin/id")))
    assert first.rarity is not None
    assert second.rarity is not None
    assert (first.rarity.seen, second.rarity.seen) == (0, 1)
    assert second.rarity.first_seen_ms == 5_000


def test_baseline_says_how_often_of_late() -> None:
    baseline = Baseline()
    process = make_process(1, 1, "/bin/x")
    assert baseline.look_up(process, (), 0).recent == 0
    for day in (0, 0, 10, 9, 35):  # day 9 comes late, and counts for day 10
        baseline.observe(process, (), day * DAY_MS + 5)
    assert baseline.look_up(process, (), 35 * DAY_MS) == baseline.look_up(process, (), 36 * DAY_MS - 1)
    recent = [baseline.look_up(process, (), day * DAY_MS).recent for day in (35, 39, 40, 64, 65)]
    assert recent == [3, 3, 1, 1, 0]
    assert baseline.look_up(process, (), 65 * DAY_MS).seen == 5
    ((_, seen),) = baseline.take_changes().items()
    assert seen == Seen(5, 5, ((0, 2), (10, 2), (35, 1)))
    again = Baseline({name_pattern(process, ()): seen})
    assert again.look_up(process, (), 39 * DAY_MS).recent == 3


def test_baseline_does_not_guess_what_was_not_counted_by_day() -> None:
    process = make_process(1, 1, "/bin/x")
    old = Baseline({name_pattern(process, ()): Seen(7, 3 * DAY_MS, ((50, 2),), days_from=50)})
    assert [old.look_up(process, (), day * DAY_MS).recent for day in (50, 78, 79)] == [None, None, 2]
    new = Baseline({name_pattern(process, ()): Seen(2, 50 * DAY_MS, ((50, 2),), days_from=50)})
    assert new.look_up(process, (), 50 * DAY_MS).recent == 2


def test_baseline_survives_garbled_times() -> None:
    baseline = Baseline()
    process = make_process(1, 1, "/bin/x")
    for time_ms in (-5, 1 << 80, 0):
        baseline.observe(process, (), time_ms)
    assert baseline.look_up(process, (), 1 << 80).seen == 3


def test_baseline_is_bounded_and_reports_changes_once() -> None:
    baseline = Baseline(limit=10)
    for number in range(50):
        baseline.observe(make_process(number, 1, f"/bin/{number}"), (), number)
    assert len(baseline.take_changes()) == 10
    assert baseline.take_changes() == {}
    assert baseline.look_up(make_process(1, 1, "/bin/0"), (), 50).seen == 0
    assert baseline.look_up(make_process(1, 1, "/bin/49"), (), 50).seen == 1


def test_a_name_does_not_make_a_process_ours() -> None:
    enricher = make_enricher((Instance(10, 1_000, None),))
    assert not enricher.enrich(make_event(make_process(20, 1, "/usr/bin/watchdogd", "watchdogd", "run"))).own


def test_own_process_and_its_children_are_ours() -> None:
    enricher = make_enricher((Instance(10, 1_000, None),))
    assert enricher.enrich(make_event(make_process(10, 1, "/usr/bin/python3"))).own
    assert enricher.enrich(make_event(make_process(11, 10, "/usr/bin/python3"))).own
    assert enricher.enrich(make_event(make_process(12, 11, "/bin/true"))).own


def test_the_pid_of_a_former_run_is_ours_only_while_it_ran() -> None:
    own = OwnProcesses([Instance(10, 1_000, 2_000)])
    process = make_process(10, 1, "/bin/sh")
    assert own.owns(process, (), 1_500)
    assert not own.owns(process, (), 900)
    assert not own.owns(process, (), 60_000)
    assert not own.owns(None, (), 1_500)


def test_whoever_executes_a_program_under_our_number_later_is_somebody_else() -> None:
    own = OwnProcesses([Instance(10, 1_000, 60_000), Instance(20, 1_000, None)])
    for pid in (10, 20):
        assert own.owns(make_process(pid, 1, "/usr/bin/python3"), (), 1_500, is_exec=True)
        assert own.owns(make_process(pid, 1, "/usr/bin/python3"), (), 50_000)
        assert not own.owns(make_process(pid, 1, "/opt/evil/implant"), (), 50_000, is_exec=True)
        assert own.owns(make_process(99, pid, "/usr/bin/python3"), (), 50_000, is_exec=True)


def test_event_without_process_passes() -> None:
    event = make_event(None)
    assert make_enricher().enrich(event) == event


def test_learning_counts_nothing() -> None:
    enricher = make_enricher()
    enricher.learn(make_event(make_process(10, 1, "/usr/sbin/nginx")))
    event = enricher.enrich(make_event(replace(make_process(11, 10, "/bin/sh"), argv=())))
    assert event.rarity is not None
    assert event.rarity.seen == 0
    assert event.lineage[0].exe == "/usr/sbin/nginx"


def test_the_account_of_a_logon_is_not_the_user_of_the_process() -> None:
    enricher = make_enricher(names={1001: "alice"})
    event = enricher.enrich(make_event(make_process(10, 1, "/usr/sbin/sshd"), category="authentication"))
    assert event.views[0].fields["User"] == "1001"
