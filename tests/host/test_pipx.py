"""`pipx install`, as docs/install.md says it: a real pipx, into folders of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


def test_pipx_installs_and_its_program_puts_everything_in_place(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    venv.create(tools, with_pip=True)
    pip = [str(tools / "bin/pip"), "install", "-q", "--disable-pip-version-check", "pipx==1.7.1"]
    subprocess.run(pip, check=True, timeout=300)
    environ = os.environ | {
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "USE_EMOJI": "0",
    }
    pipx = [str(tools / "bin/pipx"), "install", "--python", sys.executable, str(ROOT)]
    done = subprocess.run(pipx, env=environ, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    program = tmp_path / "bin/watchdogd"
    version = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
    assert "missing" not in version
    command = [str(program), "install", "--root", str(tmp_path / "root")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    unit = (tmp_path / "root/etc/systemd/system/watchdogd.service").read_text()
    [start] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    started = start.removeprefix("ExecStart=").split()[0]
    assert started.startswith(str(tmp_path / "pipx/venvs/watchdogd/bin/"))
    assert subprocess.run([started, "version"], capture_output=True, text=True, check=True).stdout == version
