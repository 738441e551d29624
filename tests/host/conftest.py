"""Real parts for tests marked `host`: auditd, journald, receiver, machine. Nothing runs where the guard refuses."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.host import guard
from tests.host.auditing import Auditd
from tests.host.journal import JOURNALD, Journald
from tests.host.machine import SITE, Machine, build_base, build_package, build_release
from tests.host.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@pytest.fixture(scope="session")
def safe_host() -> Iterator[None]:
    """Refuse a real host; else hold the one lock for the rest of the session."""
    machine = guard.look_at_machine()
    early = guard.find_refusal(guard.Machine(euid=machine.euid, init=machine.init, auditd_pid=0), os.environ)
    if early:
        guard.skip_or_fail(early)
    with guard.hold_lock():
        refusal = guard.find_refusal(guard.look_at_machine(), os.environ)  # under the lock nobody else's auditd is left
        if refusal:
            guard.skip_or_fail(refusal)
        yield


@pytest.fixture(autouse=True)
def _guard_host(request: pytest.FixtureRequest) -> None:
    """No test marked `host` runs without the guard, whatever fixtures it uses. An emulated host is another one."""
    markers = {marker.name for marker in request.node.iter_markers()}
    if "host" in markers and "qemu" not in markers:
        request.getfixturevalue("safe_host")


class StartAuditd(Protocol):
    """`Auditd`'s options."""

    def __call__(self, *, log_format: str = ..., max_log_file_mb: int = ..., num_logs: int = ...) -> Auditd:
        """Start auditd; it ends with the test."""


@pytest.fixture
def start_auditd(safe_host: None, tmp_path: Path) -> Iterator[StartAuditd]:  # noqa: ARG001 (the guard)
    """Starts an auditd with options of its own."""
    guard.require_programs("auditd", "auditctl")
    with contextlib.ExitStack() as stack:

        def start(*, log_format: str = "RAW", max_log_file_mb: int = 0, num_logs: int = 5) -> Auditd:
            folder = tmp_path / "auditd"
            folder.mkdir(mode=0o700)
            auditd = Auditd(folder, log_format=log_format, max_log_file_mb=max_log_file_mb, num_logs=num_logs)
            return stack.enter_context(auditd)

        yield start


@pytest.fixture
def auditd(start_auditd: StartAuditd) -> Auditd:
    """A real auditd writing RAW; add rules with `add_rule`, start processes with `run_audited`."""
    return start_auditd()


@pytest.fixture
def journald(safe_host: None) -> Iterator[Journald]:  # noqa: ARG001 (the guard)
    """A real journald; `entries` asks journalctl."""
    guard.require_programs("journalctl", JOURNALD)
    with Journald() as journald:
        yield journald


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A real HTTP receiver that stores what it gets."""
    with Receiver() as receiver:
        yield receiver


class BootMachine(Protocol):
    """`Machine`'s options."""

    def __call__(self, binds: Mapping[str, Path] | None = None) -> Machine:
        """Boot a machine; it ends with the test."""


@pytest.fixture
def boot_machine(safe_host: None, tmp_path: Path) -> Iterator[BootMachine]:  # noqa: ARG001 (the guard)
    """Boots a Debian with systemd and this checkout's wheel in it."""
    guard.require_programs("mmdebstrap", "systemd-nspawn")
    with contextlib.ExitStack() as stack:

        def boot(binds: Mapping[str, Path] | None = None) -> Machine:
            (tmp_path / "wheel").mkdir()
            package = build_package(tmp_path / "wheel")
            binds = {str(SITE / "watchdogd"): package, **(binds or {})}
            return stack.enter_context(Machine(build_base(), tmp_path / "console", binds))

        yield boot


class BootRelease(Protocol):
    """A release's name and `Machine`'s options."""

    def __call__(self, suite: str, binds: Mapping[str, Path] | None = None) -> Machine:
        """Boot a machine; it ends with the test."""


@pytest.fixture
def boot_release(safe_host: None, tmp_path: Path) -> Iterator[BootRelease]:  # noqa: ARG001 (the guard)
    """Boots a release of Debian as it is, without watchdogd."""
    guard.require_programs("mmdebstrap", "systemd-nspawn")
    with contextlib.ExitStack() as stack:

        def boot(suite: str, binds: Mapping[str, Path] | None = None) -> Machine:
            return stack.enter_context(Machine(build_release(suite), tmp_path / "console", binds))

        yield boot


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each check of a real part with its time, in the order they ran."""
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    ours = [report for report in reports if isinstance(report, pytest.TestReport) and "host" in report.keywords]
    lines: dict[str, tuple[float, float, str]] = {}
    for report in sorted(ours, key=lambda report: report.start):
        check_s, ready_s, outcome = lines.get(report.nodeid, (0.0, 0.0, "passed"))
        if report.when == "call":
            check_s += report.duration
        else:
            ready_s += report.duration
        lines[report.nodeid] = (check_s, ready_s, outcome if report.passed else report.outcome)
    if not lines:
        return
    terminalreporter.section("real parts: seconds of each check, and of what was made ready for it")
    for name, (check_s, ready_s, outcome) in lines.items():
        terminalreporter.line(f"{check_s:7.1f} {ready_s:7.1f}  {outcome:8}{name.removeprefix('tests/host/')}")
