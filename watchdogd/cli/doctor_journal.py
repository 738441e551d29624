"""The doctor on the journal: is it there, does it outlive a boot, does it leave alerts out."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

from watchdogd.cli.doctor_findings import error, needs_root, ok, unknown, warning
from watchdogd.quantities import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site

SOCKET: Final = "/run/systemd/journal/socket"
PERSISTENT: Final = "/var/log/journal"
FOLDERS: Final = ("/usr/lib/systemd/journald.conf.d", "/run/systemd/journald.conf.d", "/etc/systemd/journald.conf.d")
ENOUGH_BURST: Final = 10_000
"""Records in an interval that an attacker's flood may bring without our own being left out."""

_OFF: Final = "Not needed: the configuration switches journald off, alerts go to the webhooks alone."
_KEEP: Final = "mkdir -p /var/log/journal && systemd-tmpfiles --create --prefix /var/log/journal && journalctl --flush"
_STORE: Final = (
    "mkdir -p /etc/systemd/journald.conf.d && printf '[Journal]\\nStorage=persistent\\n' "
    ">/etc/systemd/journald.conf.d/90-persistent.conf && systemctl restart systemd-journald && journalctl --flush"
)


def check_journald(site: Site) -> Iterator[Finding]:
    """Whether somebody takes what is sent to the journal: sending to a dead one succeeds and the record is gone."""
    if not site.config.journald.enabled:
        yield unknown("journald", _OFF)
        return
    path = site.path(SOCKET)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(str(path))
    except FileNotFoundError:
        yield error("journald", "There is no journal on this host: alerts sent to it are gone.", _name_start(site))
    except ConnectionRefusedError:
        yield error(
            "journald",
            "systemd-journald is not running: alerts sent to it are gone.",
            "systemctl start systemd-journald",
        )
    else:
        yield ok("journald", "systemd-journald takes records.")


def _name_start(site: Site) -> str:
    if site.is_container and not site.has_systemd:
        return (
            "docker run -v /run/systemd/journal:/run/systemd/journal    # or journald: {enabled: false} and a webhook"
        )
    return "systemctl start systemd-journald    # or journald: {enabled: false} and a webhook"


def check_storage(site: Site) -> Iterator[Finding]:
    """Whether alerts are still in the journal after a boot."""
    check = "journal storage"
    if not site.config.journald.enabled:
        yield unknown(check, _OFF)
        return
    if not site.exists(SOCKET):
        yield unknown(check, "There is no journal on this host.")
        return
    storage = _read_settings(site).get("Storage", "auto").lower()
    if storage == "none":
        yield error(check, "journald throws everything away (Storage=none).", _STORE)
    elif storage == "volatile":
        yield warning(
            check, "The journal is kept in memory only (Storage=volatile): a reboot takes the alerts with it.", _STORE
        )
    elif not site.exists(PERSISTENT):
        yield warning(check, "The journal is kept in memory only: a reboot takes the alerts with it.", _KEEP)
    else:
        used = ""
        if site.is_root:
            size = sum(path.stat().st_size for path in site.path(PERSISTENT).glob("*/*.journal"))
            if not size:
                yield warning(
                    check, "/var/log/journal is there and journald writes nothing to it yet.", "journalctl --flush"
                )
                return
            used = f", {show_size(size)} by now"
        yield ok(check, f"The journal is kept on disk{used}.")


def check_rate(site: Site) -> Iterator[Finding]:
    """Whether journald may leave alerts out in a storm."""
    check = "journal rate limit"
    if not site.config.journald.enabled:
        yield unknown(check, _OFF)
        return
    shown = site.show_unit("LoadState", "LogRateLimitIntervalUSec", "LogRateLimitBurst")
    if shown.get("LoadState") != "loaded":
        settings = _read_settings(site)
        interval, burst, whose = (
            settings.get("RateLimitIntervalSec", "30s"),
            settings.get("RateLimitBurst", "10000"),
            "journald's own limit",
        )
        if not site.exists(SOCKET):
            yield unknown(check, "There is no journal on this host.")
            return
    else:
        interval, burst, whose = (
            shown.get("LogRateLimitIntervalUSec", "0"),
            shown.get("LogRateLimitBurst", "0"),
            "the unit's limit",
        )
        if (interval, burst) == ("0", "0"):  # not set in the unit: journald's own counts
            settings = _read_settings(site)
            interval, burst = settings.get("RateLimitIntervalSec", "30s"), settings.get("RateLimitBurst", "10000")
            whose = "journald's own limit"
    if interval in {"0", "0s"} or not burst.isdigit() or int(burst) > ENOUGH_BURST:
        yield ok(check, "journald leaves none of watchdogd's records out.")
        return
    yield warning(
        check,
        f"journald takes {burst} records of watchdogd in {interval} ({whose}) and leaves out what is more: a flood "
        "hides "
        "alerts.",
        "mkdir -p /etc/systemd/system/watchdogd.service.d && printf '[Service]\\nLogRateLimitIntervalSec=1s\\n"
        "LogRateLimitBurst=1000000\\n' >/etc/systemd/system/watchdogd.service.d/rate.conf && systemctl daemon-reload "
        "&& systemctl restart watchdogd",
    )


def check_reader(site: Site) -> Iterator[Finding]:
    """Whether this user may read the alerts, and the group that may."""
    if site.is_root or not site.config.journald.enabled:
        return
    answer = site.ask("id", "-nG")
    groups = set(answer.out.split()) if answer is not None else set()
    if groups & {"systemd-journal", "adm", "wheel"}:
        yield ok("reading alerts", "This user may read the journal.")
    else:
        yield needs_root("reading alerts", "The journal of the system (or by members of the group systemd-journal)")


def _read_settings(site: Site) -> dict[str, str]:
    """journald.conf(5) and its drop-ins, the last word counts."""
    files = [site.path("/etc/systemd/journald.conf")]
    drop_ins = {path.name: path for folder in FOLDERS for path in sorted(site.path(folder).glob("*.conf"))}
    files += [drop_ins[name] for name in sorted(drop_ins)]
    settings: dict[str, str] = {}
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        settings.update(re.findall(r"^\s*([A-Za-z]+)\s*=\s*(\S+)", text, re.MULTILINE))
    return settings
