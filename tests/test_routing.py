"""Who hears of an alert by its verdict: real database, outbox and desk of triage, with a model by script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon import RULE
from tests.test_pipeline import Lines, Script, make_log, open_bench, poll, run
from watchdogd.config import TriageSettings
from watchdogd.entities import Label, Level, Verdict
from watchdogd.match.library import load_rules
from watchdogd.routes import Routes, Wish
from watchdogd.triage.policy import choose_label

if TYPE_CHECKING:
    from pathlib import Path

    from tests.test_pipeline import Bench
    from watchdogd.background import Background
    from watchdogd.entities import Alert

SINKS = ("journald", "pager", "desk")
ROUTES = Routes(
    tuple((name, Level.LOW) for name in SINKS),
    (("pager", Wish(verdicts=(Label.MALICIOUS,))), ("desk", Wish(verdicts=(Label.UNTRIAGED, Label.SUSPICIOUS)))),
)


class Judge(Script):
    """What it says is believed."""

    async def ask(self, alert: Alert, background: Background) -> Verdict:
        verdict = await super().ask(alert, background)
        return Verdict(label=verdict.label, by="fusion", confidence=0.9)


async def take(bench: Bench) -> set[str]:
    return {f"{delivery.sink} {delivery.kind}" for delivery, _ in await bench.take()}


async def settle(bench: Bench) -> None:
    async def is_settled() -> bool:
        return await bench.store.pending_triage(9) == []

    await bench.desk.resume()
    async with run(bench.loops()):
        await poll(is_settled)


@pytest.mark.parametrize(
    ("level", "label", "before", "after"),
    [
        ("medium", Label.MALICIOUS, {"journald", "desk"}, {"pager alert"}),
        ("medium", Label.SUSPICIOUS, {"journald", "desk"}, set()),
        ("high", Label.MALICIOUS, {"journald", "desk"}, {"pager alert"}),
        ("high", Label.BENIGN, {"journald", "desk"}, {"pager alert"}),  # the floor: else no webhook wants a benign one
    ],
)
async def test_at_the_deadline_untriaged_and_by_the_verdict_when_it_comes(
    tmp_path: Path, level: str, label: Label, before: set[str], after: set[str]
) -> None:
    (tmp_path / "implant.yml").write_text(RULE.format(level=level))
    async with open_bench(tmp_path, load_rules([tmp_path]), Judge(label)) as bench:
        bench.desk.routes = ROUTES
        await bench.read(Lines(make_log(1)), alerts=1, workers=0)
        assert await take(bench) == set()
        bench.clock.skip(60)  # the deadline
        assert await take(bench) == {f"{sink} alert" for sink in before}
        await settle(bench)
        assert await take(bench) == after | {f"{sink} verdict" for sink in before}
        assert await take(bench) == set()


@pytest.mark.parametrize(
    ("level", "label", "told"),
    [
        ("medium", Label.MALICIOUS, {"journald", "pager"}),
        ("medium", Label.BENIGN, {"journald"}),
        ("high", Label.BENIGN, {"journald", "pager", "desk"}),
        ("low", Label.UNTRIAGED, {"journald", "desk"}),
    ],
)
async def test_a_verdict_in_time_says_who_is_told(tmp_path: Path, level: str, label: Label, told: set[str]) -> None:
    (tmp_path / "implant.yml").write_text(RULE.format(level=level))
    async with open_bench(tmp_path, load_rules([tmp_path]), Judge(label)) as bench:
        bench.desk.routes = ROUTES
        await bench.read(Lines(make_log(1)), alerts=1, workers=0)
        await settle(bench)
        assert await take(bench) == {f"{sink} alert" for sink in told}
        bench.clock.skip(60)
        assert await take(bench) == set()


async def test_a_level_that_the_verdict_raises_reaches_who_hears_of_that_level(tmp_path: Path) -> None:
    (tmp_path / "implant.yml").write_text(RULE.format(level="medium"))
    async with open_bench(tmp_path, load_rules([tmp_path]), judge := Judge(Label.MALICIOUS)) as bench:
        bench.desk.replace(judge, TriageSettings(raise_on_malicious=True))
        assert bench.desk.routes.choose(Level.MEDIUM) == ("journald",)  # the pager hears from high up
        await bench.read(Lines(make_log(1)), alerts=1, workers=0)
        await settle(bench)
        assert await take(bench) == {"journald alert", "pager alert"}


@pytest.mark.parametrize(
    ("verdict", "label"),
    [
        (Verdict(Label.BENIGN, "model"), Label.UNTRIAGED),  # nobody examined it
        (Verdict(Label.MALICIOUS, "model"), Label.UNTRIAGED),
        (Verdict(Label.BENIGN, "fusion", injection="withstood"), Label.UNTRIAGED),
        (Verdict(Label.SUSPICIOUS, "fusion", injection="withstood"), Label.SUSPICIOUS),
        (Verdict(Label.BENIGN, "scorer"), Label.BENIGN),
        (Verdict(Label.UNTRIAGED, "none"), Label.UNTRIAGED),
    ],
)
def test_only_what_may_change_something_changes_routes(verdict: Verdict, label: Label) -> None:
    assert choose_label(verdict) is label
