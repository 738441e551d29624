from __future__ import annotations

import json
import platform
import sqlite3
from typing import TYPE_CHECKING

from watchdogd import __version__
from watchdogd.cli.main import main

if TYPE_CHECKING:
    import pytest


def test_one_version_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["watchdogd"] == __version__
    assert lines["Python"] == platform.python_version()
    assert lines["SQLite"] == sqlite3.sqlite_version
    assert "missing" not in lines.values()


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--format", "json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["watchdogd"] == __version__
    assert {"msgspec", "pysigma", "psutil"} < versions.keys()
