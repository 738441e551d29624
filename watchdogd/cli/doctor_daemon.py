"""The doctor asks the running daemon: is it blind, does its ledger add up, what does triage say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdogd.cli.daemon import ask
from watchdogd.cli.doctor_findings import error, needs_root, ok, unknown, warning
from watchdogd.errors import WatchdogdError
from watchdogd.reports import StatusReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site

ANSWER_S: Final = 6.0
_SOURCES: Final = {
    "audit_log": "systemctl status auditd; ls -l /var/log/audit",
    "audit_netlink": "systemctl show watchdogd -p AmbientCapabilities    # CAP_AUDIT_READ; not to be had in containers",
}


def check_daemon(site: Site) -> Iterator[Finding]:
    """What the daemon says of itself by its control socket."""
    path = site.path(site.config.control.path)
    try:
        present = path.exists()
    except PermissionError:
        present = True
    if not present:
        yield unknown("daemon", f"No daemon answers at {site.config.control.path}.", "systemctl start watchdogd")
        return
    if not site.is_root:
        yield needs_root("daemon", "What the running daemon says of itself")
        return
    try:
        report = ask(Path(path), "status", StatusReport, ANSWER_S)
    except WatchdogdError as problem:
        yield error(
            "daemon",
            f"The daemon does not answer: {problem}.",
            "systemctl restart watchdogd; journalctl -u watchdogd -n 30",
        )
        return
    yield ok("daemon", f"watchdogd {report.version} answers (pid {report.pid}), with {report.active} rules.")
    yield from judge_report(report, in_container=site.is_container)


def judge_report(report: StatusReport, *, in_container: bool = False) -> Iterator[Finding]:
    """The daemon's own report as findings."""
    for source in report.sources:
        if not source.running and in_container and source.name == "audit_netlink":
            yield unknown("sources", "The kernel's audit socket is heard on the host only, not in this container.")
        elif not source.running:
            mend = _SOURCES.get(source.name, "journalctl -u watchdogd -n 30 --no-pager")
            judge = error if source.name == "audit_log" else warning
            yield judge("sources", f"{source.name} ({source.reads}) is not read now.", mend)
    if all(source.running for source in report.sources):
        yield ok("sources", "Every source that is switched on is read.")
    if not report.last_load.accepted:
        yield error(
            "rules in force",
            "The last change to rules or settings was refused: older ones are in force.",
            "watchdogd check",
        )
    if report.blind:
        yield error("blindness", f"The daemon says of itself: {'; '.join(report.blind)}.", "watchdogd status")
    else:
        yield ok("blindness", "The daemon is blind to nothing that it knows of.")
    if report.ledger is None:
        yield unknown("ledger", "The database cannot be read now, so the ledger is not known.", "watchdogd status")
    elif report.ledger.complete:
        yield ok("ledger", "complete: yes. Every line, event, alert and delivery is accounted for.")
    else:
        yield error("ledger", f"complete: {report.ledger.describe()}.", "watchdogd status    # and please report it")
    yield from _judge_exam(report)


def _judge_exam(report: StatusReport) -> Iterator[Finding]:
    from watchdogd.cli.models_list import describe_standing  # noqa: PLC0415 - rich, for those who need it

    triage = report.triage
    if triage is None or triage.model is None:
        yield unknown("exam", "Not needed: triage is switched off.")
        return
    text = f"{triage.model}: {describe_standing(triage.standing)}."
    if triage.standing is not None and triage.standing.passed:
        yield ok("exam", text)
    elif triage.standing is None:
        yield warning("exam", text, "watchdogd models exam")
    else:
        yield warning("exam", text, "watchdogd models    # another model; the scorer decides alone until one passes")
    if triage.server != "closed":
        yield warning("triage", "Ollama kept failing and is left alone for a while.", "watchdogd doctor ollama")
