"""The doctor on the kernel's audit. What auditctl says here was recorded of a real one; tests/host asks the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.hosts import Host, levels, look
from watchdogd.cli.doctor_audit import (
    INSTALLED_RULES,
    STATUS_FILE,
    check_auditd,
    check_kernel,
    check_log,
    check_rules,
    normalise_rule,
)
from watchdogd.config import AuditLogSettings, Config, SourcesSettings
from watchdogd.resources import find_resource

LISTED = (Path(__file__).parents[1] / "data" / "auditctl-l.txt").read_text()
SHIPPED = (find_resource("systemd") / "audit.rules").read_text()
LOG = "/var/log/audit/audit.log"
OFF = Config(sources=SourcesSettings(audit_log=AuditLogSettings(enabled=False)))


def status(**changes: int) -> str:
    values = {"enabled": 1, "failure": 1, "pid": 812, "rate_limit": 0, "backlog_limit": 8192, "lost": 0, "backlog": 3}
    return "".join(f"{name} {value}\n" for name, value in (values | changes).items())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """One where all is well."""
    host = Host(tmp_path)
    host.process(812, "auditd")
    host.tool("auditctl", f"[ $1 = -l ] && exec /bin/cat {host.root}/listed; exec /bin/cat {host.root}/status")
    host.file("/listed", LISTED)
    host.file("/status", status())
    host.file(LOG, "type=DAEMON_START msg=audit(1.0:1): op=start\n", mode=0o600)
    return host


def test_a_host_where_auditing_works(host: Host) -> None:
    site = host.site()
    assert levels(look(check_auditd, site)) == {"auditd": "ok"}
    assert levels(look(check_kernel, site)) == {"kernel audit": "ok", "backlog": "ok", "lost records": "ok"}
    assert levels(look(check_rules, site)) == {"audit rules": "ok"}
    assert levels(look(check_log, site)) == {"audit log": "ok"}


def test_auditd_that_does_not_run(host: Host) -> None:
    host.file("/status", status(pid=0))
    host.file("/proc/812/comm", "bash\n")
    assert look(check_auditd, host.site())["auditd"].mend == "install the package auditd"
    host.file("/usr/sbin/auditd")
    found = look(check_auditd, host.site())["auditd"]
    assert (found.level, found.mend) == ("error", "systemctl enable --now auditd")


def test_another_program_that_takes_the_audit_from_auditd(host: Host) -> None:
    host.process(900, "go-audit; reboot")
    host.file("/status", status(pid=900))
    found = look(check_auditd, host.site())["auditd"]
    assert found.level == "warning"
    assert found.mend.startswith("systemctl disable --now 'go-audit; reboot';")


def test_an_ordinary_user_sees_auditd_by_its_name(host: Host) -> None:
    assert levels(look(check_auditd, host.site(euid=1000))) == {"auditd": "ok"}


def test_what_the_kernel_says_of_itself(host: Host) -> None:
    host.file("/status", status(enabled=0, lost=17, backlog_limit=64))
    found = look(check_kernel, host.site())
    assert levels(found) == {"kernel audit": "error", "backlog": "warning", "lost records": "warning"}
    assert found["kernel audit"].mend == "auditctl -e 1"
    assert "17 audit records" in found["lost records"].text
    host.file("/status", status(backlog=8000))
    assert levels(look(check_kernel, host.site()))["backlog"] == "warning"


def test_an_ordinary_user_reads_what_the_timer_wrote_down(host: Host) -> None:
    assert levels(look(check_kernel, host.site(euid=1000))) == {"kernel audit": "unknown"}
    host.file(STATUS_FILE, status(lost=2) + "rules 0\n")
    site = host.site(euid=1000)
    assert levels(look(check_kernel, site))["lost records"] == "warning"
    assert levels(look(check_rules, site)) == {"audit rules": "error"}
    host.file(STATUS_FILE, status() + "rules 80\n")
    assert levels(look(check_rules, site)) == {"audit rules": "unknown"}


def test_every_rule_that_the_kernel_took_is_found_in_its_list() -> None:
    listed = {normalise_rule(line) for line in LISTED.splitlines()}
    lacking = [line for line in SHIPPED.splitlines() if normalise_rule(line) and normalise_rule(line) not in listed]
    folders = ("/root/.", "/var/spool/", "/run/systemd", "/var/lib/systemd/linger", "/www", "/dev/input")
    assert [line for line in lacking if not any(folder in line for folder in folders)] == []
    assert len(lacking) < 12


def test_rules_that_are_missing_are_named_by_their_keys(host: Host) -> None:
    host.file("/listed", "\n".join(line for line in LISTED.splitlines() if "key=exec" not in line))
    found = look(check_rules, host.site())["audit rules"]
    assert found.level == "warning"
    assert "2 of the" in found.text
    assert "(exec)" in found.text
    assert found.mend == "watchdogd install --audit-rules && augenrules --load"


def test_no_rules_at_all(host: Host) -> None:
    host.file("/listed", "No rules\n")
    host.file(INSTALLED_RULES, SHIPPED)
    found = look(check_rules, host.site())["audit rules"]
    assert (found.level, found.mend) == ("error", "augenrules --load")


def test_rules_of_a_package_that_were_deleted(host: Host) -> None:
    host.file("/listed", "No rules\n")
    host.file("/var/lib/dpkg/info/watchdogd.md5sums")
    assert look(check_rules, host.site())["audit rules"].mend.startswith("apt-get install --reinstall -o")


def test_an_administrator_who_cut_the_rules_is_taken_at_his_word(host: Host) -> None:
    host.file("/listed", "-a always,exit -F arch=b64 -S execve -F key=exec\n")
    host.file(INSTALLED_RULES, "-D\n-a always,exit -F arch=b64 -S execve -k exec\n")
    assert levels(look(check_rules, host.site())) == {"audit rules": "ok"}


def test_a_folder_that_is_not_there_needs_no_rule(host: Host) -> None:
    rule = "-a always,exit -F arch=b64 -F dir=/srv/www -F perm=wa -k web_root\n"
    host.file(INSTALLED_RULES, f"-a always,exit -F arch=b64 -S execve,execveat -k exec\n{rule}")
    assert levels(look(check_rules, host.site())) == {"audit rules": "ok"}
    host.folder("/srv/www")
    assert levels(look(check_rules, host.site())) == {"audit rules": "warning"}


def test_a_log_that_is_missing_or_everybodys(host: Host) -> None:
    host.file(LOG, "type=A\n", mode=0o644)
    assert "Every user may read" in look(check_log, host.site())["audit log"].text
    (host.root / LOG.lstrip("/")).unlink()
    assert look(check_log, host.site())["audit log"].level == "error"


def test_auditd_that_writes_elsewhere_or_not_at_all(host: Host) -> None:
    host.file("/etc/audit/auditd.conf", "log_file = /srv/audit.log\n")
    found = look(check_log, host.site())["audit log"]
    assert found.text == f"auditd writes /srv/audit.log, and watchdogd reads {LOG}."
    host.file("/etc/audit/auditd.conf", f"log_file = {LOG}\nwrite_logs = no\n")
    assert "write no log" in look(check_log, host.site())["audit log"].text


def test_a_log_that_is_something_else(host: Host) -> None:
    host.file(LOG, "Nov 23 12:00:00 host sshd[1]: hello\n", mode=0o600)
    assert look(check_log, host.site())["audit log"].level == "error"


def test_in_a_container_the_audit_is_the_hosts(host: Host) -> None:
    host.file("/run/systemd/container", "docker")
    host.file("/status", "")
    host.file("/listed", "")
    host.tool("auditctl", "exit 1")
    host.file("/proc/812/comm", "bash\n")
    site = host.site()
    assert levels(look(check_auditd, site)) == {"auditd": "unknown"}
    assert levels(look(check_kernel, site)) == {"kernel audit": "unknown"}
    assert levels(look(check_rules, site)) == {"audit rules": "unknown"}
    (host.root / LOG.lstrip("/")).unlink()
    assert look(check_log, site)["audit log"].mend.startswith("docker run -v")
    host.file("/run/systemd/container", "systemd-nspawn\n")
    assert look(check_log, site)["audit log"].mend == "systemd-nspawn --bind-ro=/var/log/audit"


def test_a_source_that_is_switched_off_is_not_asked_for(host: Host) -> None:
    site = host.site(OFF)
    assert levels(look(check_auditd, site)) == {"auditd": "unknown"}
    assert levels(look(check_log, site)) == {"audit log": "unknown"}
