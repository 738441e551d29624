"""Grouping in the pipeline: real judge, database and outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.daemon import RULE
from tests.test_pipeline import Bench, Lines, Script, make_log, open_bench, poll, run
from watchdogd.entities import Label
from watchdogd.match.library import load_rules
from watchdogd.silences import Silence, parse_matcher

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.match.library import RuleSet

SILENCE = Silence("s1", (parse_matcher("executable=~/opt/.*"),), 0, 0, 1 << 60, "test", "ann")


def load(folder: Path, level: str, more: str = "") -> RuleSet:
    folder.mkdir()
    text = RULE.format(level=level).partition("watchdogd:")[0] + more
    (folder / "implant.yml").write_text(text)
    return load_rules([folder])


async def read(bench: Bench, *serials: int, silenced: bool = False) -> dict[str, int]:
    """What was told of these events: alerts by sink and kind, and the count that the last one had."""
    if silenced:
        bench.pipeline.list_silences = lambda: (SILENCE,)
    await bench.read(Lines(make_log(*serials)), alerts=len(serials))
    return {f"{delivery.sink} {delivery.message_id}": alert.count for delivery, alert in await bench.take()}


async def test_repeats_are_one_delivery_and_all_are_rows(tmp_path: Path) -> None:
    async with open_bench(tmp_path, load(tmp_path / "rules", "medium")) as bench:
        told = await read(bench, *range(20))
        assert list(told.values()) == [20]
        assert await bench.store.count_alerts() == 20
        assert bench.counters.get("store_alerts_total") == 20
        assert bench.counters.get("store_folded_alerts_total") == 19


async def test_high_alerts_that_ask_something_else_are_all_told(tmp_path: Path) -> None:
    async with open_bench(tmp_path, load(tmp_path / "rules", "high")) as bench:
        assert list((await read(bench, *range(5))).values()) == [1] * 10
        assert bench.counters.get("store_folded_alerts_total") == 0


@pytest.mark.parametrize(("label", "told"), [(Label.BENIGN, 1), (Label.MALICIOUS, 3)])
async def test_a_folded_alert_that_asks_something_else_is_asked_about(tmp_path: Path, label: Label, told: int) -> None:
    script = Script(label)
    async with open_bench(tmp_path, load(tmp_path / "rules", "medium"), script) as bench:
        await read(bench, 1, 2, 3)

        async def is_settled() -> bool:
            return await bench.store.pending_triage(9) == []

        await bench.desk.resume()
        async with run(bench.loops()):
            await poll(is_settled)
        assert {alert.id for alert in script.asked} == {alert.id for alert in await bench.store.latest_alerts(9)}
        query = "SELECT count(*) FROM deliveries WHERE kind = 'alert'"
        assert await bench.store.read(lambda c: c.execute(query).fetchone()) == (told,)


async def test_silenced_alerts_are_kept_and_not_told(tmp_path: Path) -> None:
    async with open_bench(tmp_path, load(tmp_path / "rules", "critical")) as bench:
        assert await read(bench, 1, 2, 3, silenced=True) == {}
        assert await bench.store.count_alerts() == 3
        assert bench.counters.get("store_silenced_alerts_total") == 3


async def test_a_rule_names_who_is_told(tmp_path: Path) -> None:
    rules = load(tmp_path / "rules", "medium", "watchdogd: {notify: [pager], group_by: [command_line]}\n")
    async with open_bench(tmp_path, rules) as bench:
        told = await read(bench, 1)
        assert sorted(name.split()[0] for name in told) == ["journald", "pager"]
        unknown = replace(rules.rules[0], notify=("nobody",))
        assert bench.desk.routes.choose(unknown.level, unknown.notify) == ("journald",)
