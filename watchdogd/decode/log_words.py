"""What programs say in the system's log: sshd, sudo, su, cron and PAM, as fields that rules ask about.

Formats: OpenSSH's auth.c and auth2.c, sudo's logging.c (`USER=` and the others are sudo's own names, as SigmaHQ's rules
have them), util-linux' and shadow's su, Vixie cron's log_it, Linux-PAM's pam_unix. Names that a stranger typed stand in
the middle of these lines: patterns are anchored at both ends and give what a stranger may write all that it can be, so
that a user called `root from 10.0.0.1 port 22` changes neither address nor port.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from watchdogd.entities import FieldMap

LONGEST_CHARS: Final = 8192
"""Of a message that is looked through; what is behind it stays in `Message`."""

_FROM: Final = r" from (?P<SourceIp>[0-9A-Fa-f.:%\w-]+) port (?P<SourcePort>\d{1,5})"
_PEER: Final = r"(?P<SourceIp>[0-9A-Fa-f.:%\w-]+)"
_MANY: Final = r"(?:error: )?maximum authentication attempts exceeded for (?P<Unknown>invalid user )?(?P<User>.*)"
_LEFT: Final = r"(?:Connection (?:closed|reset) by|Disconnected from) (?:authenticating|(?P<Unknown>invalid)) user "
_REFUSED: Final = (
    r"user NOT in sudoers|command not allowed|\d{1,6} incorrect password attempts?|a password is required"
    r"|user NOT authorized on host|[^;=]{1,200}?"
)
_PAM_WHERE: Final = r"logname=[^=]{0,256} uid=\d* euid=\d* tty=(?P<TTY>\S*) ruser=[^=]{0,256} rhost=(?P<SourceIp>\S*)"
_SSHD: Final = (
    ("accepted", "success", rf"Accepted (?P<Method>\S+) for (?P<User>.*){_FROM}(?: ssh2)?(?:: .*)?"),
    (
        "failed",
        "failure",
        rf"Failed (?P<Method>\S+) for (?P<Unknown>invalid user )?(?P<User>.*){_FROM}(?: ssh2)?(?:: .*)?",
    ),
    ("invalid_user", "failure", rf"(?P<Unknown>Invalid user) (?P<User>.*){_FROM}"),
    ("too_many_failures", "failure", rf"{_MANY}{_FROM}(?: ssh2)?(?: \[preauth\])?"),
    ("closed", "failure", rf"{_LEFT}(?P<User>.*) {_PEER} port (?P<SourcePort>\d{{1,5}})(?: \[preauth\])?"),
    ("not_allowed", "failure", rf"User (?P<User>.*) from {_PEER} not allowed because (?P<Reason>.*)"),
)
_SUDO: Final = (
    ("refused", "failure", rf"\s*(?P<User>\S+) : (?P<Reason>{_REFUSED}) ; (?P<Pairs>.*)"),
    ("command", "success", r"\s*(?P<User>\S+) : (?P<Pairs>[A-Z]+=.*)"),
)
_SU: Final = (
    ("refused", "failure", r"FAILED SU \(to (?P<TargetUser>.*)\) (?P<User>.*) on (?P<TTY>\S+)"),
    ("become", "success", r"\(to (?P<TargetUser>.*)\) (?P<User>.*) on (?P<TTY>\S+)"),
    ("refused", "failure", r"FAILED su for (?P<TargetUser>.*) by (?P<User>.*)"),
    ("become", "success", r"Successful su for (?P<TargetUser>.*) by (?P<User>.*)"),
)
_CRON: Final = (("", "success", r"\((?P<User>[^)]*)\) (?P<Operation>[A-Z][A-Z ]*?) \((?P<Command>.*)\)"),)
_PAM: Final = (
    (
        "session_opened",
        "success",
        r"pam_\w+\((?P<PamService>[\w.-]+):session\): session opened for user (?P<User>.*?)(?:\(uid=\d+\))? by (.*)",
    ),
    ("session_closed", "success", r"pam_\w+\((?P<PamService>[\w.-]+):session\): session closed for user (?P<User>.*)"),
    (
        "pam_failure",
        "failure",
        rf"pam_\w+\((?P<PamService>[\w.-]+):auth\): authentication failure; {_PAM_WHERE} *(?: user=(?P<User>.*))?",
    ),
)


class _Form(NamedTuple):
    action: str
    outcome: str
    pattern: re.Pattern[str]


class Said(NamedTuple):
    """What a message means: view.action, outcome, and fields."""

    action: str
    outcome: str
    fields: FieldMap


def _compile(*forms: tuple[str, str, str]) -> tuple[_Form, ...]:
    return tuple(_Form(action, outcome, re.compile(pattern, re.DOTALL)) for action, outcome, pattern in forms)


_FORMS: Final = {
    "sshd": _compile(*_SSHD, *_PAM),
    "sudo": _compile(*_PAM, *_SUDO),
    "su": _compile(*_SU, *_PAM),
    "cron": _compile(*_CRON, *_PAM),
    "auth": _compile(*_PAM),
}
_PAIRS: Final = ("TTY", "PWD", "CWD", "USER", "GROUP", "TSID", "ENV", "HOST", "CHROOT", "COMMAND")
_PAIR: Final = re.compile(rf"(?:^| ; )({'|'.join(_PAIRS)})=")
_READINGS: Final = 8
"""Of an ambiguous line; nobody means well by more."""
_MARKS: Final = frozenset({"Unknown", "Pairs"})
FIELDS: Final = (
    *_PAIRS,
    "InvalidUser",
    *sorted({name for forms in _FORMS.values() for form in forms for name in form.pattern.groupindex} - _MARKS),
)
"""All that `read_words` may give."""
_NOTHING: Final = Said("log", "unknown", {})


def read_words(program: str, message: str) -> Said:
    """What the message of `sshd`, `sudo`, `su`, `cron` or another (`auth`) program says; no fields where unknown."""
    text = message[:LONGEST_CHARS].rstrip("\n")
    for form in _FORMS.get(program, _FORMS["auth"]):
        found = form.pattern.fullmatch(text)
        if found is not None:
            return _say(form, found)
    return _NOTHING


def _say(form: _Form, found: re.Match[str]) -> Said:
    fields: FieldMap = {name: value for name, value in found.groupdict().items() if value}
    if "Unknown" in fields:
        del fields["Unknown"]
        fields["InvalidUser"] = "true"
    pairs = fields.pop("Pairs", None)
    if isinstance(pairs, str):
        fields |= _read_pairs(pairs)
    operation = fields.get("Operation")
    action = form.action or (str(operation).lower() if operation else "log")
    return Said(action, form.outcome, fields)


def _read_pairs(text: str) -> FieldMap:
    """The pairs of sudo's `TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=...`; a command is the rest of the line.

    sudo does not quote: a folder may be called `x ; USER=bob ; COMMAND=/bin/true`. Where a name comes more than once
    the field has every value that it could have, so that no rule can be kept from the true one.
    """
    marks = list(_PAIR.finditer(text))[: _READINGS * 8]
    found: dict[str, list[str]] = {}
    for number, mark in enumerate(marks):
        name = mark.group(1)
        is_last = name == "COMMAND" or number + 1 == len(marks)
        values = found.setdefault(name, [])
        if len(values) < _READINGS:
            values.append(text[mark.end() :] if is_last else text[mark.end() : marks[number + 1].start()])
    return {name: values[0] if len(values) == 1 else tuple(values) for name, values in found.items()}
