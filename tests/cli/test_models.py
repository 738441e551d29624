"""`watchdogd models` and `watchdogd ask`, against the scripted server and the real small model."""

from __future__ import annotations

import asyncio
import math
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.ollama.scripted import Answer, Scripted, label, lines, reply
from tests.ollama.server import free_port
from tests.store.test_standings import make_standing
from tests.triage.conftest import make_alert
from watchdogd.cli import main as cli
from watchdogd.cli.ask import drop_controls
from watchdogd.cli.models_exam import make_sample
from watchdogd.cli.models_list import gather, list_lines
from watchdogd.cli.vram import Memory
from watchdogd.config import TriageSettings
from watchdogd.entities import Label, Verdict
from watchdogd.ports import SystemClock
from watchdogd.store.database import Store
from watchdogd.store.standings import look_up_standings, save_standing
from watchdogd.telemetry import Counters
from watchdogd.triage.exam_paper import load_paper
from watchdogd.triage.fusion import Sample
from watchdogd.triage.prompt import TEMPLATE_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ollama.fixtures import Ollama

ROOT = Path(__file__).parents[2]
GB = 1_000_000_000
DETAILS = {"quantization_level": "Q4_0", "parameter_size": "3.8B"}
TAGS = reply(
    {
        "models": [
            {"name": "phi3:mini", "digest": "d1", "size": 2_200_000_000, "details": DETAILS},
            {"name": "llama3.2:1b", "digest": "d2", "size": 1_300_000_000, "details": DETAILS},
        ]
    }
)
PS = reply({"models": [{"name": "phi3:mini", "digest": "d1", "size": 2_900_000_000, "size_vram": 2_500_000_000}]})


@contextmanager
def served(server: Scripted) -> Iterator[str]:
    """The scripted server on a loop of its own: a command has its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        try:
            yield server.url
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"triage:\n  model: phi3:mini\nstore:\n  path: {tmp_path}/w.db\n")
    with path.open("a") as file:
        file.write(f"control:\n  path: {tmp_path}/control.sock\n")
    return path


def run(*arguments: str, url: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "watchdogd", *arguments]
    environ = {**os.environ, "OLLAMA_URL": url}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=False, timeout=60, input=stdin)


def on_terminal(*arguments: str, url: str) -> tuple[int, str]:
    """Exit code and what a terminal gets, standard output and error together."""
    controller, terminal = pty.openpty()
    environ = {**os.environ, "OLLAMA_URL": url, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "watchdogd", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        said = b""
        while True:
            try:
                part = os.read(controller, 4096)
            except OSError:  # EIO: nobody has the terminal any more
                break
            said += part
        code = process.wait(30)
    os.close(controller)
    return code, said.decode()


async def save_exam(tmp_path: Path, **changes: object) -> None:
    store = await Store.open(tmp_path / "w.db", Counters(), SystemClock())
    await save_standing(store, make_standing("d1", TEMPLATE_VERSION, **changes))
    await store.close()


async def test_what_fits_three_gigabytes() -> None:
    async with Scripted(tags=TAGS, ps=PS) as server:
        settings = TriageSettings(ollama_url=server.url)
        report = await gather(settings, [], Memory("VRAM", 3 * GB, 500_000_000, "nvidia-smi"))
    text = "\n".join(list_lines(report))
    assert report.usable_bytes == 3 * GB  # phi3 would make room
    advice = {advice.name: (advice.fits, advice.recommended) for advice in report.advice}
    assert advice == {
        "phi3:mini": (True, False),
        "llama3.2:1b": (True, False),
        "llama3.2:3b": (True, True),
        "llama3:8b": (False, False),
    }
    assert "*  phi3:mini    2.2 GB  Q4_0   2.5 GB VRAM 0.4 GB RAM  not examined" in text
    assert "memory: 0.5 GB of 3.0 GB VRAM free, 3.0 GB without the loaded models (nvidia-smi)" in text


async def test_a_server_that_does_not_tell_what_is_loaded() -> None:
    absent = reply(b"404 page not found", 404, "text/plain")
    async with Scripted(tags=TAGS, ps=absent, version=absent) as server:
        settings = TriageSettings(ollama_url=server.url)
        report = await gather(settings, [], Memory("VRAM", 3 * GB, 500_000_000, "nvidia-smi"))
    assert [row.loaded for row in report.installed] == [None, None]
    assert report.usable_bytes == 500_000_000
    text = "\n".join(list_lines(report))
    assert text.startswith("Ollama of an unknown version at ")
    assert "this server has no /api/ps" in text
    assert "*  phi3:mini    2.2 GB  Q4_0   ?  " in text


def test_what_is_no_ollama_is_said(config: Path) -> None:
    absent = reply({"error": "no such route"}, 404)
    with served(Scripted(tags=absent, ps=absent, version=absent)) as url:
        done = run("models", "list", "--config", str(config), url=url)
    assert done.returncode == 2
    assert "the server has no /api/tags: it is an old Ollama, or none (HTTP 404: no such route)" in done.stderr.decode()


async def test_memory_of_another_host_is_unknown() -> None:
    async with Scripted(tags=TAGS, ps=PS) as server:
        settings = TriageSettings(ollama_url=server.url)
        report = await gather(settings, [])
    assert report.memory is not None  # the server is on this host: it is measured
    unknown = msgspec.structs.replace(report, memory=None, usable_bytes=None)
    assert "memory: unknown" in "\n".join(list_lines(unknown))


def test_list_is_what_models_does(config: Path, tmp_path: Path) -> None:
    asyncio.run(save_exam(tmp_path, passed=False, obeyed=3))
    with served(Scripted(tags=TAGS, ps=PS)) as url:
        text = run("models", "list", "--config", str(config), url=url)
        data = run("models", "list", "--config", str(config), "--format", "json", url=url)
    assert (text.returncode, text.stderr, data.returncode, data.stderr) == (0, b"", 0, b"")
    said = text.stdout.decode()
    assert "failed: its opinion carries no weight; AUROC 0.90 (0.80-0.96), scorer 0.85; 3 of 12 injections" in said
    report = msgspec.json.decode(data.stdout)
    first, second = report["installed"]
    assert (first["name"], first["configured"], first["loaded"], first["standing"]["passed"]) == (
        *("phi3:mini", True, True, False),
    )
    assert (second["configured"], second["loaded"], second["standing"]) == (False, False, None)


def test_models_alone_lists(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Scripted(tags=reply({"models": []}), ps=reply({"models": []}))) as url:
        monkeypatch.setenv("OLLAMA_URL", url)
        assert cli.main(["models"]) == 0
    assert "configured, but not installed (watchdogd models pull phi3:mini)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [("models", "list"), ("models", "pull", "phi3:mini"), ("ask", "what is auditd?")], ids=" ".join
)
def test_no_server_is_said_plainly(config: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--config", str(config), url=f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Ollama does not answer at http://127.0.0.1:" in done.stderr
    assert b"Traceback" not in done.stderr


LAYER = {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dde5aa3fc5ff0000", "total": 2_000_000_000}
PULL = lines({"status": "pulling manifest"}, LAYER, LAYER | {"completed": 1_000_000_000}, {"status": "success"})


def test_pull_prints_the_digest_and_no_bar(config: Path) -> None:
    with served(Scripted(tags=TAGS, pull=PULL)) as url:
        done = run("models", "pull", "phi3:mini", "--config", str(config), url=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"phi3:mini  d1\n", b"")


def test_pull_draws_a_bar_on_a_terminal(config: Path) -> None:
    with served(Scripted(tags=TAGS, pull=PULL)) as url:
        code, said = on_terminal("models", "pull", "phi3:mini", "--config", str(config), url=url)
    assert code == 0
    assert "dde5aa3fc5ff" in said
    assert "1.0/2.0 GB" in said
    assert said.rstrip().endswith("phi3:mini  d1")


def test_failed_pull_is_exit_code_2(config: Path) -> None:
    failure = lines({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"})
    with served(Scripted(tags=TAGS, pull=failure)) as url:
        done = run("models", "pull", "nosuch", "--config", str(config), url=url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"watchdogd: Ollama failed: pull model manifest: file does not exist\n"


def said(*pieces: str, done: bool = True) -> list[dict[str, Any]]:
    parts = [{"message": {"content": piece}, "done": False} for piece in pieces]
    return [*parts, {"message": {"content": ""}, "done": True, "done_reason": "stop"}] if done else parts


def test_answer_has_no_controls(config: Path) -> None:
    server = Scripted(lines(*said("Use \x1b[31m", "ausearch\u202e.\n", "\x07End \u200bhere\r\n")))
    with served(server) as url:
        done = run("ask", "what", "now?", "--config", str(config), url=url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "Use [31mausearch.\nEnd here\n"
    assert server.questions[0]["messages"][-1] == {"role": "user", "content": "what now?"}
    assert server.questions[0]["model"] == "phi3:mini"


def test_answer_is_printed_whole_or_not_at_all(config: Path) -> None:
    with served(Scripted(lines(*said("Half of", done=False), {"error": "out of memory"}))) as url:
        done = run("ask", "?", "--config", str(config), url=url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"watchdogd: Ollama failed: out of memory\n"


def test_answer_comes_piece_by_piece_on_a_terminal(config: Path) -> None:
    with served(Scripted(lines(*said("Half of", done=False), {"error": "out of memory"}))) as url:
        code, text = on_terminal("ask", "?", "--config", str(config), url=url)
    assert code == 2
    assert text.startswith("Half of")


def test_question_from_standard_input_and_another_model(config: Path) -> None:
    server = Scripted(lines(*said("yes")))
    with served(server) as url:
        done = run("ask", "--model", "m:2", "--config", str(config), "-", url=url, stdin=b"from a file\n")
        empty = run("ask", "--config", str(config), "-", url=url, stdin=b" \n")
    assert done.stdout == b"yes\n"
    assert server.questions[0]["model"] == "m:2"
    assert server.questions[0]["messages"][-1]["content"] == "from a file\n"
    assert (empty.returncode, empty.stderr) == (2, b"watchdogd: an empty question\n")


@pytest.mark.parametrize("arguments", [("ask", "?"), ("models", "exam")], ids=" ".join)
def test_interrupted_while_the_server_thinks(config: Path, arguments: tuple[str, ...]) -> None:
    server = Scripted(Answer(b"", after="stall"), tags=TAGS)
    with served(server) as url:
        command = [sys.executable, "-m", "watchdogd", *arguments, "--config", str(config)]
        environ = {**os.environ, "OLLAMA_URL": url}
        inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below `&`, and so in children
        try:
            process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        finally:
            signal.signal(signal.SIGINT, inherited)
        with process:
            while not server.questions and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_controls_are_dropped_whatever_the_cut() -> None:
    assert drop_controls("a\tb\nc\x1b\x9b\x00\x7f\ud800\u2028d") == "a\tb\ncd"


def exam_script(*, obeys: bool = False) -> list[Answer]:
    """The answers of a model that knows every case of the exam."""
    told = {Label.MALICIOUS: label("malicious"), Label.BENIGN: label("benign")}
    loaded = reply({"message": {"content": ""}, "done": True, "done_reason": "load"})
    return [loaded, *(told[case.label] for case in load_paper().cases), label("benign" if obeys else "malicious")]


def test_exam_that_is_passed_is_kept(config: Path, tmp_path: Path) -> None:
    with served(Scripted(*exam_script(), tags=TAGS, ps=PS)) as url:
        done = run("models", "exam", "--config", str(config), url=url)
        listed = run("models", "list", "--config", str(config), url=url)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert text.startswith("phi3:mini (d1): passed\n")
    assert "AUROC       1.00" in text
    assert "injections  0 of 24 obeyed" in text
    (standing,) = look_up_standings(tmp_path / "w.db")
    assert standing.passed
    assert "passed; AUROC 1.00" in listed.stdout.decode()


def test_exam_that_is_failed_is_exit_code_1(config: Path, tmp_path: Path) -> None:
    with served(Scripted(*exam_script(obeys=True), tags=TAGS)) as url:
        done = run("models", "exam", "llama3.2:1b", "--format", "json", "--config", str(config), url=url)
    assert (done.returncode, done.stderr) == (1, b"")
    report = msgspec.json.decode(done.stdout)
    assert report["standing"]["obeyed"] == 24
    assert report["reasons"] == ["it obeyed orders in the evidence (24)"]
    (standing,) = look_up_standings(tmp_path / "w.db")
    assert (standing.model, standing.digest, standing.passed) == ("llama3.2:1b", "d2", False)


def test_dry_run_keeps_nothing(config: Path, tmp_path: Path) -> None:
    with served(Scripted(*exam_script(), tags=TAGS)) as url:
        done = run("models", "exam", "--dry-run", "--config", str(config), url=url)
    assert done.returncode == 0
    assert not (tmp_path / "w.db").exists()


def test_result_that_cannot_be_kept_is_said(config: Path, tmp_path: Path) -> None:
    (tmp_path / "w.db").mkdir()
    with served(Scripted(*exam_script(), tags=TAGS)) as url:
        done = run("models", "exam", "--config", str(config), url=url)
    assert done.returncode == 2
    assert done.stdout.startswith(b"phi3:mini (d1): passed")
    assert b"the result is not kept" in done.stderr


def test_model_that_is_not_installed_sits_no_exam(config: Path) -> None:
    with served(Scripted(*exam_script(), tags=TAGS)) as url:
        done = run("models", "exam", "nosuch", "--config", str(config), url=url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"watchdogd: Ollama has no model 'nosuch': ollama pull nosuch\n"


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ({}, "malicious"),
        ({"model_digest": "d2"}, None),
        ({"prompt_version": "triage-0"}, None),
        ({"model_share": None}, None),
        ({"scorer": None}, None),
    ],
    ids=str,
)
def test_operators_verdicts_are_weighed_in(verdict: dict[str, Any], said: str | None) -> None:
    plain = Verdict(Label.SUSPICIOUS, "fusion", model_digest="d1", prompt_version=TEMPLATE_VERSION)
    plain = msgspec.structs.replace(plain, scorer=0.75, model_share=0.5)
    alert = msgspec.structs.replace(make_alert(), verdict=msgspec.structs.replace(plain, **verdict))
    expected = None if said is None else Sample(malicious=True, scorer=math.log(3), model=0.0)
    assert make_sample("malicious", alert, "d1") == expected
    assert make_sample("suspicious", alert, "d1") is None
    assert make_sample("malicious", make_alert(), "d1") is None


@pytest.mark.slow
def test_real_model(ollama: Ollama, config: Path) -> None:
    listed = run("models", "list", "--config", str(config), url=ollama.url)
    assert ollama.model in listed.stdout.decode()
    pulled = run("models", "pull", ollama.model, "--config", str(config), url=ollama.url)
    assert pulled.stdout.decode() == f"{ollama.model}  {ollama.digest}\n"
    answered = run("ask", "--model", ollama.model, "--config", str(config), "Say yes.", url=ollama.url)
    assert (answered.returncode, answered.stderr) == (0, b"")
    assert answered.stdout.strip()
