from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "decode" / "golden"


def run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "watchdogd", "decode", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def test_json_is_one_event_a_line_and_the_same_every_time() -> None:
    first = run("--format", "json", str(GOLDEN / "files.log"))
    assert first.returncode == 0
    documents = [json.loads(line) for line in first.stdout.splitlines()]
    assert documents == json.loads((GOLDEN / "files.json").read_text())
    assert run("--format", "json", "-", data=(GOLDEN / "files.log").read_bytes()).stdout == first.stdout


def test_text_is_readable_and_moves_no_cursor() -> None:
    done = run(str(GOLDEN / "exec.log"))
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "syscall=execve success=yes" in text
    assert "process_creation exec success: Image=/usr/bin/php8.2" in text
    assert "\\x1b[2K" in text
    assert all(char.isprintable() for line in text.split("\n") for char in line)


def test_what_is_lost_is_said_on_stderr() -> None:
    done = run(str(GOLDEN / "forms.log"))
    assert done.returncode == 0
    assert b"lines that are no audit records: 3" in done.stderr


def test_unreadable_input_is_a_message_and_exit_2_after_what_could_be_read(tmp_path: Path) -> None:
    done = run("--format", "json", str(GOLDEN / "users.log"), str(tmp_path / "absent"))
    assert done.returncode == 2
    assert done.stdout.count(b"\n") == len(json.loads((GOLDEN / "users.json").read_text()))
    assert b"absent: cannot be read" in done.stderr
    assert b"Traceback" not in done.stderr


def test_usage_is_exit_2() -> None:
    assert run().returncode == 2
    assert run("--format", "xml", "x").returncode == 2


def test_a_reader_that_leaves_is_no_error_message(tmp_path: Path) -> None:
    lines = [b"type=DAEMON_START msg=audit(1.000:%d): op=start" % serial for serial in range(5000)]
    (tmp_path / "log").write_bytes(b"\n".join(lines))
    command = f"{sys.executable} -m watchdogd decode {tmp_path}/log | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"----\n", b"")
