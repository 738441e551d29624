"""The embedded evidence score: what speaks for an attack before any model is asked, each point with its reason."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from watchdogd.entities import Level
from watchdogd.triage.guard import find_instruction
from watchdogd.triage.policy import INJECTION_REASON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.entities import Event, Process, Rarity, Rule

# Log-odds, chosen by hand; docs/triage.md explains each.
LEVEL_LOG_ODDS = {
    Level.INFORMATIONAL: -3.0,
    Level.LOW: -2.0,
    Level.MEDIUM: -1.0,
    Level.HIGH: 0.5,
    Level.CRITICAL: 2.0,
}
WEB_SERVER = 1.5
DATABASE = 1.2
PACKAGE_MANAGER = -1.2
CONFIG_MANAGEMENT = -0.8
CRON = -0.3
INTERACTIVE = -0.2
HIDDEN_PATH = 1.2
WRITABLE_PATH = 1.2
NO_FILE = 2.0
NEVER_SEEN = 0.8
SELDOM_SEEN = 0.4
OFTEN_SEEN = -0.8
INSTRUCTION = 2.0

YOUNG_BASELINE_PATTERNS = 50
"""A baseline of fewer patterns calls everything new, so that rarity then says nothing."""
SELDOM = 3
OFTEN = 20

_WEB_SERVERS = frozenset(
    ("apache", "httpd", "nginx", "lighttpd", "caddy", "php", "php-fpm", "php-cgi", "uwsgi", "gunicorn", "uvicorn")
)
_WEB_MODULES = ("django", "flask", "gunicorn", "http.server", "hypercorn", "uvicorn", "uwsgi", "waitress")
_DATABASES = frozenset(("mysqld", "mariadbd", "postgres", "redis-server", "valkey-server", "mongod"))
_PACKAGE_MANAGERS = frozenset(
    ("apt", "apt-get", "aptitude", "dpkg", "rpm", "dnf", "yum", "microdnf", "zypper", "pacman", "apk", "snapd")
)
_CONFIG_MANAGERS = frozenset(("puppet", "chef-client", "cf-agent", "salt-minion", "salt-call"))
_CONFIG_FOLDERS = ("/opt/puppetlabs/", "/opt/saltstack/", "/opt/chef/", "/var/cfengine/bin/")
_CRONS = frozenset(("cron", "crond", "anacron", "atd", "fcron"))
_SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "mksh"))
_INTERPRETERS = frozenset(("python", "perl", "ruby", "node", "java"))
_SYSTEM_FOLDERS = ("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/lib/", "/usr/libexec/")
_WRITABLE_FOLDERS = ("/tmp/", "/var/tmp/", "/dev/shm/", "/dev/mqueue/", "/run/lock/", "/var/lock/", "/run/user/")  # noqa: S108 - folders that are judged, not used
_USUAL_HIDDEN = re.compile(r"/\.(?:local|cargo|rustup|venv|virtualenvs|pyenv|nvm|npm|rbenv|asdf|dotnet|vscode-server)/")
_HIDDEN = re.compile(r"/\.[^/.][^/]*")
_VERSION = re.compile(r"[-.]?\d[\d.]*$")
_MAX_ANCESTORS = 32

_Point = tuple[float, str]


def score_evidence(rule: Rule, event: Event) -> tuple[float, tuple[str, ...]]:
    """0 (nothing speaks for an attack) to 1, and the reasons, strongest first after the rule's level.

    A logistic sum of documented weights over rule level, lineage, the executable's path, text that addresses a
    model, and rarity. What lowers the score rests on the executable's path as the kernel reports it, below system
    folders, never on a name that a process gives itself; what raises it may also rest on arguments. Reasons hold
    no text of the host.
    """
    points = [*_judge_lineage(event), *_judge_path(event.process), *_judge_text(event), *_judge_rarity(event.rarity)]
    points.sort(key=lambda point: -abs(point[0]))
    total = LEVEL_LOG_ODDS[rule.level] + sum(weight for weight, _ in points)
    return round(1 / (1 + math.exp(-total)), 4), (f"rule level {rule.level}", *(reason for _, reason in points))


def _judge_lineage(event: Event) -> Iterator[_Point]:
    """One point per kind of ancestor; the process itself does not vouch for itself."""
    ancestors = event.lineage[:_MAX_ANCESTORS]
    for kind, weight, find in (
        ("a web server", WEB_SERVER, _web_server),
        ("a database server", DATABASE, lambda p: _program(p, _DATABASES)),
        ("a package manager", PACKAGE_MANAGER, lambda p: _trusted(p, _PACKAGE_MANAGERS)),
        ("configuration management", CONFIG_MANAGEMENT, _config_manager),
        ("cron", CRON, lambda p: _trusted(p, _CRONS)),
    ):
        name = next((found for ancestor in ancestors if (found := find(ancestor))), None)
        if name is not None:
            yield weight, f"below {kind} ({name})"
    if _is_interactive(event.process, ancestors):
        yield INTERACTIVE, "in an interactive login session"


def _web_server(process: Process) -> str | None:
    name = _program(process, _WEB_SERVERS)
    if name is not None:
        return name
    if _program(process, _INTERPRETERS) is None:
        return None
    words = {argument.rpartition("/")[2] for argument in process.argv[1:4]}
    return next((module for module in _WEB_MODULES if module in words), None)


def _program(process: Process, names: frozenset[str]) -> str | None:
    """The one of `names` that the executable is called, versions (`php8.2`, `python3`) left off."""
    base = (process.exe or "").rpartition("/")[2]
    return next((name for name in (base, _VERSION.sub("", base)) if name in names), None)


def _trusted(process: Process, names: frozenset[str]) -> str | None:
    """As `_program`, for a root process whose file lies where only root can put one."""
    if process.uid != 0 or not (process.exe or "").startswith(_SYSTEM_FOLDERS):
        return None
    return _program(process, names)


def _config_manager(process: Process) -> str | None:
    """Configuration management brings its own interpreter, in a folder of its own below /opt or /var."""
    if process.uid == 0 and (process.exe or "").startswith(_CONFIG_FOLDERS):
        return "its own interpreter"
    return _trusted(process, _CONFIG_MANAGERS)


def _is_interactive(process: Process | None, ancestors: tuple[Process, ...]) -> bool:
    """A terminal, and a login shell (argv[0] begins with `-`) of the same session above it."""
    if process is None or not (process.tty or "").startswith(("pts", "tty", "/dev/pts", "/dev/tty")):
        return False
    return any(
        _program(p, _SHELLS) and p.session == process.session and p.argv[:1] and p.argv[0].startswith("-")
        for p in (process, *ancestors)
    )


def _judge_path(process: Process | None) -> Iterator[_Point]:
    exe = (process.exe or "") if process is not None else ""
    if exe.endswith(" (deleted)") or exe.startswith(("/memfd:", "memfd:")):
        yield NO_FILE, "runs from a file that is no longer there or never was on disk"
    if exe.startswith(_WRITABLE_FOLDERS):
        yield WRITABLE_PATH, "runs from a world-writable folder"
    if _HIDDEN.search(_USUAL_HIDDEN.sub("/", exe)):
        yield HIDDEN_PATH, "runs from a hidden path"


def _judge_text(event: Event) -> Iterator[_Point]:
    if find_instruction(_texts(event)) is not None:
        yield INSTRUCTION, INJECTION_REASON


def _texts(event: Event) -> Iterator[str]:
    if event.process is not None:
        yield " ".join((*event.process.argv, event.process.cwd or "", event.process.exe or ""))
    for view in event.views:
        for value in view.fields.values():
            values = value if isinstance(value, tuple) else (value,)
            yield from (part for part in values if isinstance(part, str))


def _judge_rarity(rarity: Rarity | None) -> Iterator[_Point]:
    if rarity is None or (rarity.seen < OFTEN and rarity.observed < YOUNG_BASELINE_PATTERNS):
        return
    if rarity.seen == 0:
        yield NEVER_SEEN, f"never seen before on this host (of {rarity.observed} patterns)"
    elif rarity.seen < SELDOM:
        times = "once" if rarity.seen == 1 else f"{rarity.seen} times"
        yield SELDOM_SEEN, f"seen only {times} before on this host"
    elif rarity.seen >= OFTEN:
        yield OFTEN_SEEN, f"seen {rarity.seen} times before on this host"
