"""A real model's part of `make eval`: what is asked, what is kept, and what is counted as a flip."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from evaluation import model_report
from evaluation.asking import Asker, KeptClient, choose, read_injections
from evaluation.corpus import Scenario
from evaluation.logistic import Fit
from evaluation.model_report import Baseline, Questioning, report_on_model
from evaluation.population import Case, Told
from evaluation.triage import judge_by_level
from tests.ollama.scripted import Scripted, label, reply
from tests.triage.conftest import make_alert, make_believed
from watchdogd.background import NO_BACKGROUND, Fusion
from watchdogd.entities import Label, Level
from watchdogd.errors import TriageError
from watchdogd.triage.exam import ExamReport
from watchdogd.triage.prompt import TEMPLATE_VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ollama.scripted import Answer
    from watchdogd.background import Standing

TAGS = reply({"models": [{"name": "phi3:mini", "digest": "abc123"}]})
UNSEEN = {"family": Fit(0.0, {"step:1": 1.0})}
SCALE = (1.0, 0.0)


def make_case(name: str, label: str, level: Level = Level.MEDIUM) -> Case:
    scenario = Scenario(name, label, "execution", (), "", (1,), 1, 1, "family")
    told = Told(make_alert(id=name.ljust(64, "0"), level=level), NO_BACKGROUND, {}, frozenset())
    return Case(scenario, (told,))


def make_standing(weight: float = 0.0) -> Standing:
    standing = make_believed("abc123").find("phi3:mini", "abc123", TEMPLATE_VERSION)
    assert standing is not None
    return msgspec.structs.replace(standing, passed=False, fusion=Fusion(0.0, 1.0, weight))


async def ask_twice(path: Path, *answers: Answer) -> tuple[list[float], int]:
    """Both answers' log-odds by two clients with the same file, and how often the server was asked."""
    found = []
    async with Scripted(*answers, tags=TAGS) as server:
        for _ in range(2):
            client = KeptClient(server.url, path, load_s=7.0)
            asker = Asker(client, "phi3:mini", make_standing(), UNSEEN, SCALE)
            found.append((await asker.ask(make_case("a", "malicious"))).model)
            await client.close()
        return found, len(server.questions)


async def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    (first, second), number = await ask_twice(tmp_path / "kept" / "m.jsonl", label("malicious"))
    assert first == second > 0
    assert number == 1
    (kept,) = KeptClient("http://127.0.0.1:1", tmp_path / "kept" / "m.jsonl")._kept.values()
    assert kept.load_s == 7.0


async def test_an_invalid_answer_is_no_opinion(tmp_path: Path) -> None:
    (first, second), _ = await ask_twice(tmp_path / "m.jsonl", label("good"))
    assert first == second == 0


def test_scenarios_are_chosen_by_nothing_but_a_hash_labels_in_turn() -> None:
    cases = [make_case(f"m{n}", "malicious") for n in range(9)] + [make_case(f"b{n}", "benign") for n in range(3)]
    chosen = choose(cases, 2)
    assert [case.scenario.label for case in chosen].count("malicious") == 2
    assert {case.scenario.label for case in chosen[:2]} == {"malicious", "benign"}
    assert chosen == choose(cases[::-1], 2)
    assert len(choose(cases, 0)) == len(cases)


def test_each_kind_of_injection_is_tried_once() -> None:
    kinds = [kind for kind, _ in read_injections()]
    assert len(set(kinds)) == len(kinds) >= 10


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    report = ExamReport(make_standing(), 0.8, -1.0, 0, 0, 9.0, ("it may be guessing",), (), ())
    path = tmp_path / "exam.json"
    path.write_bytes(msgspec.json.encode(report))
    return path


async def write_report(url: str, exam: Path) -> list[str]:
    cases = [make_case("m", "malicious", Level.HIGH), make_case("b", "benign")]
    baselines = [Baseline("rule level only", judge_by_level, judge_by_level)]
    questioning = Questioning(url, "phi3:mini", 3.0, exam, 0)
    return await asyncio.to_thread(report_on_model, questioning, cases, UNSEEN, SCALE, baselines)


async def test_report(tmp_path: Path, exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_report, "KEPT", tmp_path)
    obedient = [label("malicious"), label("malicious"), *[label("benign")] * 40]
    async with Scripted(*obedient, tags=TAGS) as server:
        lines = await write_report(server.url, exam)
    text = "\n".join(lines)
    assert "Asked about 1 of 1 malicious, 0 of 0 suspicious, 1 of 1 benign scenarios" in text
    assert any(line.startswith("| rule level only | 1.000 [") for line in lines)
    assert "| the model alone | 0.500" in text
    milder = next(line for line in lines if "something milder" in line)
    kinds = len([*read_injections()])
    assert f" {kinds}/{kinds}, 100.0 %" in milder
    assert f" 0/{kinds}, 0.0 %" in next(line for line in lines if "ends lower" in line)
    assert "cold (loading included) 3 s" in text


async def test_exam_of_other_bytes_is_refused(tmp_path: Path, exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_report, "KEPT", tmp_path)
    other = reply({"models": [{"name": "phi3:mini", "digest": "other"}]})
    async with Scripted(label(Label.BENIGN), tags=other) as server:
        with pytest.raises(TriageError, match="another model"):
            await write_report(server.url, exam)
