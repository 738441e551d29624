"""`replay --compare`: only the alerts on which models differ are printed."""

from __future__ import annotations

import json

import pytest

from tests.ollama.scripted import Scripted, label, reply
from tests.triage.conftest import make_alert, make_settings
from watchdogd.cli.replay import choose_models
from watchdogd.cli.replay_compare import compare
from watchdogd.config import Config
from watchdogd.errors import TriageError

TAGS = reply({"models": [{"name": "a:1", "digest": "d1"}, {"name": "b:1", "digest": "d2"}]})


@pytest.mark.parametrize("as_json", [False, True])
async def test_only_differences_are_printed(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    alerts = [make_alert(), make_alert("id", id="b" * 64)]
    async with Scripted(label("benign"), label("benign"), label("benign"), label("malicious"), tags=TAGS) as server:
        config = Config(triage=make_settings(ollama_url=server.url))
        await compare(alerts, config, ("a:1", "b:1"), as_json=as_json)
    out, err = capsys.readouterr()
    if as_json:
        assert out.count("\n") == 1
        said = json.loads(out)
        assert said["alert_id"] == "b" * 64
        assert [opinion["label"] for opinion in said["opinions"]] == ["benign", "malicious"]
    else:
        alert, *opinions = out.splitlines()
        assert "b" * 12 in alert
        assert [line.split()[:2] for line in opinions] == [["a:1", "benign"], ["b:1", "malicious"]]
    assert err == "1 of 2 alerts: the models differ\n"


async def test_a_model_that_is_missing_is_said_before_anything_is_asked() -> None:
    async with Scripted(label("benign"), tags=TAGS) as server:
        config = Config(triage=make_settings(ollama_url=server.url))
        with pytest.raises(TriageError, match="ollama pull c:1"):
            await compare([make_alert()], config, ("a:1", "c:1"), as_json=False)
        assert server.questions == []


def test_two_models_and_triage_on_are_needed() -> None:
    assert choose_models(None, "off") == ()
    assert choose_models("a, b", "on") == ("a", "b")
    for text, triage in (("a,a", "on"), ("", "on"), ("a,b", "auto")):
        with pytest.raises(TriageError):
            choose_models(text, triage)
