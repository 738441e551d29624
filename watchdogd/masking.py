"""Secrets in command lines and other text of the host, masked wherever it is shown or sent.

Known shapes and known options only: a secret without either (a bare password as a word) cannot be told from other text.
What is masked stays in the database. Whoever writes an argument may disguise it as a secret; that hides nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MASK: Final = "[masked]"

_CORE = (
    r"(?:pass(?:word|wd|phrase|code)?(?!-through)|pwd|pw|secret|token|api_?-?key|apikey|access_?-?key|account_?-?key|"
    r"private_?-?key|secret_?-?key|auth|authorization|credentials?|pgpassword|mysql_pwd)"
    r"(?!(?:[_-][A-Za-z0-9]{1,32})?[_-](?:file|path|fd|stdin|env|policy|count|length)\b)(?:[_-][A-Za-z0-9]{1,32}){0,2}"
)
_OPTION = rf"--?(?:[A-Za-z0-9]{{1,32}}[_-]){{0,4}}{_CORE}"
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'&;|,}]+)"
_NAMES = ("pass", "pwd", "pw", "secret", "token", "api", "access", "account", "private", "auth", "credential")
"""What every name of _CORE holds."""
_SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (
        ("-----begin ",),
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
    # scheme://user:password@host, scheme://token@host
    (
        ("://",),
        re.compile(r"\b([a-z][a-z0-9+.-]{1,15}://)([^\s/@:]{0,128}):([^\s/@]{1,256})@", re.IGNORECASE),
        rf"\1\2:{MASK}@",
    ),
    (("://",), re.compile(r"\b(https?://)([^\s/@:]{16,256})@", re.IGNORECASE), rf"\1{MASK}@"),
    (
        ("bearer", "basic", "negotiate", "digest"),
        re.compile(r"(?i)\b(bearer|basic|negotiate|digest)\s+[A-Za-z0-9._~+/=-]{6,}"),
        rf"\1 {MASK}",
    ),
    (("cookie:",), re.compile(r"(?i)\b((?:set-)?cookie:\s{0,2})[^\s'\"][^'\"\r\n]{0,4096}"), rf"\1{MASK}"),
    (("akia", "asia", "agpa", "aida", "aroa"), re.compile(r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[0-9A-Z]{16}\b"), MASK),
    (("gh", "glpat-"), re.compile(r"\bgh[pousr]_[A-Za-z0-9]{16,}\b|\bgithub_pat_\w{20,}\b|\bglpat-[\w-]{16,}"), MASK),
    (
        ("xox", "xapp-", "sk-", "aiza", "hvs."),
        re.compile(r"\bxox[abeoprs]-[\w-]{10,}|\bxapp-[\w-]{10,}|\bsk-[\w-]{16,}|\bAIza[\w-]{30,}|\bhvs\.[\w-]{16,}"),
        MASK,
    ),
    (
        ("npm_", "pypi-", "sg.", ":aa"),
        re.compile(r"\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{30,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|\b\d{8,10}:AA[\w-]{30,}"),
        MASK,
    ),
    (("eyj",), re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), MASK),
    (
        ("hooks.slack.com", "/api/webhooks/"),
        re.compile(r"(hooks\.slack\.com/services/|/api/webhooks/)[\w/-]+"),
        rf"\1{MASK}",
    ),
    # openssl's pass phrase arguments
    (("pass:",), re.compile(r"((?<![\w-])pass:)[^\s\"']+"), rf"\1{MASK}"),
    # name=value, name: value, "name": "value", --name value
    (_NAMES, re.compile(rf"(?i)(?<![A-Za-z0-9])({_CORE}[\"']?\s{{0,2}}[=:]\s{{0,2}}){_VALUE}"), rf"\1{MASK}"),
    (_NAMES, re.compile(rf"(?i)((?<!\S){_OPTION}\s+){_VALUE}"), rf"\1{MASK}"),
    # curl -u user:password, curl --user user:password
    (("-u",), re.compile(r"((?<!\S)(?:-u|-U|--user|--proxy-user)[\s=]*[^\s:]{1,64}:)[^\s]+"), rf"\1{MASK}"),
    # xfreerdp /p:password
    (("/p",), re.compile(r"((?<!\S)/p(?:assword)?:)\S+"), rf"\1{MASK}"),
)
"""Of which one stands, in small letters, in every text that has the shape; the shape; what takes its place."""
_SECRET_OPTION = re.compile(_OPTION, re.IGNORECASE)

_JOINED, _NEXT, _EITHER = "joined", "next", "either"
_OPTIONS: dict[str, dict[str, str]] = {
    "sshpass": {"-p": _EITHER},
    "redis-cli": {"-a": _NEXT},
    "smbclient": {"-U": "%"},
    "rpcclient": {"-U": "%"},
    "winexe": {"-U": "%"},
    "smbmap": {"-p": _NEXT},
    "nxc": {"-p": _NEXT},
    "crackmapexec": {"-p": _NEXT},
    "evil-winrm": {"-p": _NEXT},
    "lftp": {"-u": ","},
    "openssl": {"-k": _NEXT, "-K": _NEXT},
    "zip": {"-P": _EITHER},
    "unzip": {"-P": _EITHER},
    "7z": {"-p": _JOINED},
    "7za": {"-p": _JOINED},
    "7zz": {"-p": _JOINED},
    "rar": {"-p": _JOINED, "-hp": _JOINED},
    "unrar": {"-p": _JOINED},
    "useradd": {"-p": _NEXT},
    "usermod": {"-p": _NEXT},
    "ipmitool": {"-P": _NEXT},
    "sqlcmd": {"-P": _EITHER},
    "login": {"-p": _NEXT},
}
"""Programs whose short options hold secrets: joined to the option, as the next word, either, or behind `user%`.
`login` stands for that command of docker and its like."""

_FAMILIES: tuple[tuple[str, dict[str, str]], ...] = (
    ("mysql", {"-p": _JOINED}),
    ("mariadb", {"-p": _JOINED}),
    ("ldap", {"-w": _EITHER}),
    ("mongo", {"-p": _NEXT}),
    ("snmp", {"-c": _NEXT, "-A": _NEXT, "-X": _NEXT}),
)
_REGISTRIES = frozenset({"docker", "podman", "nerdctl", "buildah", "skopeo", "helm", "oras", "crane"})
_KNOWN_PROGRAM = re.compile(
    r"(?<![\w-])(?:"
    + "|".join([*map(re.escape, sorted(_OPTIONS.keys() - {"login"} | _REGISTRIES)), *(name for name, _ in _FAMILIES)])
    + ")"
)
_AROUND_WORD = "\"'`(){};|&$"
_SPACE = re.compile(r"(\s+)")


def mask_secrets(text: str) -> str:
    """`text` with passwords, tokens, keys and the password part of URLs replaced by `[masked]`.

    Linear in the text's length.
    """
    # Beyond ASCII, letters that are others in small (the Kelvin sign) may be part of a shape.
    small = text.lower() if text.isascii() else None
    for marks, pattern, replacement in _SHAPES:
        if small is None or any(mark in small for mark in marks):
            text = pattern.sub(replacement, text)
    if _KNOWN_PROGRAM.search(text):
        pieces = _SPACE.split(text)
        pieces[::2] = _mask_options(pieces[::2])
        text = "".join(pieces)
    return text


def mask_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """Arguments with their secrets masked, each by itself and by the option before it; as many as there were."""
    masked: list[str] = []
    is_secret = False
    for arg, by_option in zip(argv, _mask_options(argv), strict=True):
        if is_secret and not arg.startswith("-"):
            masked.append(MASK)
        else:
            masked.append(mask_secrets(arg) if by_option == arg else by_option)
        is_secret = _SECRET_OPTION.fullmatch(arg) is not None
    for index in range(1, len(masked)):  # `-u user:password`, `-H 'Cookie: ...'`: what only both together show
        if argv[index - 1] in {"-u", "-U", "--user", "--proxy-user"} and MASK not in masked[index]:
            user, colon, secret = masked[index].partition(":")
            if colon and secret:
                masked[index] = f"{user}:{MASK}"
    return tuple(masked)


def _mask_options(words: Sequence[str]) -> list[str]:
    """The words, without what stands at options that the program before them is known to take secrets by."""
    masked: list[str] = []
    options: dict[str, str] = {}
    is_registry = False
    waits_for = ""
    for word in words:
        if waits_for and word:
            masked.append(_mask_value(word, waits_for))
            options, waits_for = {}, ""
            continue
        if word.startswith("-"):
            shown, waits_for = _mask_option(word, options)
            if shown != word:
                options = {}
            masked.append(shown)
            continue
        masked.append(word)
        name = word.strip(_AROUND_WORD).rpartition("/")[2]
        if name in _REGISTRIES:
            is_registry = True
        elif name == "login" and not is_registry:
            continue
        else:
            options = _options_of(name) or options
    return masked


def _mask_option(word: str, options: dict[str, str]) -> tuple[str, str]:
    """The option as it may be shown, and how the next word is a secret, if it is."""
    for option, how in options.items():
        if word == option:
            return word, "" if how == _JOINED else how
        if word.startswith(option) and not word.startswith("--") and how != _NEXT:
            return option + _mask_value(word[len(option) :], how), ""
    return word, ""


def _mask_value(value: str, how: str) -> str:
    if how in {_JOINED, _NEXT, _EITHER}:
        return MASK
    user, mark, secret = value.partition(how)
    return f"{user}{mark}{MASK}" if secret else value


def _options_of(name: str) -> dict[str, str]:
    known = _OPTIONS.get(name)
    if known is not None:
        return known
    return next((options for family, options in _FAMILIES if name.startswith(family)), {})
