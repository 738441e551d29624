"""The Debian package on each release: installed, enabled, alerting on real audit events, upgraded, removed, purged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.build_deb import build, build_wheel  # noqa: E402 - a script's folder

if TYPE_CHECKING:
    from tests.host.auditing import Auditd
    from tests.host.conftest import BootRelease
    from tests.host.machine import Machine

pytestmark = [pytest.mark.host, pytest.mark.slow]

RELEASES = {"bookworm": "debian12", "trixie": "debian13"}
EXEC_RULE = "-a always,exit -F arch=b64 -S execve,execveat -k exec"
SHADOW_RULE = "-a always,exit -F arch=b64 -F path=/etc/shadow -F perm=rwa -k shadow_access"
SHIPPED = "# watchdogd's configuration."
INSTALL = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-o", "Dpkg::Options::=--force-confold")
TRACES = "find / -xdev -name '*watchdogd*' -not -path '/proc/*' -not -path '/packages/*' -not -path '/var/log/*'"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def make_next(package: Path) -> Path:
    """A later revision: another version, another default configuration, another rule."""
    tree = package.parent / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = (tree / "DEBIAN/control").read_text()
    (tree / "DEBIAN/control").write_text(control.replace("-1~", "-2~"))
    config = tree / "etc/watchdogd/config.yaml"
    config.write_text(config.read_text().replace(SHIPPED, f"{SHIPPED} Of revision 2."))
    later = package.with_name(package.name.replace("-1~", "-2~"))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, later], check=True)
    shutil.rmtree(tree)
    return later


def find_shadow_alerts(machine: Machine) -> list[dict[str, Any]]:
    machine.run("journalctl", "--sync")
    shown = machine.run("journalctl", "--quiet", "--no-pager", "-o", "json", "-t", "watchdogd").stdout
    entries = [json.loads(line) for line in shown.splitlines()]
    return [entry for entry in entries if "/etc/shadow" in entry.get("WATCHDOGD_CMDLINE", "")]


def wait_for_alert(machine: Machine, word: str) -> dict[str, Any]:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        for entry in find_shadow_alerts(machine):
            if word in entry["WATCHDOGD_CMDLINE"]:
                return entry
        time.sleep(0.2)
    raise TimeoutError(machine.run("journalctl", "--no-pager", "-u", "watchdogd", check=False).stdout[-6000:])


@pytest.mark.parametrize("suite", RELEASES)
def test_installed_upgraded_removed_and_purged(
    suite: str, wheel: Path, tmp_path: Path, auditd: Auditd, boot_release: BootRelease
) -> None:
    package = build(RELEASES[suite], wheel, tmp_path / "packages")
    later = make_next(package)
    auditd.add_rule(EXEC_RULE)
    auditd.add_rule(SHADOW_RULE)
    machine = boot_release(suite, {"/packages": package.parent, "/var/log/audit": auditd.folder})

    machine.run(*INSTALL, f"/packages/{package.name}", timeout_s=120)
    assert machine.run("systemctl", "is-enabled", "watchdogd", check=False).stdout.strip() == "disabled"
    machine.run("systemd-analyze", "verify", "--man=no", "watchdogd.service")
    machine.run("systemctl", "enable", "--now", "watchdogd")
    assert machine.run("watchdogd", "version").stdout.count("missing") == 0
    machine.run("watchdogd", "check")
    refused = machine.run("watchdogd", "install", check=False)
    assert (refused.returncode, "package manager" in refused.stderr) == (2, True)
    auditd.run_audited(["cat", "/etc/shadow", "/first"])
    first = wait_for_alert(machine, "/first")
    explained = machine.run("journalctl", "-x", "-q", f"WATCHDOGD_ALERT_ID={first['WATCHDOGD_ALERT_ID']}").stdout
    assert "What to do" in explained
    machine.run("systemctl", "reload", "watchdogd")

    machine.run("sed", "-i", "s/^# watchdogd's configuration./# mine/", "/etc/watchdogd/config.yaml")
    pid = machine.show("watchdogd", "MainPID")
    machine.run(*INSTALL, f"/packages/{later.name}", timeout_s=120)
    assert machine.show("watchdogd", "ActiveState") == "active"
    assert machine.show("watchdogd", "MainPID") != pid
    assert machine.run("systemctl", "is-enabled", "watchdogd").stdout.strip() == "enabled"
    config = machine.run("cat", "/etc/watchdogd/config.yaml").stdout
    assert config.startswith("# mine")
    auditd.run_audited(["cat", "/etc/shadow", "/second"])
    wait_for_alert(machine, "/second")
    assert machine.run("watchdogd", "alerts", "show", first["WATCHDOGD_ALERT_ID"]).stdout
    names = ("WATCHDOGD_ALERT_ID", "MESSAGE_ID")
    told = [[entry[name] for name in names] for entry in find_shadow_alerts(machine)]
    assert told.count([first[name] for name in names]) == 1, "what was told before the upgrade was told again"

    machine.run("apt-get", "remove", "-y", "watchdogd", timeout_s=120)
    assert machine.show("watchdogd", "ActiveState") == "inactive"
    assert machine.run("ls", "/usr/lib/watchdogd", check=False).returncode != 0
    assert machine.run("cat", "/etc/watchdogd/config.yaml").stdout == config
    machine.run("apt-get", "purge", "-y", "watchdogd", timeout_s=120)
    assert machine.run("sh", "-c", TRACES).stdout == ""
    assert machine.run("getent", "passwd", "watchdogd", check=False).stdout == ""
    assert "watchdogd" not in machine.run("systemctl", "--failed", "--quiet").stdout
