"""The doctor on watchdogd's own files."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from tests.cli.hosts import Host, levels, look
from watchdogd.cli.doctor_audit import INSTALLED_RULES
from watchdogd.cli.doctor_files import check_readers, check_rules, check_untouched, check_writers, judge_distribution
from watchdogd.cli.placement import RECORD_PATH
from watchdogd.config import Config, StoreSettings
from watchdogd.webhook_settings import WebhookSettings

RULE = "/usr/share/watchdogd/rules/a/b.yml"
UNIT = "/etc/systemd/system/watchdogd.service"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    for name in (RULE, UNIT, INSTALLED_RULES, "/etc/watchdogd/rules/own.yml", str(Path(metadata.__file__).parent)):
        host.file(f"{name}.x" if name.startswith("/usr/lib") else name, f"content of {name}")
    return host


def writers(host: Host) -> str:
    """What is said of files that belong to the system."""
    finding = look(check_writers, host.site())["writers"]
    return finding.text if finding.level == "error" else finding.level


@needs_root
def test_files_that_only_root_may_change(host: Host) -> None:
    assert writers(host) == "ok"


@needs_root
@pytest.mark.parametrize("name", [RULE, UNIT, "/usr/share/watchdogd", "/etc/watchdogd/rules/own.yml"])
def test_a_file_or_folder_that_others_may_write(host: Host, name: str) -> None:
    path = host.root / name.lstrip("/")
    path.chmod(0o777)
    finding = look(check_writers, host.site())["writers"]
    assert finding.text == f"Others than root could change the watchdog: {name} may be written by others (mode 0777)."
    assert finding.mend == f"chmod go-w {name}"


@needs_root
def test_a_file_that_belongs_to_somebody(host: Host) -> None:
    os.chown(host.root / RULE.lstrip("/"), 4242, 0)
    finding = look(check_writers, host.site())["writers"]
    assert f"{RULE} belongs to uid 4242" in finding.text
    assert finding.mend == f"chown root: {RULE}"


def test_secrets_and_alerts_are_not_for_everybody(tmp_path: Path) -> None:
    host = Host(tmp_path)
    hook = WebhookSettings(name="ops", url="https://x.example", secret_file="ops.secret")
    config = Config(store=StoreSettings(path="/var/lib/w.db"), webhooks=(hook,), path="/etc/watchdogd/config.yaml")
    host.file("/var/lib/w.db", mode=0o600)
    secret = host.file("/etc/watchdogd/ops.secret", mode=0o640)
    assert levels(look(check_readers, host.site(config, euid=os.geteuid()))) == {"readers": "ok"}
    secret.chmod(0o644)
    finding = look(check_readers, host.site(config))["readers"]
    assert finding.level == "error"
    assert "ops.secret (a secret of webhook ops)" in finding.text
    assert finding.mend == "chmod o-rwx /etc/watchdogd/ops.secret"
    secret.chmod(0o600)
    (host.root / "var/lib/w.db").chmod(0o604)
    assert "the database" in look(check_readers, host.site(config))["readers"].text


def test_what_was_placed_is_compared_with_the_record(host: Host) -> None:
    assert levels(look(check_untouched, host.site()))["own files"] == "unknown"
    record = {
        name: hashlib.sha256((host.root / name.lstrip("/")).read_bytes()).hexdigest()
        for name in (RULE, UNIT, INSTALLED_RULES)
    }
    host.file(str(RECORD_PATH), json.dumps(record))
    assert look(check_untouched, host.site())["own files"].text.startswith("All 3 files are as they were installed")
    host.file(INSTALLED_RULES, "an administrator's")
    assert levels(look(check_untouched, host.site()))["own files"] == "ok"
    host.file(RULE, "an attacker's")
    (host.root / UNIT.lstrip("/")).unlink()
    found = look(check_untouched, host.site())["own files"]
    assert found.level == "error"
    assert f"{RULE} changed; {UNIT} gone" in found.text
    assert found.mend.startswith("watchdogd install --force")


def test_a_packages_own_sums(host: Host) -> None:
    content = (host.root / RULE.lstrip("/")).read_bytes()
    left_out = "".join(
        f"{'0' * 32}  usr/share/{name}\n" for name in ("doc/watchdogd/api.md", "man/man8/watchdogd.8.gz")
    )
    sums = f"{left_out}{hashlib.md5(content).hexdigest()}  {RULE.lstrip('/')}\n"
    host.file("/var/lib/dpkg/info/watchdogd.md5sums", sums)
    found = look(check_untouched, host.site())  # alone: pip's record is of before it was packed
    assert {name: finding.text for name, finding in found.items()} == {
        "own files": "All 1 files are as they were installed, by dpkg's record."
    }
    host.file("/usr/share/man/man8/watchdogd.8.gz", "an attacker's")
    assert "watchdogd.8.gz changed" in look(check_untouched, host.site())["own files"].text
    host.file(RULE, "an attacker's")
    assert look(check_untouched, host.site())["own files"].mend.startswith("apt-get install --reinstall watchdogd")


def test_pacmans_record_of_the_package(host: Host) -> None:
    """Its configuration files are there to be changed; `.PKGINFO` is of the package, not of the host."""
    digest = hashlib.sha256((host.root / RULE.lstrip("/")).read_bytes()).hexdigest()
    mtree = f"/set type=file\n./.PKGINFO size=1 sha256digest={'0' * 64}\n./usr type=dir\n"
    mtree += f".{RULE} sha256digest={digest}\n.{INSTALLED_RULES} sha256digest={'0' * 64}\n"
    folder = host.file("/var/lib/pacman/local/watchdogd-0.1.0-1/files", "%FILES%\n").parent
    (folder / "mtree").write_bytes(gzip.compress(mtree.encode()))
    found = look(check_untouched, host.site())  # alone: pip's record is of before it was packed
    assert {name: finding.text for name, finding in found.items()} == {
        "own files": "All 2 files are as they were installed, by pacman's record."
    }
    host.file(RULE, "an attacker's")
    found = look(check_untouched, host.site())
    assert f"by pacman's record: {RULE} changed." in found["own files"].text
    assert found["own files"].mend.startswith("pacman -Qkk watchdogd;")
    (folder / "mtree").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="mtree: "):
        look(check_untouched, host.site())


def test_a_credential_that_everybody_may_read(host: Host) -> None:
    path = host.file("/etc/watchdogd/credentials/ops.url", mode=0o600)
    assert levels(look(check_readers, host.site(euid=os.geteuid()))) == {"readers": "ok"}
    path.chmod(0o644)
    assert look(check_readers, host.site())["readers"].mend == "chmod o-rwx /etc/watchdogd/credentials/ops.url"


def test_the_program_is_compared_with_what_pip_wrote(tmp_path: Path) -> None:
    info = tmp_path / "watchdogd-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watchdogd\nVersion: 1\n")
    module = tmp_path / "watchdogd" / "x.py"
    module.parent.mkdir()
    module.write_text("print()")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"print()").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"watchdogd/x.py,sha256={digest},7\nwatchdogd/__pycache__/x.pyc,,\n")
    assert (
        judge_distribution(metadata.PathDistribution(info)).text == "The program's 1 files are as they were installed."
    )
    module.write_text("import socket")
    changed = judge_distribution(metadata.PathDistribution(info))
    assert (changed.level, "watchdogd/x.py changed or gone" in changed.text) == ("error", True)
    (info / "direct_url.json").write_text('{"url": "file:///src", "dir_info": {"editable": true}}')
    assert judge_distribution(metadata.PathDistribution(info)).level == "unknown"


def test_settings_and_rules_are_loaded_as_a_start_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rules = tmp_path / "rules"
    rules.mkdir()
    rule = rules / "r.yml"
    text = (Path(__file__).parents[2] / "rules/defense-evasion/log_overwritten.yml").read_text()
    rule.write_text(text)
    path = tmp_path / "config.yaml"
    path.write_text("log: {level: info}\n")
    host = Host(tmp_path)
    config = Config(path=str(path))
    assert levels(look(check_rules, host.site(config))) == {"settings and rules": "ok"}
    rule.write_text(text.replace("condition: log", "condition: lgo"))
    found = look(check_rules, host.site(config))["settings and rules"]
    assert found.level == "error"
    assert "1 mistake: a start would be refused." in found.text
    assert "r.yml:" in found.text
