"""Last words: an alert about who stopped the watchdog, made up of what signal, /proc and audit tell. Pure.

A stop by way of systemd is a signal from PID 1; who asked systemd is the program that said so shortly before.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Alert, Level, Process, Rule
from watchdogd.own_alerts import OwnEvent, build_own_alert

if TYPE_CHECKING:
    from collections.abc import Iterable

ASKED_WITHIN_MS: Final = 30_000
"""Who asked systemd did so at most so long before; a unit may take a while to be stopped after another."""

_ASKERS: Final = frozenset(
    {"systemctl", "service", "invoke-rc.d", "deb-systemd-invoke", "rc-service", "busctl", "gdbus", "dbus-send"}
)
_HALTERS: Final = frozenset({"reboot", "shutdown", "poweroff", "halt", "telinit"})
_HALTING: Final = frozenset(
    {"reboot", "poweroff", "halt", "kexec", "soft-reboot", "rescue", "emergency", "isolate", "exit", "default"}
)
_STARTING_AGAIN: Final = frozenset({"restart", "try-restart", "reload-or-restart", "try-reload-or-restart"})
_INTERPRETER: Final = re.compile(r"(ba|da|z|k)?sh|busybox|perl[0-9.]*|python[0-9.]*")
_STOPPING: Final = re.compile(
    r"(stop|kill|disable|mask|(cond|try-|force-)?restart|(try-)?reload-or-(try-)?restart|force-reload)$"
    r"|\S*(Stop|Kill|Restart|Disable|Mask)(Unit|UnitFiles)"
)
_UNIT: Final = "watchdogd"


class Actor(msgspec.Struct, frozen=True):
    """A process with its ancestors, parent first."""

    process: Process
    lineage: tuple[Process, ...] = ()


def _rule(number: str, title: str, level: Level, description: str) -> Rule:
    return Rule(
        id=f"0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b7{number}",
        title=title,
        level=level,
        description=description,
        techniques=("T1562.001",),
        path="watchdogd/last_words.py",
        triage="never",
    )


SIGNALLED: Final = _rule(
    "20",
    "The watchdog was stopped by another program's signal",
    Level.HIGH,
    "Administrators stop it by way of systemd; a signal past it is how it is put out of the way.",
)
STOPPED: Final = _rule(
    "21", "The watchdog was stopped", Level.MEDIUM, "By way of systemd. Nothing is seen until it is started again."
)
RESTARTED: Final = _rule(
    "22", "The watchdog was stopped with its host, or to be started again", Level.LOW, "By way of systemd."
)


def find_asker(started: Iterable[Actor]) -> Actor | None:
    """The program that asked systemd to stop us, among those that were started lately, the newest first."""
    return next((actor for actor in started if is_asking(actor.process)), None)


def is_asking(process: Process) -> bool:
    """Whether a program tells systemd to stop our unit, or the host."""
    program, *words = _words(process)
    if program in _HALTERS:
        return True
    if program not in _ASKERS:
        return False
    if _HALTING & set(words):
        return True
    return any(_UNIT in word for word in words) and any(_STOPPING.match(word) for word in words)


def may_ask(argv: tuple[str, ...]) -> bool:
    """Whether a program of these arguments is worth a closer look by `is_asking`."""
    return any(word.rpartition("/")[2] in _ASKERS | _HALTERS for word in argv[:2])


def choose_rule(asker: Actor | None, *, by_manager: bool) -> Rule:
    """How bad it is: worst where somebody went past systemd."""
    if not by_manager:
        return SIGNALLED
    if asker is None:
        return STOPPED
    program, *words = _words(asker.process)
    if program in _HALTERS or (_HALTING | _STARTING_AGAIN) & set(words):
        return RESTARTED
    return STOPPED


def build_last_words(
    name: str,
    pid: int,
    uid: int,
    *,
    sender: Actor | None,
    asker: Actor | None,
    by_manager: bool,
    host: str,
    now_ms: int,
) -> Alert:
    """The alert. `sender` and `asker` are None where nobody could tell who they were."""
    rule = choose_rule(asker, by_manager=by_manager)
    what = describe(name, pid, uid, sender=sender, asker=asker, by_manager=by_manager)
    actor = asker if by_manager else sender
    fields = {"Signal": name, "Detail": what}
    if actor is not None:
        fields |= {"Image": actor.process.exe or "", "CommandLine": " ".join(actor.process.argv)}
    found = OwnEvent(
        rule=rule,
        action="stopped",
        outcome="success",
        time_ms=now_ms,
        began_ms=now_ms,
        number=pid,
        about="stopped",
        reason=what,
        fields=fields,
        matched=("Signal", "Detail"),
        lines=(f"{rule.title}: {what}. {rule.description}",),
    )
    alert = build_own_alert(found, host)
    if actor is None:
        return alert
    return msgspec.structs.replace(alert, process=actor.process, lineage=actor.lineage)


def describe(name: str, pid: int, uid: int, *, sender: Actor | None, asker: Actor | None, by_manager: bool) -> str:
    """Who it was, in words; text of the host in it is as it came."""
    if by_manager:
        if asker is None:
            return f"{name} from systemd; who asked it is not known"
        return f"{name} from systemd, which was asked by {_name(asker.process)}"
    if sender is None:
        return f"{name} from pid {pid}, run by uid {uid}, which is gone and which no record tells of"
    return f"{name} from {_name(sender.process)}"


def _name(process: Process) -> str:
    command = " ".join(process.argv) or process.exe or process.comm or "?"
    user = process.user or f"uid {process.uid}"
    login = process.login or (None if process.auid is None else f"uid {process.auid}")
    behind = f", logged in as {login}" if login is not None and login != user else ""
    return f"`{command}` (pid {process.pid}, run by {user}{behind})"


def _words(process: Process) -> list[str]:
    """The name that a program was called by, then its arguments; of a script, the script's."""
    program = (process.exe or "").rpartition("/")[2]
    names = [word.rpartition("/")[2] for word in process.argv[:2]]
    if not _INTERPRETER.fullmatch(program):
        del names[1:]
    known = next((name for name in (*names, program) if name in _ASKERS | _HALTERS), program)
    return [known, *process.argv[1:]]
