"""`watchdogd install` below a folder; the live thing is in tests/host/test_machine.py."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from watchdogd.cli.install import find_obstacles, find_program
from watchdogd.cli.inventory import DISTRIBUTION_MARK, STATUS_SERVICE_PATH, STATUS_TIMER_PATH, UNIT_PATH, list_files
from watchdogd.cli.main import main
from watchdogd.cli.placement import RECORD_PATH, Placed, Placement
from watchdogd.errors import WatchdogdError

RULE = Path("/etc/watchdogd/rules/a.yml")


def place(root: Path, content: str, *, force: bool = False, editable: bool = True, path: Path = RULE) -> list[str]:
    placement = Placement(root, force=force)
    placement.place([Placed(path, content.encode(), editable=editable)])
    return [step.verb for step in placement.steps]


def below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def test_install_and_uninstall_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(tmp_path), "--audit-rules"]) == 0
    unit = below(tmp_path, UNIT_PATH).read_text()
    assert f"ExecStart={find_program()[0]} run --config /etc/watchdogd/config.yaml\n" in unit
    assert not re.search("@[A-Z]+@", unit)
    assert (tmp_path / "etc/watchdogd/config.yaml").is_file()
    assert (tmp_path / "etc/audit/rules.d/50-watchdogd.rules").is_file()
    assert (tmp_path / "usr/share/watchdogd/rules/execution/world_writable_directory.yml").is_file()
    assert [path.name for path in (tmp_path / "etc/watchdogd/rules").iterdir()] == ["README"]
    assert not list(tmp_path.rglob("tests"))
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    said = capsys.readouterr().out
    assert all(str(path)[len(str(tmp_path)) :] in said for path in written - {below(tmp_path, RECORD_PATH)})
    assert main(["install", "--root", str(tmp_path), "--uninstall"]) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not (tmp_path / "etc/watchdogd").exists()


def test_the_same_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["install", "--root", str(tmp_path)])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != below(tmp_path, RECORD_PATH)}
    capsys.readouterr()
    assert main(["install", "--root", str(tmp_path)]) == 0
    steps = [line for line in capsys.readouterr().out.splitlines() if "/" in line and "Next" not in line]
    assert steps
    assert all(line.startswith("keep ") for line in steps)
    assert {path: path.stat().st_mtime_ns for path in before if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(tmp_path), "--dry-run"]) == 0
    assert "/etc/watchdogd/config.yaml" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_unedited_file_is_updated(tmp_path: Path) -> None:
    assert place(tmp_path, "one") == ["write"]
    assert place(tmp_path, "two") == ["update"]
    assert below(tmp_path, RULE).read_text() == "two"


@pytest.mark.parametrize("editable", [True, False])
def test_an_edited_file_stays_and_the_new_one_lies_beside_it(tmp_path: Path, *, editable: bool) -> None:
    place(tmp_path, "one")
    below(tmp_path, RULE).write_text("mine")
    assert place(tmp_path, "two", editable=editable) == ["new"]
    assert below(tmp_path, RULE).read_text() == "mine"
    assert below(tmp_path, RULE).with_name("a.yml.new").read_text() == "two"


def test_a_file_that_was_there_before_us_stays(tmp_path: Path) -> None:
    below(tmp_path, RULE).parent.mkdir(parents=True)
    below(tmp_path, RULE).write_text("theirs")
    assert place(tmp_path, "one") == ["new"]
    assert below(tmp_path, RULE).read_text() == "theirs"
    placement = Placement(tmp_path)
    placement.remove_all()
    assert below(tmp_path, RULE).read_text() == "theirs"


def test_force_overwrites_and_keeps_the_old_one(tmp_path: Path) -> None:
    place(tmp_path, "one")
    below(tmp_path, RULE).write_text("mine")
    assert place(tmp_path, "two", force=True) == ["replace"]
    assert below(tmp_path, RULE).read_text() == "two"
    assert below(tmp_path, RULE).with_name("a.yml.old").read_text() == "mine"


def test_a_rule_that_was_deleted_stays_deleted(tmp_path: Path) -> None:
    place(tmp_path, "one")
    below(tmp_path, RULE).unlink()
    assert place(tmp_path, "two") == ["leave"]
    assert not below(tmp_path, RULE).exists()
    assert place(tmp_path, "two", force=True) == ["write"]


def test_an_edited_file_is_not_bothered_while_the_shipped_one_stays(tmp_path: Path) -> None:
    place(tmp_path, "one")
    below(tmp_path, RULE).write_text("mine")
    assert place(tmp_path, "one") == ["keep"]
    assert not below(tmp_path, RULE).with_name("a.yml.new").exists()


def test_a_unit_that_was_deleted_comes_back(tmp_path: Path) -> None:
    place(tmp_path, "one", editable=False)
    below(tmp_path, RULE).unlink()
    assert place(tmp_path, "one", editable=False) == ["write"]


def test_what_is_no_longer_shipped_goes_unless_edited(tmp_path: Path) -> None:
    place(tmp_path, "one")
    assert place(tmp_path, "b", path=RULE.with_name("b.yml")) == ["write", "remove"]
    assert not below(tmp_path, RULE).exists()
    below(tmp_path, RULE.with_name("b.yml")).write_text("mine")
    assert place(tmp_path, "c", path=RULE.with_name("c.yml")) == ["write", "leave"]


def test_uninstall_leaves_edited_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["install", "--root", str(tmp_path)])
    config = tmp_path / "etc/watchdogd/config.yaml"
    config.write_text("log: {level: debug}\n")
    assert main(["install", "--root", str(tmp_path), "--uninstall"]) == 0
    assert "leave   /etc/watchdogd/config.yaml  (edited)" in capsys.readouterr().out
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {config, below(tmp_path, RECORD_PATH)}


def test_an_update_keeps_the_mode_that_was_set(tmp_path: Path) -> None:
    place(tmp_path, "one")
    below(tmp_path, RULE).chmod(0o600)
    place(tmp_path, "two")
    assert below(tmp_path, RULE).stat().st_mode & 0o777 == 0o600


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "etc").symlink_to(outside)
    with pytest.raises(WatchdogdError, match="leads out of"):
        place(root, "one")
    assert list(outside.iterdir()) == []


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    place(tmp_path, "one")
    below(tmp_path, RECORD_PATH).write_text("{")
    with pytest.raises(WatchdogdError, match="is damaged"):
        Placement(tmp_path)


def test_a_program_that_the_service_cannot_reach(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    program = hidden / "watchdogd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    obstacles = [text for text in find_obstacles([str(program)]) if str(hidden) in text]
    assert obstacles[0] == f"the account watchdogd cannot pass {hidden} (mode 0700), on the way to {program}"


def test_a_program_that_others_could_change(tmp_path: Path) -> None:
    program = tmp_path / "watchdogd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    assert any("may be written by others" in text for text in find_obstacles([str(program)]))
    if os.geteuid() == 0:
        os.chown(program, 12345, -1)
        assert any("belongs to uid 12345" in text for text in find_obstacles([str(program)]))


def test_an_odd_path_is_refused_and_not_quoted_wrongly() -> None:
    with pytest.raises(WatchdogdError, match="cannot stand in a unit file"):
        list_files(["/opt/my dir/watchdogd"], audit_rules=False)


def test_without_root_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["install"]) == 2
    assert "needs root" in capsys.readouterr().err


@pytest.mark.parametrize("path", [UNIT_PATH, STATUS_SERVICE_PATH, STATUS_TIMER_PATH], ids=lambda path: path.name)
def test_the_unit_is_what_systemd_understands(tmp_path: Path, path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (apt-get install systemd)")
    main(["install", "--root", str(tmp_path)])
    unit = below(tmp_path, path)
    verify = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (verify.returncode, verify.stderr) == (0, "")
    if path.suffix == ".timer":
        return
    exposure = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert exposure.returncode == 0, exposure.stdout[-200:]


def test_a_change_is_shown_as_a_diff_before_it_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["install", "--root", str(tmp_path)])
    unit = below(tmp_path, UNIT_PATH)
    shipped = unit.read_text()
    unit.write_text(shipped.replace("WatchdogSec=30", "WatchdogSec=99\x1b[2J"))
    capsys.readouterr()
    assert main(["install", "--root", str(tmp_path), "--force", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"--- {UNIT_PATH}\n+++ {UNIT_PATH}\n@@" in said
    assert "\n-WatchdogSec=99" in said
    assert "\n+WatchdogSec=30\n" in said
    assert "\x1b" not in said
    assert "WatchdogSec=99" in unit.read_text()
    assert main(["install", "--root", str(tmp_path), "--force"]) == 0
    assert unit.read_text() == shipped
    assert main(["install", "--root", str(tmp_path), "--force", "--diff"]) == 0
    assert "@@" not in capsys.readouterr().out.partition("+WatchdogSec=30")[2], "nothing changes any more"


def test_whole_diffs_show_new_files_and_what_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(tmp_path), "--diff"]) == 0
    said = capsys.readouterr().out
    assert f"--- /dev/null\n+++ {UNIT_PATH}\n" in said
    assert "+++ /usr/share/watchdogd/rules/execution/world_writable_directory.yml" in said
    assert main(["install", "--root", str(tmp_path), "--undo", "--diff"]) == 0
    assert f"--- {UNIT_PATH}\n+++ /dev/null\n" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_it_asks(tmp_path: Path, answer: str, code: int) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "watchdogd", "install", "--root", str(tmp_path)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 65536)
        os.write(ours, f"{answer}\n".encode())
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while os.read(ours, 65536):
                pass
        assert process.wait(30) == code
    os.close(ours)
    assert below(tmp_path, UNIT_PATH).exists() == (code == 0)


def test_a_packages_layout_leaves_a_mark_and_no_record(tmp_path: Path) -> None:
    assert main(["install", "--root", str(tmp_path), "--layout", "arch", "--program", "/usr/bin/watchdogd"]) == 0
    assert below(tmp_path, DISTRIBUTION_MARK).is_file()
    assert not below(tmp_path, RECORD_PATH).exists()
    assert (tmp_path / "usr/lib/systemd/system/watchdogd.service").is_file()
    assert not (tmp_path / "usr/local").exists()


def test_a_packages_layout_is_not_for_the_running_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--layout", "arch", "--dry-run"]) == 2
    assert "--root" in capsys.readouterr().err
