from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from watchdogd import __version__
from watchdogd.cli import main as cli

ROOT = Path(__file__).parents[2]


def watchdogd(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "watchdogd", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60, **kwargs)  # type: ignore[call-overload, no-any-return]


def exit_code(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_keeps_the_contract_of_a_module(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(cli.COMMANDS[name])
    assert re.fullmatch(r"[a-z][^\n]{10,70}[^.]", module.HELP)
    assert exit_code(name, "--help") == 0
    assert f"usage: watchdogd {name}" in capsys.readouterr().out
    assert exit_code(name, "--no-such-option") == 2
    assert "usage:" in capsys.readouterr().err


def test_help_lists_every_command_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE)
    assert "cannot be loaded:" not in out


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"watchdogd {__version__}\n"


def test_nothing_to_do_is_a_usage_error_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "commands:" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chekc"], "unknown command 'chekc' (did you mean check?)"),
        (["\x1b[31m"], "unknown command '\\x1b[31m' (known: run, "),
        (["--config", "x", "check"], "a command must come first, not '--config'"),
    ],
)
def test_misuse_is_explained(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_an_option_is_never_guessed_from_its_beginning() -> None:
    assert exit_code("check", "--stric") == 2


def test_an_expected_error_is_a_message_without_traceback() -> None:
    done = watchdogd("check", "--config", "/nowhere/\x1b[31m.yaml")
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr == b"watchdogd: /nowhere/\\x1b[31m.yaml: error: does not exist\n"


def test_a_path_that_is_no_utf8_is_no_crash() -> None:
    done = watchdogd("check", "--config", os.fsdecode(b"/nowhere/\xff.yaml"))
    assert done.returncode == 2
    assert done.stderr == b"watchdogd: /nowhere/\\xff.yaml: error: does not exist\n"


def test_a_reader_that_leaves_is_no_complaint() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "watchdogd", "version"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


def test_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "watchdogd", "version"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def read_state(pid: int) -> str:
    """R runs, D waits for a disk, S sleeps, Z is dead, ... (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_an_interrupt_ends_quietly_with_130(tmp_path: Path) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "watchdogd", "decode", str(fifo)]
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below `&`, and so in children
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, inherited)
    try:
        with fifo.open("wb"):  # opens once the command reads: it is at work
            while read_state(process.pid) in "RD":  # between two instructions an interrupt waits for the read to end
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, b"", b"")


def test_only_the_command_that_runs_is_imported() -> None:
    code = (
        "import sys; from watchdogd.cli.main import main; main(['version']);"
        "print(*(name for name in sys.modules if name.startswith('watchdogd.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert set(done.stderr.decode().split()) == {
        "watchdogd.cli",
        "watchdogd.cli.main",
        "watchdogd.cli.version",
        "watchdogd.errors",
    }
