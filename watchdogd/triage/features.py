"""What an alert is about, as normalised tokens: the same deed on another host by another account gives the same.

Kept: programs, folders and files that every host has, flags, the kind of actor. Left out or folded: user names, ids,
hosts, addresses, ports, times, and names that chance made.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watchdogd.entities import Alert, FieldValue

MAX_TOKENS = 160
"""Of a longer command line only its first words tell."""
_MAX_WORDS = 64
_MAX_WORD = 256
_MAX_ANCESTORS = 8
_FIRST_HUMAN_UID = 1000
_NOBODY_UIDS = frozenset({65534, 4294967295})

_HOME = re.compile(r"^/(?:home/[^/]+|root|var/home/[^/]+|export/home/[^/]+|Users/[^/]+)(?=/|$)")
_TEMPORARY = re.compile(r"^/(?:tmp|var/tmp|dev/shm|dev/mqueue|run/lock|var/lock|run/user/\d+)(?=/|$)")
_OF_A_PROCESS = re.compile(r"^/proc/(?:\d+|self|thread-self)(?=/|$)")
_SYSTEM = (
    "/bin/",
    "/boot/",
    "/dev/",
    "/etc/",
    "/lib/",
    "/lib64/",
    "/proc/",
    "/run/",
    "/sbin/",
    "/sys/",
    "/usr/",
    "/var/",
)
_LOCAL = "/usr/local/"
_SYSTEM_DEPTH = 5
_MERGED = re.compile(r"^/(bin|sbin|lib|lib64)/")

_ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,2})?(?::\d+)?(?![\w.])|\[[0-9a-fA-F:]{2,}\](?::\d+)?")
_URL = re.compile(r"^([a-z][a-z0-9+.-]{1,15})://[^/\s]*(.*)$", re.IGNORECASE)
_LONG_FLAG = re.compile(r"^--[A-Za-z][A-Za-z0-9-]{0,40}(?==|$)")
_SHORT_FLAG = re.compile(r"^[-+][A-Za-z]{1,8}$")
_VERSION = re.compile(r"(?<=[a-z])[-.]?\d[\d.]*$")
_WORD = re.compile(r"[A-Za-z][A-Za-z_-]{1,23}")
_NUMBER = re.compile(r"\d+")
_CHANCE = re.compile(
    r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[A-Za-z0-9_]{8,}|[0-9a-f]{12,}|(?<=\.)(?=[^/]*[A-Z0-9])[A-Za-z0-9]{6,12}$"
)
_EXTENSION = re.compile(r"\.([A-Za-z][A-Za-z0-9]{0,4})$")


def name_program(path: str | None) -> str:
    """`/usr/bin/python3.11` is `python`; empty where there is no path."""
    base = (path or "").removesuffix(" (deleted)").rpartition("/")[2].lstrip("-").lower()
    return _VERSION.sub("", base)[:32]


def name_actor(uid: int | None) -> str:
    """`root`, `service` or `person`: a name says nothing on another host."""
    if uid is None:
        return "unknown"
    if uid == 0:
        return "root"
    return "person" if uid >= _FIRST_HUMAN_UID and uid not in _NOBODY_UIDS else "service"


def normalise_path(path: str) -> str:
    """A path as it would stand on any host: `~`, `/tmp/*`, `/proc/N`; numbers are `N`, what chance named is `*`.

    Below the folders of the system the names stay to a depth of five; elsewhere only the shape and the extension do.
    """
    path = _MERGED.sub(r"/usr/\1/", path[:_MAX_WORD].removesuffix(" (deleted)"))
    if hit := _OF_A_PROCESS.match(path):
        return "/proc/N" + _fold_names(path[hit.end() :], 3)
    if hit := _TEMPORARY.match(path):
        return "/tmp" + _shape(path[hit.end() :])  # noqa: S108 - a name, not a file
    if hit := _HOME.match(path):
        rest = path[hit.end() :]
        return "~" + (_fold_names(rest, 3) if rest.startswith("/.") else _shape(rest))
    if path.startswith(_SYSTEM) and not path.startswith(_LOCAL):
        return _fold_names(path, _SYSTEM_DEPTH)
    top, _, rest = path.removeprefix("/").partition("/")
    return f"/{top[:16]}" + (_shape("/" + rest) if rest else "")


def _fold_names(path: str, depth: int) -> str:
    parts = path.split("/")
    return "/".join(_fold_name(part) for part in parts[: depth + 1]) + ("/..." if len(parts) > depth + 1 else "")


def _fold_name(name: str) -> str:
    return _NUMBER.sub("N", _CHANCE.sub("*", name))[:40]


def _shape(rest: str) -> str:
    """What of names that somebody chose would recur: hidden or not, and the extension."""
    if rest in ("", "/"):
        return rest
    hidden = "/." if re.search(r"/\.[^/.]", rest) else "/"
    extension = _EXTENSION.search(rest)
    return f"{hidden}*" + (f".{extension[1].lower()}" if extension else "")


def normalise_word(word: str) -> str:
    """An argument without what differs from host to host; words of prose stay, case-folded."""
    word = word[:_MAX_WORD]
    if url := _URL.match(word):
        extension = _EXTENSION.search(url[2])
        return f"{url[1].lower()}://*" + (f".{extension[1].lower()}" if extension else "")
    if word.startswith("/"):
        return normalise_path(word)
    if word.startswith("~/"):
        return normalise_path("/home/x" + word[1:])
    return _fold_name(_ADDRESS.sub("ADDRESS", word).lower())


def tokens_of(alert: Alert) -> tuple[str, ...]:
    """What the alert is about: program, flags, arguments, paths, what is above it, who acts; each once, sorted.

    At most `MAX_TOKENS`. Prefixes tell what a token is: `exe` `arg` `flag` `path` `up` `actor` `rule` `at`.
    """
    found = {f"rule:{alert.rule.id[:8]}": None, f"category:{alert.category}": None}
    process = alert.process
    if process is not None:
        found[f"exe:{name_program(process.exe)}"] = None
        found[f"at:{normalise_path(process.exe or '')}"] = None
        found[f"actor:{name_actor(process.uid)}"] = None
        names = {f"arg:{name.lower()}" for name in (process.user, process.login) if name}
        found.update(dict.fromkeys(token for token in _command_tokens(process.argv) if token not in names))
    found.update((f"up:{name_program(ancestor.exe)}", None) for ancestor in alert.lineage[:_MAX_ANCESTORS])
    for name in _PATH_FIELDS:
        found.update((f"path:{normalise_path(text)}", None) for text in _texts_of(alert.fields.get(name)))
    return tuple(sorted(list(found)[:MAX_TOKENS]))


def _command_tokens(argv: Sequence[str]) -> Iterator[str]:
    words = [word for arg in argv[1:_MAX_WORDS] for word in arg[: 8 * _MAX_WORD].split()[:_MAX_WORDS]]
    for word in words[:_MAX_WORDS]:
        if _SHORT_FLAG.match(word):
            yield f"flag:{word}"
        elif long := _LONG_FLAG.match(word):
            yield f"flag:{long[0]}"
        elif "/" in word:
            yield f"path:{normalise_word(word)}"
        else:
            yield from (f"arg:{part.lower()}" for part in _WORD.findall(word)[:4])


def fingerprint(alert: Alert) -> str:
    """The same (64 hex digits) for alerts that ask the same question: pids, times, ids, hosts, ports are no part.

    Rule, level, program, arguments in order, matched values, the programs above it and the actor's kind are.
    """
    process = alert.process
    parts = [alert.rule.id, alert.rule.level.value, alert.category, alert.action, alert.outcome]
    if process is not None:
        parts += [normalise_path(process.exe or ""), name_actor(process.uid), normalise_path((process.cwd or "") + "/")]
        parts += [_normalise_text(arg) for arg in process.argv[:_MAX_WORDS]]
    parts += ["up", *(normalise_path(ancestor.exe or "") for ancestor in alert.lineage[:_MAX_ANCESTORS])]
    parts += ["matched", *(f"{name}={_normalise_text(text)}" for name, text in sorted(alert.matched.items()))]
    for name in _PATH_FIELDS:
        parts += [f"{name}={normalise_path(text)}" for text in _texts_of(alert.fields.get(name))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


_PATH_FIELDS = ("TargetFilename", "SourceFilename", "ParentImage")


def _normalise_text(text: str) -> str:
    return " ".join(map(normalise_word, text[: 8 * _MAX_WORD].split()))


def _texts_of(value: FieldValue | tuple[FieldValue, ...]) -> Iterator[str]:
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, str):
            yield part
