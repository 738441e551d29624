"""The contract of `watchdogd replay`, kept by the real command."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import pty
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import jsonschema
import pytest

from tests.daemon import RULE_ID, make_exec_lines

if TYPE_CHECKING:
    from tests.ollama.fixtures import Ollama

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests" / "data" / "demo.log"
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "alert.schema.json").read_text())

RULES = f"""\
title: Program below a web server
id: {RULE_ID}
status: test
level: high
logsource:
    product: linux
    category: process_creation
detection:
    selection:
        ParentCommandLine|contains: php -S
    condition: selection
---
title: Setuid bit
id: 6a0c1d1e-6d4e-4f9f-8a52-1c7f7a9b2e01
status: test
level: medium
logsource:
    product: linux
    service: auditd
detection:
    selection:
        type: EXECVE
        a0: chmod
        a1: '4755'
    condition: selection
"""

TRAP = """\
import os, sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = {"socket.connect", "socket.bind", "socket.sendto", "sqlite3.connect", "os.mkdir", "os.rename", "os.remove"}

def watch(event, arguments):
    named = event == "open" and not isinstance(arguments[0], int)  # a number: the pipe to the reader process
    if event in FORBIDDEN or (named and arguments[2] & WRITES and arguments[0] != os.devnull):
        os.write(2, f"TRAP {event} {arguments[:1]!r}\\n".encode())
        os._exit(99)

sys.addaudithook(watch)
os.write(2, b"TRAP set\\n")
"""
"""A `sitecustomize` that ends the program where it writes a file or talks to a network."""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "demo.yml").write_text(RULES)
    return folder


def replay(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT, stdin: IO[bytes] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "watchdogd", "replay", *map(str, arguments)]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(command, capture_output=True, check=False, timeout=60, env=environ, cwd=cwd, stdin=stdin)


def read_alerts(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- what it prints -----------------------------------------------------------------------------------------------


def test_json_follows_the_schema_and_names_each_alert_once(rules: Path) -> None:
    done = replay("--rules", rules, "--format", "json", DEMO)
    alerts = read_alerts(done)
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    for alert in alerts:
        validator.validate(alert)
        assert alert["watchdogd"]["verdict"]["label"] == "untriaged"
    ids = [alert["watchdogd"]["alert_id"] for alert in alerts]
    assert len(ids) == len(set(ids)) > 1
    assert {alert["rule"]["name"] for alert in alerts} == {"Program below a web server", "Setuid bit"}
    assert done.stderr == b""


def test_text_shows_the_same_alerts(rules: Path) -> None:
    shown = replay("--rules", rules, DEMO).stdout.decode()
    for alert in read_alerts(replay("--rules", rules, "--format", "json", DEMO)):
        assert shown.count(f"  alert    {alert['watchdogd']['alert_id'][:16]}") == 1
    assert "\x1b" not in shown


@pytest.mark.parametrize("form", ["text", "json"])
def test_same_bytes_whatever_the_surroundings(rules: Path, tmp_path: Path, form: str) -> None:
    options = ("--rules", rules, "--format", form, "--triage", "off")
    here = replay(*options, DEMO, cwd=ROOT, env={"PYTHONHASHSEED": "1", "TZ": "UTC", "LANG": "C.UTF-8"})
    environ = {"PYTHONHASHSEED": "77", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "COLUMNS": "40", "HOME": "/nowhere"}
    there = replay(*options, DEMO, cwd=tmp_path, env=environ)
    assert here.returncode == there.returncode == 0
    assert here.stdout == there.stdout != b""


def test_hermetic_it_writes_no_file_and_opens_no_connection(rules: Path, tmp_path: Path) -> None:
    home, trap = tmp_path / "home", tmp_path / "trap"
    home.mkdir()
    trap.mkdir()
    (trap / "sitecustomize.py").write_text(TRAP)
    environ = {
        "PYTHONPATH": f"{trap}:{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(home),
    }
    done = replay("--rules", rules, "--triage", "off", DEMO, cwd=home, env=environ)
    assert done.stderr == b"TRAP set\n"
    assert done.returncode == 0
    assert b"Setuid bit" in done.stdout
    assert list(home.iterdir()) == []


def test_the_trap_of_the_test_above_shuts(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TRAP)
    for deed in ("open('made', 'w')", "__import__('socket').socket().connect(('127.0.0.1', 9))"):
        environ = {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", deed], env=environ, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 99


def test_no_bar_where_stderr_is_no_terminal_and_a_summary_on_demand(rules: Path) -> None:
    plain = replay("--rules", rules, DEMO)
    assert plain.stderr == b""
    told = replay("--rules", rules, "--summary", DEMO)
    assert told.stdout == plain.stdout
    assert b"collect_lines_total 1686\n" in told.stderr


def test_reader_that_leaves_is_no_error(rules: Path) -> None:
    for form in ("text", "json"):
        command = [sys.executable, "-m", "watchdogd", "replay", "--rules", str(rules), "--format", form, str(DEMO)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 141


# --- what it reads ------------------------------------------------------------------------------------------------


def test_several_files_are_one_stream_in_the_given_order(rules: Path, tmp_path: Path) -> None:
    whole = replay("--rules", rules, "--format", "json", DEMO)
    event = read_alerts(whole)[0]["watchdogd"]
    data = DEMO.read_bytes()
    middle = data.index(event["lines"][2].encode())
    assert data.index(event["lines"][0].encode()) < middle
    (tmp_path / "audit.log.1").write_bytes(data[:middle])
    (tmp_path / "audit.log").write_bytes(data[middle:])
    parts = replay("--rules", rules, "--format", "json", tmp_path / "audit.log.1", tmp_path / "audit.log")
    assert parts.stdout == whole.stdout
    assert parts.stderr == b""
    assert replay("--rules", rules, "--format", "json", tmp_path / "audit.log").stdout != whole.stdout


def test_event_split_by_a_real_rotation_is_whole(tmp_path: Path, corpora: Path) -> None:
    folder = corpora / "recorded" / "rotation"
    facts = json.loads((folder / "rotation.json").read_text())
    (tmp_path / "every.yml").write_text(
        "title: Every event\nid: 3b7f0c6e-1f2a-4a53-9d61-0e1f2a3b4c5d\nstatus: test\nlevel: low\n"
        "logsource:\n    product: linux\n    service: auditd\n"
        "detection:\n    selection:\n        type: SYSCALL\n    condition: selection\nwatchdogd:\n    cooldown: 0s\n"
    )
    files = [folder / f"audit.log{suffix}" for suffix in (".3", ".2", ".1", "")]
    alerts = read_alerts(replay("--rules", tmp_path, "--format", "json", *files))
    lines = {alert["watchdogd"]["events"][0]["serial"]: alert["watchdogd"]["lines"] for alert in alerts}
    assert len(lines) == len(alerts)
    text = "".join(file.read_text(errors="backslashreplace") for file in files)
    for serial in (216214, 217307, 218376):
        assert str(serial) in json.dumps(facts)
        assert len(lines[serial]) == sum(f":{serial}): " in line for line in text.splitlines())


@pytest.mark.parametrize("kind", ["-", "gz", "xz", "zst"])
def test_packed_files_and_standard_input(rules: Path, tmp_path: Path, kind: str) -> None:
    data = DEMO.read_bytes()
    packed = tmp_path / f"demo.log.{kind}"
    if kind == "gz":
        packed.write_bytes(gzip.compress(data))
    elif kind == "xz":
        packed.write_bytes(lzma.compress(data))
    elif kind == "zst":
        if shutil.which("zstd") is None and os.environ.get("CI") != "true":
            pytest.skip("there is no zstd program")
        subprocess.run(["zstd", "-q", "-o", packed, DEMO], check=True)
    if kind == "-":
        with DEMO.open("rb") as file:
            done = replay("--rules", rules, "-", stdin=file)
    else:
        done = replay("--rules", rules, packed)
    assert done.stdout == replay("--rules", rules, DEMO).stdout
    assert done.returncode == 0
    assert done.stderr == b""


# --- what it refuses ----------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_named(rules: Path, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(os.urandom(100_000))
    (tmp_path / "torn.gz").write_bytes(gzip.compress(DEMO.read_bytes())[:-5000])
    for name, said in (
        ("missing.log", "missing.log: cannot be read (No such file or directory)"),
        (".", "directory"),
        ("binary", "binary: is no log but binary data"),
        ("torn.gz", "torn.gz: is damaged or was cut off"),
    ):
        done = replay("--rules", rules, tmp_path / name)
        assert done.returncode == 2
        assert said in done.stderr.decode()
        assert b"Traceback" not in done.stderr


def test_what_was_read_before_an_unreadable_file_is_judged(rules: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    exe = "/opt/x"
    log.write_bytes(make_exec_lines(1, 1_795_000_000_000, exe))
    (rules / "demo.yml").write_text(RULES.replace("ParentCommandLine|contains: php -S", f"Image: {exe}"))
    done = replay("--rules", rules, "--format", "json", log, tmp_path / "missing")
    assert done.returncode == 2
    assert [json.loads(line)["watchdogd"]["events"][0]["serial"] for line in done.stdout.splitlines()] == [1]


def test_garbage_in_a_log_is_counted_and_hides_nothing(rules: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    garbage = b"\x00\xff\x1b[31m nonsense\n" * 40 + b"type=SYSCALL msg=audit(\n" + b"x" * 3_000_000 + b"\n"
    data = DEMO.read_bytes()
    middle = data.index(b"\n", len(data) // 2) + 1
    log.write_bytes(data[:middle] + garbage + data[middle:])
    done = replay("--rules", rules, log)
    assert done.returncode == 0
    assert done.stdout == replay("--rules", rules, DEMO).stdout
    assert done.stderr.decode().splitlines() == [
        "watchdogd: lines that are no audit records: 42",
        "watchdogd: lines cut at 1 MiB: 1",
    ]


def test_latest_time_that_a_record_can_bear(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_bytes(make_exec_lines(1, 99_999_999_999_999))
    (tmp_path / "implant.yml").write_text(
        RULES.replace("ParentCommandLine|contains: php -S", "Image: /opt/evil/implant")
    )
    for form in ("text", "json"):
        done = replay("--rules", tmp_path, "--format", form, log)
        assert done.returncode == 0
        assert b"5138-11-16" in done.stdout


def test_rules_replace_and_their_mistakes_are_placed(rules: Path, tmp_path: Path) -> None:
    names = {alert["rule"]["id"] for alert in read_alerts(replay("--rules", rules, "--format", "json", DEMO))}
    assert RULE_ID in names
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "bad.yml").write_text(RULES.replace("level: high", "level: hihg"))
    done = replay("--rules", rules, "--rules", broken, DEMO)
    assert done.returncode == 2
    assert done.stdout == b""
    assert f"{broken}/bad.yml:4:" in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    for missing in (tmp_path / "nowhere", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        done = replay("--rules", missing, DEMO)
        assert done.returncode == 2
        assert str(missing) in done.stderr.decode()


# --- triage -------------------------------------------------------------------------------------------------------


def find_closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def test_without_a_model_auto_says_so_and_on_fails(rules: Path) -> None:
    url = f"http://user:hunter2@127.0.0.1:{find_closed_port()}"
    options = ("--rules", rules, "--format", "json")
    auto = replay(*options, "--triage", "auto", DEMO, env={"OLLAMA_URL": url})
    assert auto.stdout == replay(*options, DEMO).stdout
    assert b"No model answers at http://" in auto.stderr
    assert {alert["watchdogd"]["verdict"]["label"] for alert in read_alerts(auto)} == {"untriaged"}
    on = replay(*options, "--triage", "on", DEMO, env={"OLLAMA_URL": url})
    assert (on.returncode, on.stdout) == (2, b"")
    assert b"No model answers at http://" in on.stderr
    for done in (auto, on):
        assert b"Traceback" not in done.stderr
        assert b"hunter2" not in done.stderr


def test_triage_that_is_turned_off_is_said(rules: Path) -> None:
    for wish, status in (("auto", 0), ("on", 2)):
        done = replay("--rules", rules, "--triage", wish, DEMO, env={"AI_ENABLED": "false"})
        assert done.returncode == status
        assert b"Triage is turned off (AI_ENABLED, triage.enabled)" in done.stderr


@pytest.mark.slow
def test_a_real_model_gives_verdicts(tmp_path: Path, ollama: Ollama) -> None:
    log = tmp_path / "audit.log"
    log.write_bytes(make_exec_lines(1, 1_795_000_000_000))
    (tmp_path / "implant.yml").write_text(
        RULES.replace("ParentCommandLine|contains: php -S", "Image|endswith: implant")
    )
    options = ("--rules", tmp_path, "--format", "json", "--triage", "on")
    done = replay(*options, log, env={"OLLAMA_URL": ollama.url, "OLLAMA_MODEL": ollama.model})
    (alert,) = read_alerts(done)
    assert alert["watchdogd"]["verdict"]["model"] == ollama.model
    assert alert["watchdogd"]["level"] in {"high", "critical"}
    assert b"answers: asking " in done.stderr
    lacking = replay(*options, log, env={"OLLAMA_URL": ollama.url, "OLLAMA_MODEL": "no-such-model"})
    assert (lacking.returncode, lacking.stdout) == (2, b"")
    assert b"lacks the model no-such-model" in lacking.stderr


# --- on a terminal ------------------------------------------------------------------------------------------------


def run_on_terminal(*arguments: str | Path, stdout: int | None = None) -> tuple[int, bytes]:
    """Exit code, and what a terminal for stderr (and stdout, unless given) received."""
    master, slave = pty.openpty()
    received: list[bytes] = []

    def drain() -> None:
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # EIO: the last one has closed the terminal
                return
            received.append(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    command = [sys.executable, "-m", "watchdogd", "replay", *map(str, arguments)]
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    output = slave if stdout is None else stdout
    with subprocess.Popen(command, stdin=slave, stdout=output, stderr=slave, cwd=ROOT, env=environ) as process:
        os.close(slave)
        status = process.wait(60)
    reader.join(60)
    os.close(master)
    return status, b"".join(received)


def write_long_log(path: Path) -> None:
    """Much that takes a while and matches nothing, then one event that does."""
    with path.open("wb") as file:
        for serial in range(2, 8000):
            file.write(make_exec_lines(serial, 1_795_000_000_000 + serial, "/usr/bin/true"))
        file.write(make_exec_lines(9000, 1_795_000_900_000))


def test_progress_on_a_terminal_and_results_on_stdout(rules: Path, tmp_path: Path) -> None:
    (rules / "demo.yml").write_text(RULES.replace("ParentCommandLine|contains: php -S", "Image: /opt/evil/implant"))
    log = tmp_path / "audit.log"
    write_long_log(log)
    with (tmp_path / "out").open("wb") as out:
        status, shown = run_on_terminal("--rules", rules, log, stdout=out.fileno())
    assert status == 0
    assert b"reading" in shown
    assert b" lines" in shown
    assert b"MB" in shown
    printed = (tmp_path / "out").read_bytes()
    assert b"Program below a web server" in printed
    assert b"reading" not in printed
    assert b"\x1b" not in printed


def test_bar_leaves_the_screen_before_an_alert_is_printed_there(rules: Path, tmp_path: Path) -> None:
    (rules / "demo.yml").write_text(RULES.replace("ParentCommandLine|contains: php -S", "Image: /opt/evil/implant"))
    log = tmp_path / "audit.log"
    write_long_log(log)
    status, shown = run_on_terminal("--rules", rules, log)
    assert status == 0
    before, _, after = shown.partition(b"Program below a web server")
    assert b"reading" in before
    assert b"reading" not in after
    assert b"\x1b[2K" in before[before.rindex(b"reading") :]
    assert before.count(b"\x1b[?25l") == before.count(b"\x1b[?25h")  # the cursor is back
