"""What a webhook is sent, by its `format`: each format is a function from alert, kind and settings to a Message."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.write.formats.ecs import alert_document

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings

FORMATS: Final = {
    "json": "watchdogd.write.formats.message:build_json",
    "slack": "watchdogd.write.formats.slack:build_slack",
    "discord": "watchdogd.write.formats.discord:build_discord",
    "teams": "watchdogd.write.formats.teams:build_teams",
    "alertmanager": "watchdogd.write.formats.alertmanager:build_alertmanager",
    "ntfy": "watchdogd.write.formats.ntfy:build_ntfy",
    "template": "watchdogd.write.formats.template:build_template",
}
"""Name to `module:function`; loaded when the first alert goes that way."""


class Message(msgspec.Struct, frozen=True):
    """One request's body. `url` is where it goes in place of the configured one."""

    body: bytes
    content_type: str = "application/json"
    url: str | None = None


Format = Callable[["Alert", str, "WebhookSettings"], Message]
"""Pure; secrets are masked before. Raises DeliveryError where the alert can't be put into that form."""


def load_format(name: str) -> Format:
    """The function of a format in FORMATS."""
    module, _, function = FORMATS[name].partition(":")
    found: Format = getattr(import_module(module), function)
    return found


def build_json(alert: Alert, kind: str, settings: WebhookSettings) -> Message:  # noqa: ARG001 - as all formats
    """The whole document (docs/schemas/alert.schema.json)."""
    return Message(msgspec.json.encode(alert_document(alert)))
