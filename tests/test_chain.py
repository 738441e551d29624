"""A kill chain among the packaged rules: its alert stands for those of its parts that follow, and for no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.test_judge import make_records
from tests.test_pipeline import Lines, open_bench
from watchdogd.cli.demo import RECORDING
from watchdogd.cli.replay import build_judge, judge_files
from watchdogd.cli.replay_groups import group_alerts
from watchdogd.entities import AlertState, Level
from watchdogd.grouping import Plan
from watchdogd.match.library import load_rules
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from tests.test_pipeline import Bench
    from watchdogd.entities import Alert
    from watchdogd.match.library import RuleSet

RULES = Path(__file__).resolve().parents[1] / "rules"
SAMPLE = (RULES / "tests" / "break_in_of_one_session" / "fires.log").read_text()
CHAIN = "Rights Taken, a Way Back Left and Traces Removed in One Session"
SUDO, JOB = 7002, 7004
"""Serials of two steps in the sample, a high and a medium one."""
HOUR_S = 3600


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    """The chain and what it is made of."""
    folder = tmp_path_factory.mktemp("rules")
    chain = RULES / "persistence" / "break_in_of_one_session.yml"
    names = set(re.findall(r"\w+", chain.read_text().partition("condition:")[2]))
    paths = [path for path in RULES.rglob("*.yml") if names & set(re.findall(r"(?m)^name: (\w+)$", path.read_text()))]
    for path in (chain, *paths):
        (folder / path.name).symlink_to(path)
    return load_rules([folder])


def repeat(serial: int, *, again: int, after_s: int = 1, **changes: str) -> str:
    """A step of the sample once more: under another serial, later, and with other values of some fields."""
    text = "".join(line for line in SAMPLE.splitlines(keepends=True) if f":{serial})" in line)
    for name, value in changes.items():
        text = re.sub(rf"\b{name}=\S+", f"{name}={value}", text)
    return re.sub(
        rf"audit\((\d+)\.(\d+):{serial}\)", lambda found: f"audit({int(found[1]) + after_s}.{found[2]}:{again})", text
    )


async def read(bench: Bench, text: str, alerts: int) -> dict[int, Alert]:
    """Every alert by its serial; the chain's by 0."""
    await bench.read(Lines(make_records(text.encode())), alerts=alerts)
    found = await bench.store.latest_alerts(99)
    return {0 if alert.rule.title == CHAIN else alert.events[-1].serial: alert for alert in found}


async def test_what_follows_of_its_parts_is_said_already(tmp_path: Path, rules: RuleSet) -> None:
    tee = repeat(JOB, again=8001, exe='"/usr/bin/tee"')
    async with open_bench(tmp_path, rules) as bench:
        found = await read(bench, SAMPLE + tee, alerts=5)
        assert {serial: alert.state for serial, alert in found.items()} == {
            SUDO: AlertState.ACTIVE,  # told before it
            JOB: AlertState.ACTIVE,
            7005: AlertState.ACTIVE,
            0: AlertState.ACTIVE,
            8001: AlertState.INHIBITED,
        }
        assert found[0].level is Level.CRITICAL
        assert found[8001].leader == found[0].id
        told = {alert.events[-1].serial for _, alert in await bench.take()}
        assert 8001 not in told
        assert bench.counters.get("store_inhibited_alerts_total") == 1


async def test_what_is_none_of_that_is_told(tmp_path: Path, rules: RuleSet) -> None:
    later = (
        repeat(SUDO, again=8001, a2="73797374656D28222F62696E2F73682229"),  # high, and asks something else
        repeat(JOB, again=8002, exe='"/usr/bin/tee"', ses="9"),
        repeat(JOB, again=8003, exe='"/usr/bin/cp"', after_s=HOUR_S + 10),
    )
    async with open_bench(tmp_path, rules) as bench:
        found = await read(bench, SAMPLE + "".join(later), alerts=7)
        assert {alert.state for alert in found.values()} == {AlertState.ACTIVE}
        assert {8001, 8002, 8003} <= set(found)


def test_in_the_recorded_attack_it_stands_for_one_step_that_follows(rules: RuleSet) -> None:
    counters = Counters()
    judged = judge_files(build_judge(rules, counters), [str(RECORDING)], counters)
    alerts = list(group_alerts(judged, Plan()))
    (chain,) = [alert for alert in alerts if alert.rule.title == CHAIN]
    (inhibited,) = [alert for alert in alerts if alert.state is AlertState.INHIBITED]
    assert (inhibited.leader, inhibited.rule.id in {part.rule_id for part in chain.rule.parts}) == (chain.id, True)
    assert inhibited.time_ms >= chain.time_ms
    assert inhibited.level is Level.MEDIUM
    followed = [alert for alert in alerts if alert.time_ms >= chain.time_ms and alert.level is Level.HIGH]
    assert followed, "high alerts that are new are told by themselves"
