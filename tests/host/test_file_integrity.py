"""Files changed by real programs under a real auditd: the alert says what and who; a real package is one alert."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon, wait_until
from tests.host import guard
from tests.host.machine import PROGRAM
from tests.host.packagers import Dpkg, Packager, Pacman
from watchdogd.collect.file_look import Looker
from watchdogd.collect.package_changes import Change, PackageChanges
from watchdogd.integrity_desk import HELD_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.host.auditing import Auditd
    from tests.host.conftest import BootMachine
    from tests.host.machine import Machine

pytestmark = [pytest.mark.host, pytest.mark.slow]

RULE = """\
title: Watched file changed
id: 9d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e11
status: test
description: Any change.
level: medium
logsource: {product: linux, category: file_integrity}
detection:
    changed:
        Action: [created, modified, deleted, attributes, packages]
    condition: changed
watchdogd: {group_by: [TargetFilename], cooldown: 0s}
"""
FILES = 300


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "etc"
    (root / "cron.d").mkdir(parents=True)
    for name in ("passwd", "shadow", "sudoers", "cron.d/job"):
        (root / name).write_text(f"{name}\n")
    (root / "tool").write_bytes(b"\x7fELF")
    return root


@pytest.fixture
def start_daemon(tmp_path: Path, auditd: Auditd) -> Iterator[Callable[..., Daemon]]:
    """The daemon on a real audit log (and socket), watching the paths that are given."""
    with contextlib.ExitStack() as stack:

        def start(*paths: Path, netlink: bool = True) -> Daemon:
            for path in paths:
                auditd.add_rule(f"-a always,exit -F arch=b64 -F dir={path} -F perm=wa -k files")
            listed = ", ".join(map(str, paths))
            files = f"paths: [{listed}]\n    special_folders: []\n    cpu_share: 1\n    package_wait_s: 20"
            daemon = stack.enter_context(Daemon(tmp_path, netlink=netlink, files=files))
            daemon.config.write_text(daemon.config.read_text().replace(str(daemon.log), str(auditd.log)))
            (daemon.folder / "rules" / "changed.yml").write_text(RULE)
            daemon.start()
            wait_until(lambda: "the baseline is made" in daemon.said, daemon, 60)
            return daemon

        yield start


def list_alerts(daemon: Daemon) -> list[dict[str, Any]]:
    """All but those about watchdogd's own files: a developer may be at work on them."""
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        found = [json.loads(row[0]) for row in database.execute("SELECT document FROM alerts ORDER BY seq")]
    return [one for one in found if "/watchdogd/" not in one["fields"].get("TargetFilename", "").partition("/tmp/")[0]]


def wait_for(daemon: Daemon, path: Path | str, action: str) -> dict[str, Any]:
    """The alert about a path."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [
            one
            for one in list_alerts(daemon)
            if one["action"] == action and one["fields"].get("TargetFilename", "") == str(path)
        ]
        return bool(found)

    wait_until(look, daemon, 60)
    return found[-1]


def test_the_alert_names_who_changed_what(
    start_daemon: Callable[..., Daemon], auditd: Auditd, root: Path, tmp_path: Path
) -> None:
    guard.require_programs("setcap")
    daemon = start_daemon(root)
    source = tmp_path / "source"
    source.write_text("* * * * * root id\n")
    acts = (
        (["sed", "-i", "s/passwd/evil/", str(root / "passwd")], root / "passwd", "modified", "/usr/bin/sed"),
        (["cp", str(source), str(root / "cron.d")], root / "cron.d" / "source", "created", "/usr/bin/cp"),
        (["mv", str(source), str(root / "cron.d" / "job")], root / "cron.d" / "job", "modified", "/usr/bin/mv"),
        (["chmod", "666", str(root / "shadow")], root / "shadow", "attributes", "/usr/bin/chmod"),
        (["setcap", "cap_net_raw=ep", str(root / "tool")], root / "tool", "attributes", "/usr/sbin/setcap"),
        (["rm", str(root / "sudoers")], root / "sudoers", "deleted", "/usr/bin/rm"),
    )
    for command, path, action, image in acts:
        done = auditd.run_audited(command)
        assert done.returncode == 0, done.stderr
        alert = wait_for(daemon, path, action)
        assert alert["fields"]["Image"] == image, alert["fields"]
        assert alert["fields"]["LogonId"] == str(auditd.login_uid)
        assert alert["process"]["argv"][: len(command)] == command or alert["process"]["comm"] == command[0]
    fields = wait_for(daemon, root / "tool", "attributes")["fields"]
    assert (fields["Capabilities"], fields["Gained"]) == ("cap_net_raw=ep", ["capabilities"])
    fields = wait_for(daemon, root / "shadow", "attributes")["fields"]
    assert (fields["PreviousMode"], fields["Mode"]) == ("0644", "0666")
    assert daemon.stop() == 0
    assert "collect_integrity_unknown_actors_total=0" in daemon.said


def test_who_it_was_comes_from_the_log_alone_as_well(
    start_daemon: Callable[..., Daemon], auditd: Auditd, root: Path
) -> None:
    daemon = start_daemon(root, netlink=False)
    assert auditd.run_audited(["sh", "-c", f"echo x >>{root}/passwd"]).returncode == 0
    alert = wait_for(daemon, root / "passwd", "modified")
    assert alert["fields"]["User"] == "root"
    assert alert["fields"]["Image"].startswith("/usr/bin/")
    daemon.stop()


def test_nobody_is_named_where_audit_did_not_see_it(start_daemon: Callable[..., Daemon], root: Path) -> None:
    daemon = start_daemon(root)
    (root / "passwd").write_text("by this test, which is not audited")
    alert = wait_for(daemon, root / "passwd", "modified")
    assert alert["process"] is None
    assert "Image" not in alert["fields"]
    daemon.stop()


@pytest.fixture(params=[Dpkg(), Pacman()], ids=["dpkg", "pacman"])
def packager(request: pytest.FixtureRequest) -> Packager:
    """Each of them, one after the other."""
    found: Packager = request.param
    guard.require_programs(*found.programs)
    return found


@pytest.fixture
def target(tmp_path: Path, packager: Packager) -> Iterator[Path]:
    """Where the package of the tests puts its files; it is purged afterwards."""
    target = tmp_path.resolve() / "opt"
    target.mkdir()
    yield target
    subprocess.run(packager.purge(), check=False, capture_output=True)


def wait_summaries(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: sum(one["action"] == "packages" for one in list_alerts(daemon)) == count, daemon, 90)
    return [one for one in list_alerts(daemon) if one["action"] == "packages"]


def test_an_upgrade_is_one_alert_and_a_file_that_is_not_the_packages_another(
    start_daemon: Callable[..., Daemon], auditd: Auditd, packager: Packager, target: Path, tmp_path: Path
) -> None:
    first, second = (packager.build(tmp_path, version, target, files=FILES) for version in ("1.0", "2.0"))
    daemon = start_daemon(target)
    assert auditd.run_audited(packager.install(first)).returncode == 0
    (summary,) = wait_summaries(daemon, 1)
    assert summary["fields"]["Package"] == [packager.label("1.0")]
    assert summary["fields"]["FileCount"] == FILES + 2  # their folder and the configuration file
    assert summary["fields"]["Image"] == packager.image
    assert [one["action"] for one in list_alerts(daemon)] == ["packages"]

    assert auditd.run_audited(packager.install(second)).returncode == 0
    evil = target / "bin" / "program7"
    assert auditd.run_audited(["sh", "-c", f"echo evil >{evil}"]).returncode == 0
    _, summary = wait_summaries(daemon, 2)
    assert summary["fields"]["Package"] == [packager.label("2.0")]
    assert summary["fields"]["FileCount"] == FILES  # all but the evil one, and the folder
    alert = wait_for(daemon, evil, "modified")
    assert alert["fields"]["Image"] in {"/usr/bin/dash", "/usr/bin/sh"}
    alone = {one["fields"]["TargetFilename"] for one in list_alerts(daemon) if one["action"] != "packages"}
    assert alone == {str(evil)}

    assert auditd.run_audited(packager.purge()).returncode == 0
    *_, summary = wait_summaries(daemon, 3)
    assert summary["fields"]["FileCount"] >= FILES, list_alerts(daemon)
    daemon.stop()
    assert "collect_integrity_package_errors_total=0" in daemon.said


def test_a_large_upgrade_does_not_keep_others_waiting(
    start_daemon: Callable[..., Daemon], auditd: Auditd, packager: Packager, target: Path, tmp_path: Path
) -> None:
    """More files than may wait at once: those of packages take no room, and what comes behind them is told soon."""
    package = packager.build(tmp_path, "1.0", target, files=HELD_LIMIT + 500)
    daemon = start_daemon(target)
    assert auditd.run_audited(packager.install(package)).returncode == 0
    evil = target / "evil"
    assert auditd.run_audited(["touch", str(evil)]).returncode == 0
    assert wait_for(daemon, evil, "created")["fields"]["Image"] == "/usr/bin/touch"
    summaries = wait_summaries(daemon, 2)
    assert sum(one["fields"]["FileCount"] for one in summaries) == HELD_LIMIT + 502
    assert len(list_alerts(daemon)) == 3
    daemon.stop()


@pytest.mark.parametrize("packager", [Pacman()], indirect=True, ids=["pacman"])
def test_what_pacman_leaves_beside_a_configuration_file_that_was_changed(
    start_daemon: Callable[..., Daemon], auditd: Auditd, packager: Packager, target: Path, tmp_path: Path
) -> None:
    """`.pacnew` is as the package brought it; a file that the new version has no longer goes with the upgrade."""
    first = packager.build(tmp_path, "1.0", target, files=3)
    second = packager.build(tmp_path, "2.0", target, files=2)
    daemon = start_daemon(target)
    assert auditd.run_audited(packager.install(first)).returncode == 0
    wait_summaries(daemon, 1)
    settings = target / "settings.conf"
    settings.write_text("an administrator's\n")
    wait_for(daemon, settings, "modified")
    assert auditd.run_audited(packager.install(second)).returncode == 0
    assert settings.with_name("settings.conf.pacnew").read_text() == "version 2.0\n"
    _, summary = wait_summaries(daemon, 2)
    assert summary["fields"]["Package"] == [packager.label("2.0")]
    assert summary["fields"]["FileCount"] == 4  # two programs, one that is gone, and what is new of the settings
    alone = [one["fields"]["TargetFilename"] for one in list_alerts(daemon) if one["action"] != "packages"]
    assert alone == [str(settings)]
    daemon.stop()


SPEC = """\
Name: tool
Version: 1.0
Release: 3
Summary: a tool
License: none
BuildArch: noarch
%description
A tool.
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/etc
echo program >%{buildroot}/usr/bin/tool
echo settings >%{buildroot}/etc/tool.conf
ln -s tool %{buildroot}/usr/bin/link
%files
/usr/bin/tool
/usr/bin/link
%config(noreplace) /etc/tool.conf
"""


def test_rpms_own_database_explains_its_files(tmp_path: Path) -> None:
    """A package built and installed by a real rpm, below a root of its own."""
    guard.require_programs("rpm", "rpmbuild")
    root = tmp_path.resolve() / "root"
    (root / "var/lib/rpm").mkdir(parents=True)
    spec = tmp_path / "tool.spec"
    spec.write_text(SPEC)
    build = ["rpmbuild", "-bb", "--define", f"_topdir {tmp_path}/build", str(spec)]
    subprocess.run(build, check=True, capture_output=True)
    (package,) = tmp_path.glob("build/RPMS/*/tool-1.0-3.*.rpm")
    install = ["rpm", "--root", str(root), "--dbpath", "/var/lib/rpm", "-i", "--nodeps", str(package)]
    subprocess.run(install, check=True, capture_output=True)
    packages = PackageChanges(root)
    looker = Looker(max_bytes=1 << 20, md5=True)
    paths = (b"/usr/bin/tool", b"/usr/bin/link", b"/etc/tool.conf")
    (root / "etc/tool.conf").write_text("changed since")
    changes = []
    for path in paths:
        look = looker.look_path(os.fsencode(root) + path)
        assert look is not None
        changes.append(Change(path, None, look.state, md5=look.md5, time_ns=look.state.ctime_ns))
    assert packages.explain(changes) == {b"/usr/bin/tool": "tool 1.0-3", b"/usr/bin/link": "tool 1.0-3"}
    assert packages.list_owners(lambda _: True) == dict.fromkeys(paths, "tool")
    gone = Change(b"/usr/bin/tool", changes[0].after, None, "tool", time_ns=changes[0].time_ns)
    assert packages.explain([gone]) == {}  # its package still has it
    subprocess.run(["rpm", "--root", str(root), "--dbpath", "/var/lib/rpm", "-e", "tool"], check=True)
    assert packages.explain([gone]) == {b"/usr/bin/tool": "tool"}
    assert not packages.is_busy()


def test_apt_get_installs_a_package_from_debian(start_daemon: Callable[..., Daemon], auditd: Auditd) -> None:
    """GNU hello, if the mirror can be had: its one program is the only watched file that changes."""
    from pathlib import Path  # noqa: PLC0415 - for the annotations it is not needed

    apt = ["apt-get", "-qq", "-y", "--no-install-recommends"]
    subprocess.run([*apt, "remove", "hello"], check=False, capture_output=True)
    fetched = subprocess.run([*apt, "install", "--download-only", "hello"], capture_output=True, text=True, check=False)
    if fetched.returncode != 0:
        guard.skip_or_fail(f"no mirror of Debian: {fetched.stderr[:200]}")
    daemon = start_daemon(Path("/usr/bin"))
    try:
        assert auditd.run_audited([*apt, "install", "hello"], timeout_s=120).returncode == 0
        (summary,) = wait_summaries(daemon, 1)
        (label,) = summary["fields"]["Package"]
        assert label.startswith("hello ")
        assert summary["fields"]["FileCount"] == 1
        assert summary["fields"]["Image"] == "/usr/bin/dpkg"
        assert len(list_alerts(daemon)) == 1
    finally:
        daemon.stop()
        subprocess.run([*apt, "remove", "hello"], check=False, capture_output=True)


def wait_in_journal(machine: Machine, pattern: str) -> str:
    """Until the journal of the service has a line with it; all of it."""
    said = "journalctl --no-pager -q -o cat -t watchdogd -t python3"
    machine.run("sh", "-c", f"for i in $(seq 400); do {said} | grep -q '{pattern}' && break; sleep 0.1; done")
    journal = machine.run(*said.split()).stdout
    assert re.search(pattern, journal), journal[-4000:]
    return journal


def test_the_packaged_unit_sees_every_file_and_says_what_became_of_it(boot_machine: BootMachine) -> None:
    """As installed, in its sandbox and with its own rules; a container has no audit, so nobody is named."""
    machine = boot_machine()
    machine.run(PROGRAM, "install")
    machine.run("systemctl", "start", "watchdogd")
    wait_in_journal(machine, "file integrity: the baseline is made")
    machine.write("/etc/ld.so.preload", "/usr/lib/evil.so\n")
    machine.run("chmod", "u+s", "/usr/bin/find")
    machine.run("sh", "-c", "echo 'ann:x:0:0::/root:/bin/sh' >>/etc/passwd")
    machine.run("sh", "-c", "mkdir -m 700 -p /root/.ssh && echo key >/root/.ssh/authorized_keys")
    machine.write("/usr/lib/modules/6.1.0/extra/own.ko", "module")
    for title, what in (
        ("Preload File of the Loader Appeared", 'created "/etc/ld.so.preload"'),
        ("Program Gives New Rights", 'changed attributes of "/usr/bin/find" (new rights: setuid; mode 0755 to 4755)'),
        ("Accounts or Groups Changed", 'changed "/etc/passwd" (content)'),
        ("SSH Keys or Settings Changed", 'created "/root/.ssh/authorized_keys"'),
        ("Kernel Module Added", 'created "/usr/lib/modules/6.1.0/extra/own.ko"'),
    ):
        journal = wait_in_journal(machine, title)
        assert what in journal, journal[-4000:]
    status = json.loads(machine.run(PROGRAM, "status", "--format", "json").stdout)
    assert status["ledger"]["complete"]
    assert status["counters"]["collect_integrity_unreadable_total"] == 0
    assert status["counters"]["collect_integrity_unwatched_total"] == 0
    memory_kb = machine.run("sh", "-c", "grep VmRSS /proc/$(systemctl show -P MainPID watchdogd)/status").stdout.split()
    assert int(memory_kb[1]) < 64 * 1024
    machine.run("systemctl", "restart", "watchdogd")
    machine.run("systemctl", "stop", "watchdogd")
