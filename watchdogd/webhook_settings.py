"""The settings of webhooks, and what is checked about all of them together."""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from watchdogd import secret_files
from watchdogd.entities import Level
from watchdogd.errors import Place, Problem
from watchdogd.setting_types import FilePath, Settings, Text, Timeout, Url
from watchdogd.transport_checks import complete_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z"
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")


class MatchSettings(Settings, frozen=True, kw_only=True):
    """Which alerts a receiver wants: all that is given must hold, of each list one."""

    levels: tuple[Level, ...] = ()
    rules: tuple[Text, ...] = ()
    tags: tuple[Text, ...] = ()


class WebhookSettings(Settings, frozen=True, kw_only=True):
    """One receiver. `url`, `secret` and `headers` are complete once loaded, whichever file they came from."""

    name: Annotated[
        str,
        Meta(max_length=64, pattern=_NAME_PATTERN, extra={"form": "small letters, digits and hyphens"}),
    ]
    url: Url = ""
    url_file: Text | None = None
    secret_file: Text | None = None
    headers: Annotated[dict[str, str], Meta(extra={"mask": secret_files.mask_values})] = field(default_factory=dict)
    headers_file: Text | None = None
    timeout_s: Timeout = 10.0
    connect_timeout_s: Timeout = 5.0
    max_in_flight: Annotated[int, Meta(ge=1, le=64)] = 4
    min_level: Level = Level.LOW
    match: MatchSettings = field(default_factory=MatchSettings)
    give_up_s: Annotated[float, Meta(gt=0)] = 86_400.0
    ca_file: FilePath | None = None
    format: Literal["json", "slack", "discord", "teams", "alertmanager", "ntfy"] = "json"
    mask: bool = True
    client_certificate: Text | None = None
    client_key: Text | None = None
    proxy: Url = ""
    proxy_file: Text | None = None
    secret: Annotated[str | None, Meta(extra={"internal": True, "mask": secret_files.mask_all})] = None


def complete_webhooks(
    webhooks: tuple[WebhookSettings | None, ...],
    place_of: Callable[..., Place],
    search: secret_files.Search,
    problems: list[Problem],
) -> Iterator[WebhookSettings]:
    """The webhooks with what they name by file; what is wrong with them is added to `problems`."""
    names: dict[str, int] = {"journald": -1}
    for index, webhook in enumerate(webhooks):
        if webhook is None:
            continue  # reported when it was converted
        here = ("webhooks", index)
        if webhook.name in names:
            taken = "names a sink of its own" if names[webhook.name] < 0 else f"is webhooks[{names[webhook.name]}]"
            message = f"webhooks[{index}].name {webhook.name!r} {taken} already"
            problems.append(Problem(place_of(*here, "name"), message, hint="each webhook needs a name of its own"))
        names.setdefault(webhook.name, index)
        if bool(webhook.url) == bool(webhook.url_file):
            said, keys = ("both", ("url_file",)) if webhook.url else ("neither", ())
            message = f"webhooks[{index}] has {said} of url and url_file"
            problems.append(Problem(place_of(*here, *keys), message, hint="one of them says where alerts go"))
        if webhook.ca_file is not None and not os.access(webhook.ca_file, os.R_OK):
            message = f"webhooks[{index}].ca_file {webhook.ca_file} cannot be read"
            problems.append(Problem(place_of(*here, "ca_file"), message))
        place_here = functools.partial(place_of, *here)
        complete = secret_files.complete_webhook(webhook, place_here, search, problems)
        if complete.url and (complaint := complain_path(complete)) is not None:
            problems.append(Problem(place_here("url" if webhook.url else "url_file"), f"webhooks[{index}]{complaint}"))
        yield complete_transport(complete, place_here, search, problems)


def complain_path(webhook: WebhookSettings) -> str | None:
    """Say where the URL is none of the service's that the format is for; None where it may be. Quotes no path."""
    path = urlsplit(webhook.url).path
    if webhook.format == "ntfy" and not _TOPIC.fullmatch(path.rstrip("/").rpartition("/")[2]):
        return ": format ntfy needs the topic's URL, as in https://ntfy.example.org/TOPIC (letters, digits, - and _)"
    if webhook.format == "alertmanager" and not path.endswith("/api/v2/alerts"):
        return ": format alertmanager needs a URL that ends in /api/v2/alerts"
    return None
