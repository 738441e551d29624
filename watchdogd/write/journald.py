"""Alerts into the journal, as structured fields that `journalctl` can ask for.

Field names are a contract (docs/delivery.md). Values are one line each, printable, and short enough that plain
`journalctl -o json` shows them: it writes `null` for any field of 4096 bytes or more.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final
from uuid import UUID

from systemd.journal import send as send_entry

from watchdogd.entities import Label, Level
from watchdogd.errors import DeliveryError
from watchdogd.write.formats.text import (
    alert_line,
    command_line,
    describe_actor,
    describe_correlation,
    describe_lineage,
    escape_within,
)
from watchdogd.write.masked import Masker

if TYPE_CHECKING:
    from watchdogd.entities import Alert, EventId

MESSAGE_ID_ALERT: Final = UUID("6f1a2a0e5b2c4d0f9a57c9d64e0b8f31")
"""An alert. The same in systemd/watchdogd.catalog, as are those below."""
MESSAGE_ID_VERDICT: Final = UUID("b3d94c1f7e604a7c8d2e15f09a6b4c72")
"""A verdict on an alert that was written before."""
MESSAGE_ID_UPDATE: Final = UUID("57be0c2d91a64b04a1f5c8d37e2069ab")
"""An alert that was written before came again."""
MESSAGE_ID_BLINDNESS: Final = UUID("e2c47f6a08d94b3f8b61d05a97c3e41f")
"""An alert of watchdogd about itself: what it cannot see, keep or send."""
MESSAGE_ID_SERVICE: Final = UUID("0d8e7c54a1f34b6bbf0c3a92d7e561c8")
"""What watchdogd has to say about itself."""

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "watchdogd"
OWN_SOURCE: Final = "watchdogd"
"""`Alert.source` of what watchdogd says about itself."""

_PRIORITY: Final = {
    Level.CRITICAL: 2,
    Level.HIGH: 3,
    Level.MEDIUM: 4,
    Level.LOW: 5,
    Level.INFORMATIONAL: 6,
}
"""syslog's: crit, err, warning, notice, info."""
_MALICIOUS_PRIORITY: Final = {3: 2, 4: 3, 5: 4, 6: 5}
_BENIGN_PRIORITY: Final = {4: 5, 5: 6}
"""Never of high and critical: no verdict makes those quieter."""

_PREFIXES: Final = {"verdict": "verdict on an earlier alert: ", "update": "again: "}

_JSON_LIMIT_BYTES: Final = 4096
"""Name, `=` and value together must stay below, see JSON_THRESHOLD in systemd's src/shared/logs-show.c."""


def journal_fields(alert: Alert, kind: str) -> dict[str, str]:
    """Fields of one journal entry, without MESSAGE_ID. Unknown ones are left out; `kind` is the delivery's."""
    verdict = alert.verdict
    last = alert.events[-1] if alert.events else None
    process = alert.process
    wanted: dict[str, str | None] = {
        "MESSAGE": _PREFIXES.get(kind, "") + alert_line(alert),
        "PRIORITY": str(choose_priority(alert)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "WATCHDOGD_ALERT_ID": alert.id,
        "WATCHDOGD_RULE_ID": alert.rule.id,
        "WATCHDOGD_RULE_TITLE": alert.rule.title,
        "WATCHDOGD_LEVEL": str(alert.level),
        "WATCHDOGD_VERDICT": str(verdict.label if verdict else Label.UNTRIAGED),
        "WATCHDOGD_CONFIDENCE": None if not verdict or verdict.confidence is None else f"{verdict.confidence:.2f}",
        "WATCHDOGD_SUMMARY": verdict.summary if verdict else None,
        "WATCHDOGD_TECHNIQUE": " ".join(alert.rule.techniques),
        "WATCHDOGD_GROUP": alert.group_key,
        "WATCHDOGD_CORRELATION": describe_correlation(alert),
        "WATCHDOGD_COUNT": str(alert.count),
        "WATCHDOGD_LATE": "true" if alert.late else "false",
        "WATCHDOGD_EVENT_ID": None if last is None else event_text(last),
        "WATCHDOGD_SCORE": f"{alert.evidence_score:.2f}",
        "WATCHDOGD_REASONS": "; ".join(alert.reasons),
        "WATCHDOGD_EXE": process.exe if process else None,
        "WATCHDOGD_CMDLINE": command_line(process) if process else None,
        "WATCHDOGD_USER": describe_actor(process),
        "WATCHDOGD_LINEAGE": describe_lineage(alert.lineage),
    }
    return {name: _field_value(name, value) for name, value in wanted.items() if value}


def choose_priority(alert: Alert) -> int:
    """PRIORITY by level and verdict: `malicious` raises it by one, `benign` lowers it, up to medium."""
    priority = _PRIORITY[alert.level]
    label = alert.verdict.label if alert.verdict else Label.UNTRIAGED
    if label is Label.MALICIOUS:
        return _MALICIOUS_PRIORITY.get(priority, priority)
    if label is Label.BENIGN:
        return _BENIGN_PRIORITY.get(priority, priority)
    return priority


def choose_message_id(alert: Alert, kind: str) -> UUID:
    """The class of message that an entry is of; `kind` is the delivery's."""
    if kind == "verdict":
        return MESSAGE_ID_VERDICT
    if kind == "update":
        return MESSAGE_ID_UPDATE
    return MESSAGE_ID_BLINDNESS if alert.source == OWN_SOURCE else MESSAGE_ID_ALERT


def event_text(event_id: EventId) -> str:
    """`1732310000.123:4567`, as audit writes it and `ausearch -a` is asked by; canonical form for other sources."""
    if event_id.serial == 0:
        return event_id.text()
    stamp = f"{event_id.time_ms // 1000}.{event_id.time_ms % 1000:03d}:{event_id.serial}"
    return f"{event_id.node} {stamp}" if event_id.node else stamp


def _field_value(name: str, value: str) -> str:
    return escape_within(value, _JSON_LIMIT_BYTES - len(name) - 2)


def find_journal(path: str = JOURNAL_SOCKET, *, wait_s: float = 0.0) -> None:
    """Return where a journald listens and has room, within `wait_s`; else raise DeliveryError (recoverable).

    `journal.send` reports success where nobody listens, and blocks where journald hangs with a full queue.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.0)
        try:
            probe.connect(path)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
            message = f"no journald is listening at {path} ({reason})"
            raise DeliveryError(message, recoverable=True) from None
        poll = select.poll()
        poll.register(probe, select.POLLOUT)
        if not poll.poll(wait_s * 1000):
            raise DeliveryError(f"journald at {path} does not take messages: its queue is full", recoverable=True)


def send_service_message(message: str, *, priority: int = 6, path: str = JOURNAL_SOCKET) -> None:
    """Tell the journal something about watchdogd itself; `priority` is syslog's. Raises DeliveryError."""
    fields = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": IDENTIFIER}
    _send(MESSAGE_ID_SERVICE, {name: _field_value(name, value) for name, value in fields.items()}, path, 0.0)


def _send(message_id: UUID, fields: dict[str, str], path: str, wait_s: float) -> None:
    find_journal(path, wait_s=wait_s)
    try:
        send_entry(**fields, MESSAGE_ID=message_id, CODE_FILE=__name__)
    except OSError as error:
        raise DeliveryError(f"journald refused the entry: {error.strerror}", recoverable=True) from None


def _send_and_tell(result: Future[None], message_id: UUID, fields: dict[str, str], path: str, wait_s: float) -> None:
    try:
        _send(message_id, fields, path, wait_s)
    except Exception as error:  # noqa: BLE001 (whatever it is, it belongs to who waits)
        result.set_exception(error)
    else:
        result.set_result(None)


class JournaldSink:
    """Writes to the journal of this host. journald acknowledges nothing: after a crash an entry may appear twice.

    `path` is only probed; sending always goes where libsystemd sends. libsystemd's own socket blocks once its buffer
    is full of what a hanging journald did not take, so each entry is sent on a thread that nobody waits for longer
    than `timeout_s`; while one hangs, no other is started.
    """

    def __init__(
        self,
        name: str = "journald",
        *,
        path: str = JOURNAL_SOCKET,
        timeout_s: float = 5.0,
        mask: bool = True,
        masker: Masker | None = None,
    ) -> None:
        """`mask`: whether secrets are masked, see write/masked.py; `masker` is what sinks share."""
        self._masker = masker or Masker()
        self.name = name
        self._mask = mask
        self._path = path
        self._timeout_s = timeout_s
        self._stuck: threading.Thread | None = None

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:  # noqa: ARG002 (the Sink protocol's)
        """Write one entry; raises DeliveryError where no journald takes it."""
        if self._stuck is not None and self._stuck.is_alive():
            raise DeliveryError("journald hangs: an earlier entry is still waiting", recoverable=True)
        message_id = choose_message_id(alert, kind)
        result: Future[None] = Future()
        wait_s = self._timeout_s / 2  # a burst fills the queue (10 entries on some hosts) for a moment only
        fields = journal_fields(self._masker.mask(alert) if self._mask else alert, kind)
        arguments = (result, message_id, fields, self._path, wait_s)
        thread = threading.Thread(target=_send_and_tell, args=arguments, name="journald", daemon=True)
        result.set_running_or_notify_cancel()
        thread.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.wrap_future(result)
        except TimeoutError:
            self._stuck = thread
            message = f"journald hangs: an entry was not taken within {self._timeout_s:g} s"
            raise DeliveryError(message, recoverable=True) from None

    async def close(self) -> None:
        """Nothing is held."""
