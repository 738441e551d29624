"""The doctor on the service: installed, enabled, running, and inside the sandbox that its unit promises."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from watchdogd.cli.doctor_findings import error, ok, unknown, warning
from watchdogd.quantities import show_size
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site

UNIT: Final = "watchdogd.service"
CAPABILITIES: Final = {2: "CAP_DAC_READ_SEARCH", 19: "CAP_SYS_PTRACE", 37: "CAP_AUDIT_READ"}
"""What the unit grants, by number (linux/capability.h)."""

USUAL_BYTES: Final = 160 << 20
_FILTERING: Final = "2"
_SHOWN: Final = (
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "NRestarts",
    "MemoryMax",
)
_NO_SYSTEMD: Final = "No systemd runs here: whoever starts watchdogd must see to it."
_WEIGHTY: Final = re.compile(
    r"^\s*(Exec\w+|User|Group|DynamicUser|NoNewPrivileges|CapabilityBoundingSet|AmbientCapabilities|SystemCall\w+|"
    r"Protect\w+|Private\w+|Restrict\w+|ReadWritePaths|WatchdogSec|Restart|Environment\w*|MemoryMax)\s*=",
    re.MULTILINE,
)
_YES: Final = ("yes", "true", "1", "on")


def check_unit(site: Site) -> Iterator[Finding]:
    """Whether the service is there, comes back after a boot, and runs."""
    shown = site.show_unit(*_SHOWN)
    if not shown:
        yield unknown("service", _NO_SYSTEMD)
        return
    load = shown.get("LoadState", "")
    if load == "masked":
        yield error(
            "service",
            "watchdogd.service is masked: it cannot be started.",
            "systemctl unmask watchdogd && systemctl enable --now watchdogd",
        )
        return
    if load != "loaded":
        yield error(
            "service", "watchdogd.service is not installed.", "watchdogd install && systemctl enable --now watchdogd"
        )
        return
    yield from _judge_state(shown)
    if shown.get("NeedDaemonReload") == "yes":
        yield warning(
            "unit file",
            "The unit was changed and systemd has not read it yet.",
            "systemctl daemon-reload && systemctl restart watchdogd",
        )
    yield from _judge_drop_ins(site, shown)


def _judge_state(shown: dict[str, str]) -> Iterator[Finding]:
    state = shown.get("ActiveState", "")
    if state in {"active", "reloading"}:
        restarts = shown.get("NRestarts", "0")
        if restarts not in {"", "0"}:
            yield warning(
                "service",
                f"watchdogd is running, after {restarts} restarts that nobody asked for.",
                "journalctl -u watchdogd -p warning -n 50 --no-pager",
            )
        else:
            yield ok("service", f"watchdogd is running (pid {shown.get('MainPID')}).")
    elif state == "failed":
        yield error(
            "service", f"watchdogd has failed ({shown.get('Result')}).", "journalctl -u watchdogd -n 50 --no-pager"
        )
    else:
        yield error("service", f"watchdogd is not running ({state}).", "systemctl start watchdogd")
    enabled = shown.get("UnitFileState", "")
    if enabled in {"enabled", "static", "enabled-runtime", "linked", "alias", "generated", "indirect"}:
        yield ok("start at boot", "watchdogd starts with the host.")
    else:
        yield warning(
            "start at boot",
            f"watchdogd does not start with the host ({enabled or 'unknown'}).",
            "systemctl enable watchdogd",
        )


def _judge_drop_ins(site: Site, shown: dict[str, str]) -> Iterator[Finding]:
    """Drop-ins are how the unit is meant to be changed, by the administrator and by whoever wants it blind."""
    paths = shown.get("DropInPaths", "").split()
    weighty: list[str] = []
    for path in paths:
        try:
            names = list(dict.fromkeys(_WEIGHTY.findall(site.read(path))))
        except OSError:
            names = ["unreadable"]
        if names:
            weighty.append(f"{path} ({', '.join(names[:5])})")
    if weighty:
        yield warning(
            "drop-ins",
            f"What the service runs, or its sandbox, is changed by {', '.join(weighty)}. Is that yours?",
            "systemctl cat watchdogd",
        )
    elif paths:
        yield ok("drop-ins", f"The unit is changed in small ways by {', '.join(paths)}.")
    else:
        yield ok("drop-ins", "The unit is as it was installed: no drop-in changes it.")


def check_sandbox(site: Site) -> Iterator[Finding]:
    """Whether the kernel holds the running daemon to what the unit says; what systemd promises is compared, too."""
    shown = site.show_unit("LoadState", "MainPID", "FragmentPath")
    pid = int(shown.get("MainPID", "0") or 0)
    if not shown or not pid:
        yield unknown("sandbox", _NO_SYSTEMD if not shown else "watchdogd is not running.")
        return
    try:
        status = dict(re.findall(r"^(\w+):\s*(.*)$", site.read(f"/proc/{pid}/status"), re.MULTILINE))
    except FileNotFoundError:
        yield unknown("sandbox", f"The daemon (pid {pid}) is hidden or gone.")
        return
    gaps = list(_find_gaps(status))
    if gaps:
        yield error(
            "sandbox",
            f"The daemon (pid {pid}) is not held as its unit should hold it: {'; '.join(gaps)}.",
            "systemctl cat watchdogd && systemctl daemon-reload && systemctl restart watchdogd",
        )
    else:
        yield ok(
            "sandbox",
            "The kernel holds the daemon: no new privileges, system calls filtered, three capabilities at most, not "
            "root.",
        )
    yield from _compare_promises(site)
    yield from _judge_memory(status)


def _find_gaps(status: dict[str, str]) -> Iterator[str]:
    """What of the sandbox is not in force, by /proc/PID/status (proc(5))."""
    if status.get("NoNewPrivs") != "1":
        yield "it may gain privileges"
    if status.get("Seccomp") != _FILTERING:
        yield "no system call is filtered"
    held = int(status.get("CapEff", "0"), 16)
    more = [number for number in range(64) if held >> number & 1 and number not in CAPABILITIES]
    if more:
        yield f"it holds {len(more)} capabilities too many (CapEff {status['CapEff']})"
    if status.get("Uid", "").split()[:1] == ["0"]:
        yield "it runs as root"


def _compare_promises(site: Site) -> Iterator[Finding]:
    """Settings of the shipped unit that say yes or strict, against what systemd has."""
    wanted = read_promises((find_resource("systemd") / UNIT).read_text(encoding="utf-8"))
    shown = site.show_unit(*wanted)
    weaker = [
        f"{name}={shown[name]} instead of {value}"
        for name, value in wanted.items()
        if name in shown and not _is_as_strict(shown[name], value)
    ]
    if weaker:
        yield warning(
            "unit settings",
            f"systemd holds the service less strictly than the unit that was shipped: {', '.join(weaker[:6])}.",
            "systemctl cat watchdogd    # `watchdogd install` brings the shipped unit back",
        )
    elif shown:
        yield ok("unit settings", f"The {len(wanted)} settings of the shipped sandbox are in force.")


def read_promises(unit: str) -> dict[str, str]:
    """Settings of a unit that restrict it by a plain yes or a level; the last word counts."""
    found = re.findall(
        r"^((?:Protect|Private|Restrict|Lock|Memory|NoNew|RemoveIPC)\w*)=([a-z-]+)\s*$", unit, re.MULTILINE
    )
    return {name: value for name, value in found if name not in {"RestrictAddressFamilies", "MemoryMax"}}


def _is_as_strict(has: str, wanted: str) -> bool:
    if wanted in _YES:
        return has not in {"no", "false", "0", "off", ""}
    if wanted == "read-only":
        return has in {"read-only", "yes", "tmpfs"}
    return has == wanted


def _judge_memory(status: dict[str, str]) -> Iterator[Finding]:
    size = int(status.get("VmRSS", "0 kB").split()[0]) * 1024
    if not size:
        return
    if size > USUAL_BYTES:
        yield warning(
            "daemon memory",
            f"The daemon takes {show_size(size)}, more than twice what is usual.",
            f"systemctl status {shlex.quote(UNIT)}; watchdogd status",
        )
    else:
        yield ok("daemon memory", f"The daemon takes {show_size(size)}.")
