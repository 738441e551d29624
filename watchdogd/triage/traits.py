"""What the scorer weighs: named traits of an alert and its background, each with the words that explain it.

What may lower a score rests on what the kernel reports or the package manager knows, never on a name, an argument or a
path that a process chooses for itself; `may_lower` says which traits those are, and training keeps to it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.entities import Level
from watchdogd.triage.features import name_actor
from watchdogd.triage.guard import find_instruction
from watchdogd.triage.policy import INJECTION_REASON
from watchdogd.triage.prompt import host_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.background import Background
    from watchdogd.entities import Alert, Process, Rarity

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
_CRONS = frozenset(("cron", "crond", "anacron", "fcron"))
_SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "mksh"))
_INTERPRETERS = frozenset(("python", "perl", "ruby", "node", "java"))
_SYSTEM_FOLDERS = ("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/lib/", "/usr/libexec/")
_WRITABLE_FOLDERS = ("/tmp/", "/var/tmp/", "/dev/shm/", "/dev/mqueue/", "/run/lock/", "/var/lock/", "/run/user/")  # noqa: S108 - folders that are judged, not used
_USUAL_HIDDEN = re.compile(r"/\.(?:local|cargo|rustup|venv|virtualenvs|pyenv|nvm|npm|rbenv|asdf|dotnet|vscode-server)/")
_HIDDEN = re.compile(r"/\.[^/.][^/]*")
_VERSION = re.compile(r"[-.]?\d[\d.]*$")
_MAX_ANCESTORS = 32
_TOLD_RELATED = 32
_JUDGED_CHARS = 4096
_LONG_COMMAND = 400

_LEVELS = {level: f"level:{level.value}" for level in Level}
_LOWERING = ("level:", "tactic:", "rule:", "below:", "context:", "actor:", "correlation", "interactive", "often_seen")
_LOWERING_EXACTLY = frozenset(("owned_intact", "denied"))
_COMMANDS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("command:address", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"), "the command names an address"),
    ("command:url", re.compile(r"\b(?:https?|ftp|tcp)://", re.IGNORECASE), "the command names a URL"),
    ("command:device", re.compile(r"/dev/(?:tcp|udp)/"), "the command opens a connection by the shell"),
    (
        "command:encoded",
        re.compile(r"base64|b64decode|xxd|fromhex|unhexlify|\\x[0-9a-f]{2}", re.IGNORECASE),
        "encoded text",
    ),
    (
        "command:piped",
        re.compile(r"\|\s*(?:\S*/)?(?:ba|da|z|k)?sh\b|\|\s*(?:\S*/)?(?:python|perl|ruby|php)"),
        "piped to run",
    ),
    ("command:quiet", re.compile(r">\s*/dev/null|2>&1|nohup|setsid|disown|&\s*$"), "output thrown away, or detached"),
    ("command:writable", re.compile(r"(?<![\w.])/(?:tmp|var/tmp|dev/shm|run/user)/"), "a world-writable folder"),
    ("command:hidden", re.compile(r"(?:^|[\s=\"'])(?:/|\./|~/)?(?:[^\s/]+/)*\.[A-Za-z0-9_-]{2,}"), "a hidden file"),
    ("command:secret", re.compile(r"/etc/g?shadow|id_[a-z0-9]+\b|\.aws/|\.kube/|\.pem\b|authorized_keys"), "secrets"),
)


class Trait(NamedTuple):
    """Something that is so of an alert. `value` is 1 where it just is; more where it can be more so."""

    name: str
    value: float
    reason: str
    """Words of ours, none of the host's; empty for what needs no telling."""


def may_lower(name: str) -> bool:
    """Whether this trait may speak against an attack."""
    return name.startswith(_LOWERING) or name in _LOWERING_EXACTLY


def read_traits(alert: Alert, background: Background) -> Iterator[Trait]:
    """Every trait of the alert, each name once."""
    yield Trait(_LEVELS[alert.rule.level], 1, f"rule level {alert.rule.level}")
    yield Trait(f"rule:{alert.rule.id[:8]}", 1, "how often this rule was right")
    for tag in sorted({tag for tag in alert.rule.tags if tag.startswith("attack.") and not tag.startswith("attack.t")}):
        yield Trait(f"tactic:{tag.removeprefix('attack.')[:24]}", 1, "")
    if alert.is_correlation:
        yield Trait("correlation", 1, "several events that mean something together")
    yield from _judge_lineage(alert)
    yield from _judge_actor(alert)
    yield from _judge_path(alert, background)
    yield from _judge_command(alert.process)
    if find_instruction(host_texts(alert)) is not None:
        yield Trait("instruction", 1, INJECTION_REASON)
    yield from _judge_rarity(alert.rarity)
    yield from _judge_related(alert, background)


def _judge_lineage(alert: Alert) -> Iterator[Trait]:
    """One trait per kind of ancestor; the process itself does not vouch for itself."""
    ancestors = alert.lineage[:_MAX_ANCESTORS]
    for kind, words, find in (
        ("web_server", "a web server", _web_server),
        ("database_server", "a database server", lambda p: _program(p, _DATABASES)),
        ("package_manager", "a package manager", lambda p: _trusted(p, _PACKAGE_MANAGERS)),
        ("configuration_management", "configuration management", _config_manager),
        ("scheduled_job", "cron", lambda p: _trusted(p, _CRONS)),
    ):
        name = next((found for ancestor in ancestors if (found := find(ancestor))), None)
        if name is not None:
            yield Trait(f"below:{kind}", 1, f"below {words} ({name})")
    contexts = alert.fields.get("Context")
    for context in sorted({*(contexts if isinstance(contexts, tuple) else (contexts,))} - {None}, key=str):
        yield Trait(f"context:{str(context)[:32]}", 1, "")
    if _is_interactive(alert.process, ancestors):
        yield Trait("interactive", 1, "in an interactive login session")


def _judge_actor(alert: Alert) -> Iterator[Trait]:
    process = alert.process
    if process is None:
        return
    actor, login = name_actor(process.uid), name_actor(process.auid)
    yield Trait(f"actor:{actor}", 1, "")
    if actor == "root" and login == "person":
        yield Trait("actor:elevated", 1, "root by another's login")
    if alert.outcome == "failure":
        yield Trait("denied", 1, "it failed")


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


def _judge_path(alert: Alert, background: Background) -> Iterator[Trait]:
    exe = (alert.process.exe or "") if alert.process is not None else ""
    if exe.endswith(" (deleted)") or exe.startswith(("/memfd:", "memfd:")):
        yield Trait("no_file", 1, "runs from a file that is no longer there or never was on disk")
    if exe.startswith(_WRITABLE_FOLDERS):
        yield Trait("writable_path", 1, "runs from a world-writable folder")
    if _HIDDEN.search(_USUAL_HIDDEN.sub("/", exe)):
        yield Trait("hidden_path", 1, "runs from a hidden path")
    if exe and not exe.startswith((*_SYSTEM_FOLDERS, "/opt/", "/snap/")):
        yield Trait("odd_path", 1, "runs from outside the system's folders")
    package = background.package
    if package is not None and package.intact is not None:
        name, words = ("owned_intact", "as its package") if package.intact else ("altered", "not as its package")
        yield Trait(name, 1, f"the program is {words} installed it")


def _judge_command(process: Process | None) -> Iterator[Trait]:
    """Shapes in the command line; an attacker can avoid them, and nothing is gained by adding them."""
    if process is None:
        return
    command = " ".join(process.argv)
    judged = command[:_JUDGED_CHARS]
    for name, pattern, words in _COMMANDS:
        if pattern.search(judged):
            yield Trait(name, 1, words if words.startswith("the ") else f"the command has {words}")
    if len(command) > _LONG_COMMAND:
        yield Trait("command:long", 1, "the command is long")


def _judge_rarity(rarity: Rarity | None) -> Iterator[Trait]:
    if rarity is None or (rarity.seen < OFTEN and rarity.observed < YOUNG_BASELINE_PATTERNS):
        return
    if rarity.seen == 0:
        yield Trait("never_seen", 1, f"never seen before on this host (of {rarity.observed} patterns)")
    elif rarity.seen < SELDOM:
        times = "once" if rarity.seen == 1 else f"{rarity.seen} times"
        yield Trait("seldom_seen", 1, f"seen only {times} before on this host")
    elif rarity.seen >= OFTEN:
        yield Trait("often_seen", 1, f"seen {rarity.seen} times before on this host")


def _judge_related(alert: Alert, background: Background) -> Iterator[Trait]:
    """What else the session was alerted about: attacks come in several steps, an odd habit in one."""
    others = [other for other in background.related[-_TOLD_RELATED:] if other.rule_id != alert.rule.id]
    rules = {other.rule_id for other in others}
    if rules:
        many = "another rule" if len(rules) == 1 else f"{len(rules)} other rules"
        yield Trait("related:rules", math.log2(1 + len(rules)), f"{many} spoke up about the same session")
    techniques = {technique[:5] for other in others for technique in other.techniques}
    fresh = techniques - {technique[:5] for technique in alert.rule.techniques}
    if fresh:
        yield Trait("related:techniques", math.log2(1 + len(fresh)), "")
    if any(other.level.rank >= Level.HIGH.rank for other in others):
        yield Trait("related:high", 1, "the same session has an alert of level high")
