"""The doctor on the kernel's audit: is it on, does auditd write, are the rules loaded, does anything get lost."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Final

from watchdogd.cli.doctor_findings import error, needs_root, ok, unknown, warning
from watchdogd.decode.tables import load_tables
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site

DPKG_SUMS: Final = "/var/lib/dpkg/info/watchdogd.md5sums"
INSTALLED_RULES: Final = "/etc/audit/rules.d/50-watchdogd.rules"
STATUS_FILE: Final = "/run/watchdogd-audit/status"
LEAST_BACKLOG: Final = 8192
NAMED: Final = 6
"""Keys of missing rules that are named; of the others only how many there are."""

_IMMUTABLE: Final = 2
_NUMBER: Final = re.compile(r"([a-z]+[0-9]?)(!=|>=|<=|&=|=|&|>|<)(.*)")
_FILE_TYPES: Final = {  # stat.S_IF...
    "socket": 49152,
    "link": 40960,
    "file": 32768,
    "block": 24576,
    "dir": 16384,
    "character": 8192,
    "fifo": 4096,
}
_ELSEWHERE: Final = "This is a container: the kernel's audit belongs to the host around it."
_LOAD: Final = "augenrules --load"


def check_auditd(site: Site) -> Iterator[Finding]:
    """Whether auditd runs and is the one that the kernel sends its records to."""
    if not site.config.sources.audit_log.enabled:
        yield unknown("auditd", "Not needed: the configuration switches sources.audit_log off.")
        return
    status = read_status(site)
    pid = status.get("pid", 0)
    name = site.name_process(pid) if pid else ""
    running = next((process.pid for process in site.list_processes("auditd")), None)
    if name == "auditd" or (running is not None and not pid):
        yield ok("auditd", f"auditd is running (pid {pid or running}).")
    elif pid and name:
        yield warning(
            "auditd",
            f"The kernel sends its audit to {name} (pid {pid}), not to auditd: nobody writes the audit log.",
            f"systemctl disable --now {shlex.quote(name)}; systemctl enable --now auditd",
        )
    elif site.is_container:
        yield unknown("auditd", f"{_ELSEWHERE} watchdogd can only read a log that is bound in.")
    elif site.exists("/usr/sbin/auditd") or site.exists("/sbin/auditd"):
        yield error("auditd", "auditd is not running: nobody writes the audit log.", "systemctl enable --now auditd")
    else:
        yield error("auditd", "auditd is not installed: nobody writes the audit log.", _name_installer(site, "auditd"))


def check_kernel(site: Site) -> Iterator[Finding]:
    """Whether the kernel records, how much it can hold back, and what it has thrown away."""
    status = read_status(site)
    if not status:
        if site.is_container:
            yield unknown("kernel audit", _ELSEWHERE)
        elif not site.is_root:
            yield needs_root("kernel audit", "The state of the kernel's audit")
        elif not site.has("auditctl"):
            yield unknown("kernel audit", "auditctl is not installed.", _name_installer(site, "auditd"))
        else:
            yield error(
                "kernel audit",
                "The kernel does not answer about its audit: it may be built or started without.",
                "grep -o 'audit=[^ ]*' /proc/cmdline; zgrep CONFIG_AUDITSYSCALL /proc/config.gz",
            )
        return
    if status.get("enabled") == 0:
        yield error("kernel audit", "The kernel's audit is switched off: nothing is recorded.", "auditctl -e 1")
    else:
        locked = " and locked until the next boot" if status.get("enabled") == _IMMUTABLE else ""
        yield ok("kernel audit", f"The kernel's audit is switched on{locked}.")
    yield from _judge_backlog(status)
    lost = status.get("lost", 0)
    if lost:
        more = max(4 * status.get("backlog_limit", 0), LEAST_BACKLOG)
        yield warning(
            "lost records",
            f"The kernel has thrown away {lost} audit records since boot: its backlog was full.",
            f"auditctl -b {more} && auditctl --reset-lost    # and -b {more} in {INSTALLED_RULES}",
        )
    else:
        yield ok("lost records", "The kernel has lost no audit record.")


def _judge_backlog(status: dict[str, int]) -> Iterator[Finding]:
    limit, backlog = status.get("backlog_limit", 0), status.get("backlog", 0)
    if 0 < limit < LEAST_BACKLOG:
        yield warning(
            "backlog",
            f"The kernel holds back at most {limit} records while auditd writes: a burst is lost.",
            f"auditctl -b {LEAST_BACKLOG}    # and -b {LEAST_BACKLOG} in {INSTALLED_RULES}",
        )
    elif limit and backlog * 2 > limit:
        yield warning(
            "backlog",
            f"{backlog} of at most {limit} records wait for auditd: it does not keep up.",
            f"auditctl -b {limit * 4}",
        )
    else:
        yield ok("backlog", f"The kernel can hold back {limit or 'any number of'} records; {backlog} wait now.")


def check_rules(site: Site) -> Iterator[Finding]:
    """Whether the audit rules that our Sigma rules feed on are those of the kernel."""
    check = "audit rules"
    answer = site.ask("auditctl", "-l") if site.is_root else None
    if answer is None or answer.code != 0:
        number = read_status(site).get("rules")
        if number == 0:
            yield error(check, "The kernel has no audit rules: hardly anything is recorded.", _name_loader(site))
        elif site.is_container:
            yield unknown(check, _ELSEWHERE)
        elif not site.is_root:
            seen = f"The kernel has {number} audit rules; which ones" if number else "Which audit rules are loaded"
            yield needs_root(check, seen)
        else:
            yield unknown(check, "auditctl does not list the kernel's rules.", _name_installer(site, "auditd"))
        return
    wanted, source = _read_wanted(site)
    loaded = Counter(filter(None, map(normalise_rule, answer.out.splitlines())))
    missing = [line for line in wanted if normalise_rule(line) not in loaded and _has_place(site, line)]
    if not loaded:
        yield error(check, "The kernel has no audit rules: hardly anything is recorded.", _name_loader(site))
    elif missing:
        keys = list(dict.fromkeys(_read_key(line) for line in missing))
        named = ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
        yield warning(
            check,
            f"The kernel lacks {len(missing)} of the {len(wanted)} rules in {source} ({named}): "
            "`watchdogd rules list --blind` names the Sigma rules that see too little.",
            _name_loader(site),
        )
    else:
        yield ok(check, f"The kernel has every rule of {source} that this host has a place for.")


def check_log(site: Site) -> Iterator[Finding]:
    """Whether the log that watchdogd follows is the one that auditd writes, there, and not for everybody to read."""
    settings, check = site.config.sources.audit_log, "audit log"
    if not settings.enabled:
        yield unknown(check, "Not needed: the configuration switches sources.audit_log off.")
        return
    written = _read_auditd_setting(site, "log_file")
    if written and written != settings.path:
        yield error(
            check,
            f"auditd writes {written}, and watchdogd reads {settings.path}.",
            f"sed -i 's|^#* *log_file *=.*|log_file = {settings.path}|' /etc/audit/auditd.conf && service auditd "
            "restart",
        )
    if _read_auditd_setting(site, "write_logs") == "no":
        yield error(
            check,
            "auditd is told to write no log (write_logs = no).",
            "sed -i 's/^write_logs.*/write_logs = yes/' /etc/audit/auditd.conf && service auditd restart",
        )
    try:
        status = site.path(settings.path).stat()
    except FileNotFoundError:
        yield error(check, f"{settings.path} is not there.", _name_binder(site))
        return
    if status.st_mode & 0o007:
        yield warning(check, f"Every user may read {settings.path}.", f"chmod o-rwx {shlex.quote(settings.path)}")
    if not site.is_root:
        yield ok(check, f"{settings.path} is there.")
        return
    with site.path(settings.path).open("rb") as file:
        begins = file.read(64)
    if begins and b"type=" not in begins:
        yield error(
            check,
            f"{settings.path} does not begin as an audit log does.",
            f"grep -n log_file /etc/audit/auditd.conf; head -c 200 {shlex.quote(settings.path)} | cat -v",
        )
    else:
        yield ok(check, f"{settings.path} can be read.")


def read_status(site: Site) -> dict[str, int]:
    """`auditctl -s`, else what our root timer wrote down of it; empty where neither is to be had."""
    answer = site.ask("auditctl", "-s") if site.is_root else None
    text = answer.out if answer is not None and answer.code == 0 else ""
    if not text:
        try:
            text = site.read(STATUS_FILE)
        except OSError:
            return {}
    return {name: int(number) for name, number in re.findall(r"^([a-z_]+) ([0-9]+)\b", text, re.MULTILINE)}


def normalise_rule(line: str) -> str:
    """A rule so written that what was loaded and what `auditctl -l` says of it are the same; empty for other lines.

    auditctl sorts calls, writes numbers in hexadecimal, `unset` as -1, file types as numbers, and `exe!=` as `exe=`.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return ""
    if not words or words[0] not in {"-a", "-A", "-w"}:
        return ""
    calls: set[str] = set()
    parts: list[str] = []
    for option, value in zip(words[::2], words[1::2], strict=False):
        if option == "-S":
            calls.update(value.split(","))
        elif option == "-k":
            parts.append(f"key={value}")
        elif option == "-p":
            parts.append(f"perm={''.join(sorted(value))}")
        elif option == "-F":
            parts.append(_normalise_field(value))
        else:
            parts.append(",".join(sorted(value.split(","))))
    return " ".join([*parts, "calls", *sorted(calls - {"all"})])


def _normalise_field(text: str) -> str:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    name, operator, value = found.groups()
    if name == "exe":
        operator = "="
    elif name == "perm":
        value = "".join(sorted(value))
    elif name == "filetype":
        value = str(_FILE_TYPES.get(value, value))
    elif value in {"unset", "4294967295"}:
        value = "-1"
    elif re.fullmatch(r"0[xX][0-9a-fA-F]+", value):
        value = str(int(value, 16))
    elif re.fullmatch(r"0[0-7]+", value):  # octal, as strtoul takes it
        value = str(int(value, 8))
    return f"{name}{operator}{value}"


def _read_wanted(site: Site) -> tuple[list[str], str]:
    """The rules that should be there: those installed, which the administrator may have cut, else those shipped."""
    source = INSTALLED_RULES
    try:
        text = site.read(INSTALLED_RULES)
    except FileNotFoundError:
        text, source = (find_resource("systemd") / "audit.rules").read_text(encoding="utf-8"), "watchdogd's set"
    return [line for line in text.splitlines() if normalise_rule(line)], source


def _has_place(site: Site, line: str) -> bool:
    """Whether this kernel can take the line: its calls and a folder must be there, of a file the folder above it."""
    known = set(load_tables().syscalls.get(os.uname().machine, {}).values())
    calls = {call for names in re.findall(r"-S (\S+)", line) for call in names.split(",")}
    if known and not calls <= known | {"all"}:
        return False
    found = re.search(r"-F (dir|path)=(\S+)|-w (\S+)", line)
    if found is None:
        return True
    place = site.path(found[2] or found[3])
    return (place if found[1] == "dir" else place.parent).exists()


def _read_key(line: str) -> str:
    found = re.search(r"(?:-k |key=)(\S+)", line)
    return found[1] if found else "no key"


def _read_auditd_setting(site: Site, name: str) -> str:
    try:
        text = site.read("/etc/audit/auditd.conf")
    except OSError:
        return ""
    found = re.findall(rf"^\s*{name}\s*=\s*(\S+)", text, re.MULTILINE)
    return found[-1] if found else ""


def _name_loader(site: Site) -> str:
    """How the rules come into the kernel."""
    if site.exists(INSTALLED_RULES):
        return _LOAD
    if site.exists(DPKG_SUMS):  # a conffile that was deleted
        return f"apt-get install --reinstall -o Dpkg::Options::=--force-confmiss watchdogd && {_LOAD}"
    return f"watchdogd install --audit-rules && {_LOAD}"


def _name_binder(site: Site) -> str:
    """How the log comes to where it is looked for."""
    if not site.is_container:
        return "systemctl restart auditd"
    try:
        is_machine = "systemd-nspawn" in site.read("/run/systemd/container")
    except OSError:
        is_machine = False
    folder = "/var/log/audit"
    return f"systemd-nspawn --bind-ro={folder}" if is_machine else f"docker run -v {folder}:{folder}:ro"


def _name_installer(site: Site, package: str) -> str:
    """The line by which this host installs a package."""
    if site.has("apt-get"):
        return f"apt-get install {package}"
    if site.has("dnf"):
        return f"dnf install {'audit' if package == 'auditd' else package}"
    if site.has("pacman"):
        return f"pacman -S {'audit' if package == 'auditd' else package}"
    return f"install the package {package}"
