"""The doctor on the journal."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.cli.hosts import Host, levels, look
from watchdogd.cli.doctor_journal import check_journald, check_rate, check_reader, check_storage
from watchdogd.config import Config, JournaldSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OFF = Config(journald=JournaldSettings(enabled=False))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A socket that takes records, and a journal on disk."""
    host = Host(tmp_path)
    host.folder("/run/systemd/journal")
    host.file("/var/log/journal/0123/system.journal", "x" * 100)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(host.root / "run/systemd/journal/socket"))
        yield host


def test_a_journal_that_works(host: Host) -> None:
    host.systemd(LoadState="loaded", LogRateLimitIntervalUSec="1s", LogRateLimitBurst=1_000_000)
    site = host.site()
    assert levels(look(check_journald, site)) == {"journald": "ok"}
    assert levels(look(check_storage, site)) == {"journal storage": "ok"}
    assert levels(look(check_rate, site)) == {"journal rate limit": "ok"}


def test_no_journal_and_one_that_died(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert "no journal" in look(check_journald, host.site())["journald"].text
    assert levels(look(check_storage, host.site())) == {"journal storage": "unknown"}
    host.folder("/run/systemd/journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(host.root / "run/systemd/journal/socket"))
    found = look(check_journald, host.site())["journald"]
    assert (found.level, found.mend) == ("error", "systemctl start systemd-journald")


@pytest.mark.parametrize(("storage", "level"), [("none", "error"), ("volatile", "warning"), ("persistent", "ok")])
def test_where_the_journal_is_kept(host: Host, storage: str, level: str) -> None:
    host.file("/etc/systemd/journald.conf", "[Journal]\n#Storage=auto\nStorage=persistent\n")
    host.file("/etc/systemd/journald.conf.d/50-x.conf", f"[Journal]\nStorage={storage}\n")
    assert levels(look(check_storage, host.site())) == {"journal storage": level}


def test_a_journal_in_memory_only(host: Host) -> None:
    (host.root / "var/log/journal/0123/system.journal").unlink()
    assert "nothing to it yet" in look(check_storage, host.site())["journal storage"].text
    (host.root / "var/log/journal/0123").rmdir()
    (host.root / "var/log/journal").rmdir()
    assert "reboot" in look(check_storage, host.site())["journal storage"].text


def test_a_limit_of_the_unit_or_of_journald_itself(host: Host) -> None:
    host.systemd(LoadState="loaded", LogRateLimitIntervalUSec="30s", LogRateLimitBurst=1000)
    assert "1000 records of watchdogd in 30s" in look(check_rate, host.site())["journal rate limit"].text
    host.systemd(LoadState="loaded", LogRateLimitIntervalUSec="0", LogRateLimitBurst="0")
    assert "journald's own limit" in look(check_rate, host.site())["journal rate limit"].text
    host.file("/etc/systemd/journald.conf", "RateLimitIntervalSec=0\n")
    assert levels(look(check_rate, host.site())) == {"journal rate limit": "ok"}


def test_who_may_read_it(host: Host) -> None:
    assert look(check_reader, host.site()) == {}
    host.says("id", "user adm\n")
    assert levels(look(check_reader, host.site(euid=1000))) == {"reading alerts": "ok"}
    host.says("id", "user\n")
    assert levels(look(check_reader, host.site(euid=1000))) == {"reading alerts": "unknown"}


def test_a_journal_that_is_not_wanted(host: Host) -> None:
    site = host.site(OFF)
    assert levels(look(check_journald, site) | look(check_storage, site) | look(check_rate, site)) == {
        "journald": "unknown",
        "journal storage": "unknown",
        "journal rate limit": "unknown",
    }
