"""The daemon's own blindness: told once when it begins, again while it lasts, once when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.entities import Level
from watchdogd.health import KINDS, HealthMonitor, HealthState, KeptSpell, Signs
from watchdogd.health_settings import HealthSettings

if TYPE_CHECKING:
    from watchdogd.entities import Alert

T0_MS = 1_795_000_000_000


class Host:
    """A host that is looked at each ten seconds."""

    def __init__(self, **settings: object) -> None:
        self.monitor = HealthMonitor(HealthSettings(**settings), "web01")  # type: ignore[arg-type]
        self.passed_s = 0.0
        self.ahead_ms = 0

    def look(self, **signs: object) -> list[Alert]:
        self.passed_s += 10
        now_ms = T0_MS + int(self.passed_s * 1000) + self.ahead_ms
        return self.monitor.look(Signs(now_ms=now_ms, monotonic_s=self.passed_s, **signs))  # type: ignore[arg-type]

    def actions(self, **signs: object) -> list[str]:
        return [alert.action for alert in self.look(**signs)]

    def holding(self) -> list[str]:
        return list(self.monitor.conditions)


def test_all_well_says_nothing() -> None:
    host = Host()
    for number in range(1000):
        assert not host.look(events=number * 10, log_trouble="", audit_enabled=True, audit_rules=40, triage_down=False)


@pytest.mark.parametrize(
    ("name", "well", "ill", "wait_s"),
    [
        ("audit_disabled", {"audit_enabled": True}, {"audit_enabled": False}, 0),
        ("audit_rules_gone", {"audit_rules": 40}, {"audit_rules": 0}, 0),
        ("audit_unknown", {"audit_enabled": True}, {"audit_enabled": None}, 300),
        ("log_unreadable", {"log_trouble": ""}, {"log_trouble": "gone"}, 60),
        ("store_refuses", {}, {"store_refusing": True}, 60),
        ("rules_broken", {}, {"broken_rules": True}, 0),
        ("triage_down", {"triage_down": False}, {"triage_down": True}, 3600),
        ("ledger_open", {}, {"ledger_complete": False}, 0),
    ],
)
def test_a_condition_is_told_once_again_and_when_it_is_over(
    name: str, well: dict[str, object], ill: dict[str, object], wait_s: int
) -> None:
    host = Host(repeat_interval_s=600)
    assert host.actions(**well) == []
    waited = [host.actions(**ill) for _ in range(wait_s // 10)]
    assert [told for told in waited if told] in ([], [[name]])  # at the last of them, at most
    told = [action for actions in waited for action in actions] or host.actions(**ill)
    assert told == [name]
    assert host.holding() == [name]
    assert [host.actions(**ill) for _ in range(50)] == [[]] * 50
    again = [alert for _ in range(70) for alert in host.look(**ill)]
    assert [alert.action for alert in again] == [name, name]
    [over] = host.look(**well)
    assert (over.action, over.level, over.rule.title) == (f"{name}_over", Level.LOW, f"Over: {KINDS[name].rule.title}")
    assert host.holding() == []
    assert host.actions(**well) == []


def test_every_alert_has_an_id_of_its_own_and_is_never_triaged() -> None:
    host = Host(repeat_interval_s=20)
    alerts = [alert for number in range(20) for alert in host.look(store_refusing=True, broken_rules=number % 5 != 0)]
    assert len(alerts) > 6
    assert len({alert.id for alert in alerts}) == len(alerts)
    assert {alert.rule.triage for alert in alerts} == {"never"}
    assert {alert.source for alert in alerts} == {"watchdogd"}
    ids = [kind.rule.id for kind in KINDS.values()]
    assert len(set(ids)) == len(ids)


def test_deleted_rules_are_told_each_time() -> None:
    host = Host()
    assert [host.actions(audit_rules=count) for count in (40, 40, 38, 38, None, 12, 45, 45)] == [
        [],
        [],
        ["audit_rules_fewer"],
        [],
        [],
        ["audit_rules_fewer"],
        [],
        [],
    ]
    [alert] = host.look(audit_rules=44)
    assert alert.reasons == ("45 before, 44 now",)


def test_a_host_that_never_had_rules_is_not_told_that_they_are_gone() -> None:
    host = Host()
    assert [host.actions(audit_rules=0) for _ in range(5)] == [[]] * 5


def test_what_was_switched_off_stays_so_while_nothing_is_known() -> None:
    host = Host()
    host.look(audit_enabled=True, audit_rules=4)
    assert host.actions(audit_enabled=False, audit_rules=0) == ["audit_disabled", "audit_rules_gone"]
    assert host.actions(audit_enabled=None, audit_rules=None) == []
    assert host.actions(audit_enabled=True, audit_rules=4) == ["audit_disabled_over", "audit_rules_gone_over"]


def test_a_state_that_was_never_known_is_no_loss() -> None:
    """In a container the kernel's audit is not to be seen."""
    host = Host()
    assert [host.actions() for _ in range(100)] == [[]] * 100


@pytest.mark.parametrize(("jump_s", "told"), [(59, []), (61, ["clock_set"]), (-61, ["clock_set"]), (-59, [])])
def test_a_clock_that_is_set_is_told_once(jump_s: int, told: list[str]) -> None:
    host = Host()
    host.look()
    host.ahead_ms += jump_s * 1000
    assert host.actions() == told
    assert host.actions() == []


def test_losses_of_the_kernel_are_over_when_none_came_for_five_minutes() -> None:
    host = Host()
    assert host.actions(kernel_lost=7) == []  # from before the first look: counted, not ours to tell
    assert host.actions(kernel_lost=8) == ["kernel_loses"]
    assert [host.actions(kernel_lost=8 + number) for number in range(100)] == [[]] * 100
    assert [told for _ in range(31) for told in host.actions(kernel_lost=107)] == ["kernel_loses_over"]


def test_silence_is_told_where_there_was_much_before_it() -> None:
    host = Host(silent_after_s=600)
    for number in range(100):
        assert host.actions(events=number + 1) == []
    assert [host.actions(events=100) for _ in range(59)] == [[]] * 59
    assert host.actions(events=100) == ["silent"]
    assert host.actions(events=101) == ["silent_over"]
    assert [host.actions(events=101) for _ in range(170)] == [[]] * 170  # it was silent for ten minutes before
    assert [told for _ in range(15) for told in host.actions(events=101)] == ["silent"]


@pytest.mark.parametrize(("events", "setting"), [(99, 600), (1000, 0)])
def test_silence_of_a_quiet_host_or_one_that_is_left_alone_is_not_told(events: int, setting: int) -> None:
    host = Host(silent_after_s=setting)
    host.look(events=1)
    assert [host.actions(events=events) for _ in range(500)] == [[]] * 500


def restart(host: Host, down_s: float = 30) -> Host:
    """The same host after a restart of watchdogd."""
    later = Host()
    later.ahead_ms = int((host.passed_s + down_s) * 1000) + host.ahead_ms
    state = msgspec.json.decode(msgspec.json.encode(host.monitor.export()), type=HealthState)
    later.monitor.restore(state, T0_MS + later.ahead_ms, later.passed_s)
    return later


UNKNOWN_AT_FIRST = {"audit_enabled": None, "audit_rules": None, "log_trouble": "", "triage_down": None}
"""What a daemon knows that has just begun."""


@pytest.mark.parametrize(
    ("name", "before", "ill", "first", "well"),
    [
        ("audit_disabled", {"audit_enabled": True}, {"audit_enabled": False}, {}, {"audit_enabled": True}),
        ("audit_rules_gone", {"audit_rules": 40}, {"audit_rules": 0}, {}, {"audit_rules": 40}),
        ("audit_unknown", {"audit_enabled": True}, {}, {}, {"audit_enabled": True}),
        ("log_unreadable", {}, {"log_trouble": "gone"}, {"log_trouble": "gone"}, {"log_trouble": ""}),
        ("kernel_loses", {"kernel_lost": 1}, {"kernel_lost": 9}, {}, {}),
        ("silent", {"events": 100}, {"events": 500}, {}, {"events": 1}),
        ("rules_broken", {}, {"broken_rules": True}, {"broken_rules": True}, {"broken_rules": False}),
        ("triage_down", {}, {"triage_down": True}, {"triage_down": None}, {"triage_down": False}),
    ],
)
def test_a_restart_repeats_nothing_and_forgets_no_end(
    name: str, before: dict[str, object], ill: dict[str, object], first: dict[str, object], well: dict[str, object]
) -> None:
    host = Host()
    host.look(**before)
    looks = {"silent": 400, "triage_down": 362, "kernel_loses": 1}.get(name, 32)
    told = [alert for _ in range(looks) for alert in host.look(**ill) if alert.action == name]
    assert len(told) == 1
    later = restart(host)
    for _ in range(3):
        assert later.actions(**{**UNKNOWN_AT_FIRST, **first}) == []
        assert later.holding() == [name]
    if name == "kernel_loses":
        later.passed_s += 300
    (over,) = later.look(**well)
    assert (over.action, over.first_seen_ms) == (f"{name}_over", told[0].first_seen_ms)
    assert later.holding() == []
    assert restart(later).look(**well) == []


def test_what_goes_on_over_a_restart_is_repeated_when_it_would_have_been() -> None:
    host = Host()
    (first,) = host.look(audit_enabled=False)
    later = restart(host, down_s=14_400 - 25)
    assert later.look(audit_enabled=False) == []
    later.passed_s += 10
    (again,) = later.look(audit_enabled=False)
    assert again.action == "audit_disabled"
    assert again.id != first.id


def test_rules_that_went_while_watchdogd_was_down_are_told() -> None:
    host = Host()
    host.look(audit_rules=40)
    assert restart(host).actions(audit_rules=12) == ["audit_rules_fewer"]
    assert restart(host).actions(audit_rules=0) == ["audit_rules_gone"]


def test_a_condition_that_this_version_does_not_know_is_forgotten() -> None:
    host = Host()
    host.monitor.restore(HealthState({"gone_by": KeptSpell(1, 2, 3, "x")}), T0_MS, 0.0)
    assert host.holding() == []
