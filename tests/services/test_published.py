"""Our messages before what the services themselves publish: their libraries, their specification, their server.

None of it is part of this project. Slack's library is among the development requirements; `make services` fetches the
others from npm; Alertmanager is the one that is installed. What is not there is skipped, by name.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block

from tests.write.conftest import build_alert
from tests.write.formats.made import make_cases, make_hostile
from tests.write.nasty import NASTY
from watchdogd.entities import Alert, Level
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write.formats.ecs import _ECS_EVENT
from watchdogd.write.formats.message import load_format

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def make_alerts() -> list[tuple[Alert, str]]:
    """Every kind of alert, every level, and texts that are nasty or too long."""
    cases = [*make_cases().values(), *((build_alert(level=level), "alert") for level in Level)]
    each = [(build_alert(category=category), "alert") for category in _ECS_EVENT]
    names = [name for name in NASTY if not name.endswith("'")]
    return cases + [(make_hostile(NASTY[name][:20_000]), "alert") for name in names] + each


def write(name: str) -> list[Any]:
    chosen = WebhookSettings(name="x", url="https://example.org/api/v2/alerts", format=name)  # type: ignore[arg-type]
    write_one = load_format(name)
    return [json.loads(write_one(alert, kind, chosen).body) for alert, kind in make_alerts()]


def check_by_node(name: str, documents: list[Any]) -> list[list[str]]:
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules").is_dir():
        pytest.skip("`make services` fetches what Elastic, Discord and Microsoft publish (needs node and npm)")
    messages = json.dumps([{"name": name, "document": document} for document in documents])
    done = subprocess.run([node, HERE / "check.mjs"], input=messages, capture_output=True, text=True, check=True)
    found: list[list[str]] = json.loads(done.stdout)
    assert len(found) == len(documents)
    return found


def test_slack_knows_all_of_our_blocks() -> None:
    """By Slack's own library: it reads each block, finds no text too long, and leaves nothing of it out."""
    for message in write("slack"):
        blocks = Block.parse_all(message["blocks"])
        for block in blocks:
            block.validate_json()
        assert [block.to_dict() for block in blocks] == message["blocks"]


def test_slacks_library_would_find_a_text_that_is_too_long() -> None:
    header = {"type": "header", "text": {"type": "plain_text", "text": "x" * 151, "emoji": False}}
    with pytest.raises(SlackObjectFormationError):
        Block.parse_all([header])[0].validate_json()


def test_discords_specification_allows_our_messages() -> None:
    wrong = {"embeds": [{"title": "x" * 257, "fields": [{"name": "a"}]}]}
    *found, control = check_by_node("discord", [*write("discord"), wrong])
    assert [said for said in found if said] == []
    assert len(control) == 2


def test_the_reader_of_adaptive_cards_understands_ours() -> None:
    body = [{"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": "x", "size": "Huge"}]}, {"type": "Nope"}]
    wrong = {"attachments": [{"content": {"type": "AdaptiveCard", "version": "1.4", "body": body}}]}
    *found, control = check_by_node("teams", [*write("teams"), wrong])
    assert [said for said in found if said] == []
    assert len(control) == 2


def test_every_field_of_the_document_is_one_of_ecs() -> None:
    """Elastic's own list of fields, types and allowed values. Our own keys stand below `watchdogd`."""
    documents = [{name: part for name, part in document.items() if name != "watchdogd"} for document in write("json")]
    for document in documents:
        document.get("user", {}).pop("audit", None)  # Auditbeat's, not of ECS
    wrong = {"event": {"kind": "alarm", "category": ["process"], "type": ["denied"], "why": "x"}}
    *found, control = check_by_node("json", [*documents, wrong])
    assert [said for said in found if said] == []
    assert len(control) == 3


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """The address of a real Alertmanager."""
    if ALERTMANAGER is None:
        pytest.skip("no Alertmanager is installed (Debian's package prometheus-alertmanager)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "own.yml").write_text("route: {receiver: x}\nreceivers: [{name: x}]\n")
    options = {
        "config.file": tmp_path / "own.yml",
        "storage.path": tmp_path / "data",
        "web.listen-address": address,
        "cluster.listen-address": "",
    }
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([ALERTMANAGER, *(f"--{name}={value}" for name, value in options.items())], stderr=log)
    try:
        end = time.monotonic() + 30
        while ask(f"http://{address}/-/ready")[0] != 200:
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        yield f"http://{address}/api/v2/alerts"
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def ask(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def test_a_real_alertmanager_takes_our_alerts(alertmanager: str) -> None:
    documents = write("alertmanager")
    for document in documents:
        status, said = ask(alertmanager, json.dumps(document).encode())
        assert (status, said) == (200, b"")
    wrong = [{"labels": {"no name": "x"}}]
    assert ask(alertmanager, json.dumps(wrong).encode())[0] == 400
    kept = json.loads(ask(alertmanager)[1])
    labels = {json.dumps(document[0]["labels"], sort_keys=True) for document in documents}
    assert {json.dumps(alert["labels"], sort_keys=True) for alert in kept} == labels
