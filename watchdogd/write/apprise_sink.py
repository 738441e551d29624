"""Alerts by way of apprise (https://appriseit.com), which knows more than a hundred services."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import DeliveryError
from watchdogd.write.apprise_process import Notification, Result
from watchdogd.write.formats.plain import build_plain, choose_kind
from watchdogd.write.masked import Masker

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_START: Final = (  # signals that the daemon blocks for itself are none of the process's
    "import signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, ()); sys.path.insert(0, sys.argv.pop(1)); "
    "from watchdogd.write.apprise_process import main; main()"
)
_TRY_S: Final = 30.0
_RETRY_STATUS: Final = frozenset({408, 425, 429})
_CLIENT_ERROR: Final = range(400, 500)


class AppriseSink:
    """Has a process of its own tell each alert; one that takes longer than the sink's `timeout_s` is killed.

    Errors name the sink and never the URL, which is a secret as a whole: of some services its host is the token.
    """

    def __init__(self, settings: WebhookSettings, masker: Masker | None = None) -> None:
        """`masker` is what sinks share."""
        self._masker = masker or Masker()
        self.name = settings.name
        self._settings = settings

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:  # noqa: ARG002 (the Sink protocol's)
        """Tell it once; raises DeliveryError. The id goes nowhere: apprise has no place for it."""
        if not self._settings.notify_url:
            raise DeliveryError(f"webhook {self.name}: its URL cannot be used", recoverable=False)
        title, body = build_plain(self._masker.mask(alert) if self._settings.mask else alert, kind)
        notification = Notification(self._settings.notify_url, title, body, choose_kind(alert.level))
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                result = await run_notification(notification, self._settings)
        except TimeoutError:
            message = f"webhook {self.name}: no answer within {self._settings.timeout_s:g} s"
            raise DeliveryError(message, recoverable=True) from None
        except (OSError, msgspec.MsgspecError) as error:
            message = f"webhook {self.name}: apprise cannot be run ({type(error).__name__})"
            raise DeliveryError(message, recoverable=True) from None
        self._judge(result)

    async def close(self) -> None:
        """Nothing is held."""

    def _judge(self, result: Result) -> None:
        if result.outcome == "sent":
            return
        if result.outcome == "missing":
            message = "apprise is not installed: pip install 'watchdogd[apprise]'"
            raise DeliveryError(f"webhook {self.name}: {message}", recoverable=True)
        if result.outcome == "unknown":
            raise DeliveryError(f"webhook {self.name}: apprise knows no service of its URL", recoverable=False)
        statuses = result.statuses
        is_final = bool(statuses) and all(code in _CLIENT_ERROR and code not in _RETRY_STATUS for code in statuses)
        said = f"answered {statuses[-1]}" if statuses else "the service did not take it"
        raise DeliveryError(f"webhook {self.name}: {said}", recoverable=not is_final)


async def run_notification(notification: Notification, settings: WebhookSettings) -> Result:
    """What the process says; it ends with this call. Raises OSError, or MsgspecError where it said nothing of use."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _START, str(_PACKAGE_PARENT)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=choose_environment(settings),
    )
    try:
        answer, _ = await process.communicate(msgspec.json.encode(notification))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return msgspec.json.decode(answer, type=Result)


def complain_service(settings: WebhookSettings) -> str | None:
    """Say where apprise has no service of the sink's URL; None where it has. Blocks for half a second."""
    notification = Notification(settings.notify_url or "", "", "", "info", send=False)
    try:
        result = asyncio.run(asyncio.wait_for(run_notification(notification, settings), _TRY_S))
    except (OSError, TimeoutError, msgspec.MsgspecError) as error:
        return f"apprise cannot be run ({type(error).__name__})"
    return None if result.outcome == "sent" else "apprise knows no service of its URL"


def choose_environment(settings: WebhookSettings) -> dict[str, str]:
    """What the process knows of the world: authorities to trust and a proxy, as `requests` reads them."""
    trusted = settings.ca_file or ssl.get_default_verify_paths().cafile
    chosen = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LC_ALL": "C.UTF-8",
        "REQUESTS_CA_BUNDLE": trusted,
        "HTTP_PROXY": settings.proxy,
        "HTTPS_PROXY": settings.proxy,
    }
    return {name: value for name, value in chosen.items() if value}
