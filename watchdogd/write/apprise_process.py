"""The process that hands one notification to apprise, and ends.

apprise takes 38 MB and cannot be stopped in the middle; here it takes them for a moment, and can. Nothing of what it
logs is passed on, as that may hold the URL: only the HTTP statuses that services answered with.
"""

from __future__ import annotations

import logging
import re
import sys

import msgspec

_STATUS = re.compile(r"\berror=(\d{3})\b")


class Notification(msgspec.Struct, frozen=True):
    """What is to be told. With `send` false the URL is only read."""

    url: str
    title: str
    body: str
    kind: str
    """`info`, `warning` or `failure`."""
    send: bool = True


class Result(msgspec.Struct, frozen=True):
    """`sent`; `refused`, with the statuses; `unknown` where no service has such a URL; `missing` without apprise."""

    outcome: str
    statuses: tuple[int, ...] = ()


class _Statuses(logging.Handler):
    """Collects the HTTP statuses that apprise's services log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Read one line."""
        self.found += map(int, _STATUS.findall(record.getMessage()))


def notify(notification: Notification) -> Result:
    """Have apprise send it."""
    try:
        import apprise  # noqa: PLC0415 - an extra, and 38 MB
    except ImportError:
        return Result("missing")
    statuses = _Statuses()
    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [statuses], False
    asset = apprise.AppriseAsset(async_mode=False, allow_templates=False, storage_mode="memory")
    service = apprise.Apprise.instantiate(notification.url, asset=asset)
    if service is None:
        return Result("unknown")
    if not notification.send:
        return Result("sent")
    service.overflow_mode = apprise.OverflowMode.TRUNCATE
    sender = apprise.Apprise(asset=asset)
    sender.add(service)
    is_sent = sender.notify(
        body=notification.body,
        title=notification.title,
        notify_type=apprise.NotifyType(notification.kind),
        body_format=apprise.NotifyFormat.TEXT,
    )
    return Result("sent" if is_sent else "refused", tuple(statuses.found))


def main() -> None:
    """Read the notification from standard input and write the result to standard output, as JSON."""
    notification = msgspec.json.decode(sys.stdin.buffer.read(), type=Notification)
    sys.stdout.buffer.write(msgspec.json.encode(notify(notification)))
