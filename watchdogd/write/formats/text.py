"""Text for people: one line an alert, in which nothing from the watched host can forge anything."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from watchdogd.figures import describe_amount, describe_figure

if TYPE_CHECKING:
    from watchdogd.entities import Alert, FieldMap, FieldValue, Process, Verdict

_NONCHARACTERS = [plane << 16 | last for plane in range(17) for last in (0xFFFE, 0xFFFF)]
_INVISIBLE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u2028\u2029"  # line and paragraph separator
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff"  # lone surrogates: no UTF-8 can carry them
    "\ufdd0-\ufdef"
    + "".join(map(chr, _NONCHARACTERS))  # journalctl shows no text that has one
    + "]+"
)
"""What a terminal acts on or does not show: controls, separators, and Unicode's Default_Ignorable_Code_Point
(DerivedCoreProperties.txt: bidirectional marks, zero width, tags, variation selectors)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATES = re.compile("[\ud800-\udfff]+")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CUT = re.compile(r"\.\.\.\[cut, ([0-9]{1,9}) characters in all\]\Z")
_NOTE_CHARS = 50
_LINE_CHARS = 1200
_FACTS_CHARS = 4000
_COMMAND_CHARS = 300
_ANCESTORS = 5
_DEEDS = {
    "bind": "bound to",
    "chmod": "changed the mode of",
    "chown": "changed the owner of",
    "connect": "connected to",
    "create": "created",
    "delete": "deleted",
    "link": "linked",
    "listen": "began to listen on",
    "mkdir": "made the folder",
    "mknod": "made the device",
    "read": "read",
    "removexattr": "removed an attribute of",
    "rename": "renamed",
    "setxattr": "set an attribute of",
    "symlink": "linked",
    "truncate": "truncated",
    "utimes": "changed the times of",
    "write": "wrote",
}
"""The decoder's actions as a person says them; others are said as they are."""


_PACKAGES = 5
_CHANGES = {"created": "created", "modified": "changed", "deleted": "deleted", "attributes": "changed attributes of"}
_ATTRIBUTES = {
    "mode": "Mode",
    "owner": "Owner",
    "group": "Group",
    "type": "Type",
    "link_target": "LinkTarget",
    "capabilities": "Capabilities",
    "mtime": "ModifiedTime",
}
"""Attributes of files whose values are said; others are only named."""


def escape_controls(text: str) -> str:
    r"""The text with every character that is invisible or moves the cursor written out (`\x1b`, `\u202e`).

    The result is one line, printable and encodable. Backslashes are left alone, so the result is for reading,
    not for decoding.
    """
    return _INVISIBLE.sub(_write_out, text)


def escape_surrogates(text: str) -> str:
    r"""The text without lone surrogates: an undecodable byte is written `\xNN`. Everything else stays."""
    return _SURROGATES.sub(_write_out, text)


def _write_out(match: re.Match[str]) -> str:
    return "".join(map(_write_char, match.group()))


@functools.lru_cache(maxsize=8192)  # more than there are such characters, but for lone surrogates
def _write_char(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if "\udc80" <= char <= "\udcff":  # what `surrogateescape` makes of one undecodable byte
        return f"\\x{code - 0xDC00:02x}"
    if char <= "\xff":
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if char <= "\uffff" else f"\\U{code:08x}"


def _count(text: str) -> int:
    """How long it is, or was before masking cut it (write/masked.py); text of the host can only exaggerate that."""
    found = _CUT.search(text[-_NOTE_CHARS:])
    return max(len(text), int(found[1]) if found else 0)


def escape_part(text: str, most_chars: int = _LINE_CHARS) -> str:
    """As `escape_controls`; of a longer text the beginning, and how long it is. What is not shown is not read."""
    if len(text) <= most_chars:
        return escape_controls(text)
    return f"{escape_controls(text[:most_chars])}...[cut, {_count(text)} characters in all]"


def escape_within(text: str, max_bytes: int) -> str:
    """As `escape_controls` within `max_bytes` of UTF-8, which must hold a note of what is missing."""
    if len(text) <= max_bytes:
        return cut_text(escape_controls(text), max_bytes)
    note = f"...[cut, {_count(text)} characters in all]"
    return escape_controls(text[:max_bytes]).encode()[: max_bytes - len(note)].decode(errors="ignore") + note


def cut_text(text: str, max_bytes: int) -> str:
    """The text, or its beginning with a note of what is missing; at most `max_bytes` of UTF-8.

    The text must be encodable (see `escape_controls`). Characters are never split.
    """
    data = text.encode()
    if len(data) <= max_bytes:
        return text
    note = f"...[cut, {len(data)} bytes in all]"
    kept = data[: max(0, max_bytes - len(note))].decode(errors="ignore")
    return (kept + note)[:max_bytes]


def quote_text(text: str, max_chars: int = _COMMAND_CHARS) -> str:
    """Text from the host in double quotes, escaped, so that it is seen where it ends."""
    clean = escape_controls(text[:max_chars]).replace('"', '\\"')
    if len(text) > max_chars or len(clean) > max_chars:
        clean = f"{clean[:max_chars]}...[cut, {_count(text)} characters in all]"
    return f'"{clean}"'


def alert_line(alert: Alert) -> str:
    """One line for a person: level, verdict, rule, who did what, why. Control characters are escaped.

    What we know stands first, what an attacker may have written stands behind it and in quotes.
    """
    parts = [f"{alert.level}, {_verdict_words(alert)}: {escape_part(alert.rule.title)}: {describe_deed(alert)}"]
    if alert.is_correlation:
        parts.append(f"together: {describe_correlation(alert)}")
    if alert.count > 1:
        parts.append(f"seen {alert.count} times since {_say_moment(alert.first_seen_ms)}")
    if alert.late:
        parts.append("late")
    if alert.reasons:
        parts.append("why: " + ", ".join(escape_part(reason) for reason in alert.reasons))
    if alert.verdict is not None and alert.verdict.summary and not _is_said(alert, alert.verdict.summary):
        parts.append(f"triage: {quote_text(alert.verdict.summary)}")
    line = "; ".join(parts)
    return line if len(line) <= _LINE_CHARS else f"{line[:_LINE_CHARS]}...[cut]"


def _is_said(alert: Alert, summary: str) -> bool:
    """Whether the summary only repeats the figure, as it does where no model says anything."""
    amount = describe_amount(alert.fields, str) if alert.category == "host_metrics" else ""
    return bool(amount) and summary.startswith(amount)


def _say_moment(time_ms: int) -> str:
    try:
        moment = _EPOCH + timedelta(seconds=time_ms // 1000)
    except OverflowError:
        return "long ago"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _verdict_words(alert: Alert) -> str:
    verdict: Verdict | None = alert.verdict
    score = f"evidence {alert.evidence_score:.2f}"
    if verdict is None:
        return f"untriaged ({score})"
    sure = "" if verdict.confidence is None else f" {verdict.confidence:.0%}"
    return f"{verdict.label}{sure} ({score})"


def describe_correlation(alert: Alert) -> str:
    """How many events in which time, and what they have in common: `count 5 in 12.3 s, User "ann"`; else nothing."""
    if not alert.is_correlation or not alert.matched:
        return ""
    *group, (name, number) = alert.matched.items()
    span_s = max(0, alert.last_seen_ms - alert.first_seen_ms) / 1000
    shared = [f"{escape_part(field)} {quote_text(value)}" for field, value in group]
    return ", ".join((f"{escape_part(name)} {escape_part(number)} in {span_s:g} s", *shared))


def describe_deed(alert: Alert) -> str:
    """Who did what from where, escaped: `bob (login alice) ran "cat /etc/shadow" from bash < sshd`."""
    who = describe_actor(alert.process)
    what = _describe_action(alert)
    chain = describe_lineage(alert.lineage)
    return " ".join(part for part in (who, what, f"from {chain}" if chain else "") if part)


def describe_actor(process: Process | None) -> str:
    """`root (login alice)`, `uid 1000`, or nothing where nobody is known."""
    if process is None:
        return ""
    name = process.user or ("" if process.uid is None else f"uid {process.uid}")
    login = process.login or ""
    if login and login != process.user:
        name = f"{name} (login {login})" if name else f"login {login}"
    return escape_part(name)


def describe_lineage(lineage: tuple[Process, ...]) -> str:
    """Ancestors' names, parent first: `bash < sudo < sshd`."""
    names = [escape_part(process_name(process)) for process in lineage[:_ANCESTORS]]
    if len(lineage) > _ANCESTORS:
        names.append("...")
    return " < ".join(names)


def process_name(process: Process) -> str:
    """Last part of the executable's path, else the kernel's short name, else `pid N`."""
    if process.exe:
        return process.exe.rpartition("/")[2] or process.exe
    return process.comm or f"pid {process.pid}"


def command_line(process: Process) -> str:
    """Arguments joined by one space, as rules see it; the executable where argv is not known."""
    return " ".join(process.argv) if process.argv else (process.exe or process.comm or "")


def _describe_action(alert: Alert) -> str:
    fields = alert.fields
    command = quote_text(command_line(alert.process)) if alert.process is not None else ""
    tail = f" with {command}" if command else ""
    failed = " (failed)" if alert.outcome == "failure" else ""
    if alert.category == "process_creation" and command:
        return f"ran {command}{failed}"
    if fields.get("metric") and not fields.get("DestinationIp"):  # which a port that opened has
        return describe_figure(fields, quote_text) or quote_text(str(fields["metric"]))
    if alert.category == "file_integrity":
        unknown = ", by whom is not known" if alert.process is None else ""
        return f"{_describe_change(fields)}{tail}{unknown}"
    if fields.get("DestinationIp"):
        port = fields.get("DestinationPort")
        address = f"{fields['DestinationIp']}" + ("" if port is None else f" port {port}")
        return f"{_DEEDS.get(alert.action, _word(alert.action, 'connected to'))} {quote_text(address)}{failed}{tail}"
    target = fields.get("TargetFilename")
    if isinstance(target, str) and target:
        return f"{_describe_file_deed(alert, target)}{failed}{tail}"
    return f"{_word(alert.action, alert.category or 'event')}{failed}{tail}"


def _describe_file_deed(alert: Alert, target: str) -> str:
    deed = _DEEDS.get(alert.action, _word(alert.action, "touched"))
    source = alert.fields.get("SourceFilename")
    if isinstance(source, str) and source:
        return f"{deed} {quote_text(source)} to {quote_text(target)}"
    mode = alert.fields.get("Mode")
    return f"{deed} {quote_text(target)}" + (f" to {quote_text(str(mode))}" if mode else "")


def _describe_change(fields: FieldMap) -> str:
    """What became of a watched file: `changed "/etc/passwd" (content, mode 0644 to 4755)`; of packages their names."""
    if fields.get("PackageCount"):
        names = _list_texts(fields.get("Package"))
        shown = ", ".join(names[:_PACKAGES]) + (", ..." if len(names) > _PACKAGES else "")
        return f"changed {fields.get('FileCount')} files of {fields['PackageCount']} packages: {quote_text(shown)}"
    action = str(fields.get("Action", ""))
    deed = _CHANGES.get(action, _word(action, "changed"))
    facts = [f"new rights: {', '.join(_list_texts(fields.get('Gained')))}"] if fields.get("Gained") else []
    facts += [_describe_attribute(name, fields) for name in _list_texts(fields.get("Changed"))]
    if action == "created":
        facts += [f"{fields.get('Type')}, mode {fields.get('Mode')}, owner {quote_text(str(fields.get('Owner')))}"]
        facts += [f"leads to {quote_text(str(fields['LinkTarget']))}"] if fields.get("LinkTarget") else []
    facts += ["undone since"] if fields.get("Reverted") else []
    facts += ["other programs wrote it, too"] if fields.get("OtherImages") else []
    told = f"{deed} {quote_text(str(fields.get('TargetFilename')))}"
    return f"{told} ({escape_part('; '.join(facts), _FACTS_CHARS)})" if facts else told


def _describe_attribute(name: str, fields: FieldMap) -> str:
    field = _ATTRIBUTES.get(name)
    if field is None:
        return name
    before, after = fields.get(f"Previous{field}"), fields.get(field)
    return f"{name.replace('_', ' ')} {_say_value(before)} to {_say_value(after)}"


def _say_value(value: object) -> str:
    text = str(value)
    return "none" if value is None else text if text.isalnum() else quote_text(text, 120)


def _list_texts(value: FieldValue | tuple[FieldValue, ...]) -> list[str]:
    return [str(one) for one in (value if isinstance(value, tuple) else () if value is None else (value,))]


def _word(action: str, default: str) -> str:
    return escape_part(action).replace("_", " ").replace("-", " ") if action else default
