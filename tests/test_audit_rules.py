"""systemd/audit.rules: each line is explained, and is taken as a whole on x86_64 and on arm64."""

from __future__ import annotations

import re

from watchdogd.decode.tables import load_tables
from watchdogd.match.audit_lines import read_lines
from watchdogd.resources import find_resource

TEXT = (find_resource("systemd") / "audit.rules").read_text(encoding="utf-8")
RULES = [line for line in TEXT.splitlines() if line.startswith("-a ")]


def test_every_line_is_read_and_says_what_it_is_for() -> None:
    lines = read_lines(TEXT)
    assert [line.text for line in lines] == RULES
    assert [line.text for line in lines if len(line.comment) < 10] == []
    assert [line.text for line in lines if not line.key and not line.never] == []


def test_no_line_is_refused_on_arm64_for_a_call_that_only_x86_has() -> None:
    """auditctl refuses a line as a whole: what arm64 lacks stands in lines of its own."""
    tables = load_tables().syscalls
    x86, arm = (set(tables[name].values()) for name in ("x86_64", "aarch64"))
    for rule in RULES:
        calls = {name for names in re.findall(r"-S (\S+)", rule) for name in names.split(",")}
        assert calls <= x86, rule
        assert calls <= arm or not calls & arm, rule


def test_what_only_x86_has_is_told_by_another_line_on_arm64() -> None:
    """`unlink` without `unlinkat` would leave arm64 blind."""
    arm = set(load_tables().syscalls["aarch64"].values())
    by_key: dict[str, set[str]] = {}
    for line in read_lines(TEXT):
        by_key.setdefault(line.key, set()).update(line.syscalls or {"all"})
    assert [key for key, calls in by_key.items() if not calls & (arm | {"all"})] == []
