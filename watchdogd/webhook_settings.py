"""The settings of webhooks, and what is checked about all of them together."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, field

from watchdogd import secret_files
from watchdogd.entities import Label, Level
from watchdogd.errors import Place, Problem, ProblemsError
from watchdogd.marks import read_text
from watchdogd.setting_types import FilePath, Settings, Text, Timeout, Url
from watchdogd.transport_checks import complete_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z"
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")
_ANY_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S")
_NOT_OF_APPRISE = ("headers", "headers_file", "secret_file", "client_certificate", "client_key", "template_file")
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
_CONTENT_TYPE = re.compile(rf"{_WORD}/{_WORD}(?: ?; ?{_WORD}={_WORD})*")


def complain_content_type(content_type: str) -> str | None:
    """Say what is wrong with a media type; None where nothing is."""
    return None if _CONTENT_TYPE.fullmatch(content_type) else "must be a media type, such as application/json"


class MatchSettings(Settings, frozen=True, kw_only=True):
    """Which alerts a receiver wants: all that is given must hold, of each list one."""

    levels: tuple[Level, ...] = ()
    rules: tuple[Text, ...] = ()
    tags: tuple[Text, ...] = ()
    verdicts: tuple[Label, ...] = ()


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
    format: Literal["json", "slack", "discord", "teams", "alertmanager", "ntfy", "template", "apprise"] = "json"
    template_file: FilePath | None = None
    content_type: Annotated[str, Meta(max_length=200, extra={"check": complain_content_type})] = "application/json"
    mask: bool = True
    client_certificate: Text | None = None
    client_key: Text | None = None
    proxy: Url = ""
    proxy_file: Text | None = None
    secret: Annotated[str | None, Meta(extra={"internal": True, "mask": secret_files.mask_all})] = None
    template: Annotated[str | None, Meta(extra={"internal": True})] = None
    """What `template_file` holds."""
    notify_url: Annotated[str | None, Meta(extra={"internal": True, "mask": secret_files.mask_all})] = None
    """What `url_file` holds, of the format apprise. `url` is empty then: it may be shown in part, this may not."""


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
        if webhook.format == "apprise":
            yield _complete_apprise(webhook, f"webhooks[{index}]", place_here, search, problems)
            continue
        complete = secret_files.complete_webhook(webhook, place_here, search, problems)
        if complete.url and (complaint := complain_path(complete)) is not None:
            problems.append(Problem(place_here("url" if webhook.url else "url_file"), f"webhooks[{index}]{complaint}"))
        complete = _complete_template(complete, f"webhooks[{index}]", place_here, problems)
        yield complete_transport(complete, place_here, search, problems)


def complain_path(webhook: WebhookSettings) -> str | None:
    """Say where the URL is none of the service's that the format is for; None where it may be. Quotes no path."""
    path = urlsplit(webhook.url).path
    if webhook.format == "ntfy" and not _TOPIC.fullmatch(path.rstrip("/").rpartition("/")[2]):
        return ": format ntfy needs the topic's URL, as in https://ntfy.example.org/TOPIC (letters, digits, - and _)"
    if webhook.format == "alertmanager" and not path.endswith("/api/v2/alerts"):
        return ": format alertmanager needs a URL that ends in /api/v2/alerts"
    return None


def _complete_template(
    webhook: WebhookSettings, name: str, place_of: Callable[..., Place], problems: list[Problem]
) -> WebhookSettings:
    """Read the template and try it with made-up alerts: what is wrong with it is said now, not when an alert is due."""
    path = webhook.template_file
    if (webhook.format == "template") != (path is not None):
        has, hint = ("a template_file", "format: template uses it") if path is not None else ("no template_file", "")
        message = f"{name} has format {webhook.format} and {has}"
        problems.append(Problem(place_of("template_file" if path is not None else "format"), message, hint))
    if path is None or webhook.format != "template":
        return webhook
    try:
        source = read_text(Path(path))
    except ProblemsError as error:
        problems.extend(Problem(place_of("template_file"), f"{path} {found.message}") for found in error.problems)
        return webhook
    problems.extend(_try_template(source, path, webhook.content_type))
    return msgspec.structs.replace(webhook, template=source)


def _try_template(source: str, path: str, content_type: str) -> Iterator[Problem]:
    """The first mistake."""
    from watchdogd.message_samples import list_samples  # noqa: PLC0415 - only where there is a template
    from watchdogd.message_templates import MessageTemplate, TemplateFault  # noqa: PLC0415 - as above: 2 MB

    tried = ""
    try:
        template = MessageTemplate(source, path, content_type)
        for what, values in list_samples():
            tried = f" (tried with {what})"
            template.fill(values)
    except TemplateFault as fault:
        yield Problem(Place(path, fault.line or 1), f"{fault}{tried}")


def _complete_apprise(
    webhook: WebhookSettings,
    name: str,
    place_of: Callable[..., Place],
    search: secret_files.Search,
    problems: list[Problem],
) -> WebhookSettings:
    """Read the URL, say where apprise is not there, and what settings mean nothing to it."""
    if importlib.util.find_spec("apprise") is None:
        message = f"{name} has format apprise, and apprise is not installed"
        problems.append(Problem(place_of("format"), message, "pip install 'watchdogd[apprise]'"))
    for setting in _NOT_OF_APPRISE:
        if getattr(webhook, setting):
            message = f"{name}.{setting} is not used by format apprise"
            problems.append(Problem(place_of(setting), message, severity="warning"))
    if webhook.url:
        message = f"{name}.url is not used by format apprise, whose URLs are secrets"
        problems.append(Problem(place_of("url"), message, "url_file keeps it out of here"))
    plain = msgspec.structs.replace(webhook, client_certificate=None, client_key=None, url="")
    complete = complete_transport(plain, place_of, search, problems)
    if webhook.url_file is None:
        return complete
    url = secret_files.read_secret(webhook.url_file, place_of("url_file"), search, problems)
    if url is not None and not _ANY_URL.match(url):
        message = f"what {search.find(webhook.url_file)} holds is no URL"
        problems.append(Problem(place_of("url_file"), message, "such as tgram://TOKEN/CHAT"))
    return msgspec.structs.replace(complete, notify_url=url)
