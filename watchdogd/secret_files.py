"""Secrets that settings name by file: found, read, checked, and masked wherever settings are shown."""

from __future__ import annotations

import base64
import ipaddress
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from watchdogd.errors import Place, Problem, ProblemsError
from watchdogd.marks import read_text

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN = "***"
_MAX_URL_CHARACTERS = 2048
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_SECRET_NAME = re.compile(r"authorization|cookie|token|secret|api-?key|password", re.IGNORECASE)
_SECRET_IN_TEXT = re.compile(
    rf"(?i:{_SECRET_NAME.pattern})(?!\w*_file)[\w-]*['\"]?\s*:(?P<value>.*)|://(?P<rest>[^\s'\"]+)|whsec_(?P<key>\S+)"
)


class _Webhook(Protocol):
    """The parts of a webhook's settings that secrets touch."""

    @property
    def url(self) -> str: ...
    @property
    def url_file(self) -> str | None: ...
    @property
    def secret_file(self) -> str | None: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def headers_file(self) -> str | None: ...


class Search(msgspec.Struct, frozen=True):
    """Where a relative `*_file` may be: systemd's credentials first, then the configuration's folder.

    A credential's name has no slash: what LoadCredential= takes from a folder `credentials` is `credentials_NAME`
    (systemd.exec(5)), and is found by `credentials/NAME`, as it is in the configuration's folder.
    """

    folder: Path | None
    credentials: str | None

    def find(self, name: str) -> Path:
        """Path of the file; in the configuration's folder where it is nowhere."""
        if self.credentials and not Path(name).is_absolute():
            for candidate in (name, name.replace("/", "_")):
                if (Path(self.credentials) / candidate).exists():
                    return Path(self.credentials) / candidate
        return self.folder / name if self.folder is not None else Path(name)


WebhookT = TypeVar("WebhookT", bound=msgspec.Struct)


def mask_url(url: str) -> str:
    """Show scheme, host and port of a URL; user, path and query may be secrets."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    except ValueError:
        return HIDDEN
    rest = "/..." if parts.path.strip("/") or parts.query or parts.fragment else ""
    user = f"{HIDDEN}@" if parts.username or parts.password else ""
    return f"{parts.scheme}://{user}{host}{port}{rest}"


def mask_all(_secret: object) -> str:
    """Show that there is a secret."""
    return HIDDEN


def mask_values(values: dict[str, str]) -> dict[str, str]:
    """Show the names only."""
    return dict.fromkeys(values, HIDDEN)


def blot_secrets(line: str) -> str:
    """Blot out what may be secret in a line of a file, character for character: a caret below it stays right.

    That is the value of every key that sounds like a secret, and of a URL everything but its host.
    """

    def blot(found: re.Match[str]) -> str:
        whole = found.group()
        if (rest := found["rest"]) is not None:
            authority, slash, tail = rest.partition("/")
            user, at, host = authority.rpartition("@")
            return "://" + "*" * len(user) + at + host + slash + "*" * len(tail)
        secret = found["value"] if found["value"] is not None else found["key"]
        return whole[: len(whole) - len(secret)] + re.sub(r"\S", "*", secret)

    return _SECRET_IN_TEXT.sub(blot, line)


def complain_url(url: str) -> str | None:
    """Say what is wrong with an HTTP URL, without quoting it; None where nothing is."""
    if not 0 < len(url) <= _MAX_URL_CHARACTERS:
        return f"must have 1 to {_MAX_URL_CHARACTERS} characters"
    if not url.isprintable() or " " in url:
        return "holds a space or control character"
    try:
        parts = urlsplit(url)
        port_is_wrong = parts.port == 0
    except ValueError:
        return "has a bad host or port"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if not parts.hostname or port_is_wrong:
        return "has a bad host or port"
    return None


def complete_webhook(
    webhook: WebhookT, place_of: Callable[..., Place], search: Search, problems: list[Problem]
) -> WebhookT:
    """Read what a webhook names by file into its `url`, `secret` and `headers`; report what is wrong or unwise."""
    settings: _Webhook = webhook  # type: ignore[assignment]  # config.WebhookSettings, which this module must not import
    url, secret, headers = settings.url, None, dict(settings.headers)
    for name, value in headers.items():
        _check_header(name, value, place_of("headers", name), problems)
        if _SECRET_NAME.search(name):
            message = f"the header {name!r} looks like a secret"
            problems.append(Problem(place_of("headers", name), message, "headers_file keeps it out of here", "warning"))
    if settings.url_file is not None:
        url = read_secret(settings.url_file, place_of("url_file"), search, problems) or ""
        complaint = complain_url(url) if url else None
        if complaint is not None:
            problems.append(Problem(place_of("url_file"), f"the URL in {settings.url_file} {complaint}"))
    if url and not complain_url(url) and _is_exposed(url):
        place = place_of("url" if settings.url else "url_file")
        message = "alerts travel unencrypted to another host"
        problems.append(Problem(place, message, "use https://", "warning"))
    if settings.secret_file is not None:
        secret = read_secret(settings.secret_file, place_of("secret_file"), search, problems)
        if secret is not None and not _is_signing_secret(secret):
            message = f"{search.find(settings.secret_file)} begins with whsec_ and is not base64 behind it"
            problems.append(Problem(place_of("secret_file"), message))
    if settings.headers_file is not None:
        headers |= _read_headers(settings.headers_file, place_of("headers_file"), search, problems)
    return msgspec.structs.replace(webhook, url=url, secret=secret, headers=headers)


def _read_text(
    name: str, place: Place, search: Search, problems: list[Problem], *, is_secret: bool = True
) -> str | None:
    path = search.find(name)
    try:
        text = read_text(path)
        mode = path.stat().st_mode
    except ProblemsError as error:
        problems.extend(Problem(place, f"{found.place.path} {found.message}") for found in error.problems)
        return None
    except OSError as error:
        problems.append(Problem(place, f"{path} cannot be read: {error.strerror}"))
        return None
    if is_secret and mode & stat.S_IROTH and stat.S_ISREG(mode):
        message = f"{path} holds a secret, and every user can read it"
        problems.append(Problem(place, message, f"chmod o-r {path}", "warning"))
    return text


def find_readable(name: str, place: Place, search: Search, problems: list[Problem], *, is_secret: bool) -> Path | None:
    """Path of a file that exists and can be read, else None and a problem."""
    return None if _read_text(name, place, search, problems, is_secret=is_secret) is None else search.find(name)


def has_password(url: str) -> bool:
    """Whether a URL holds one, or a user alone: it may be a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.username or parts.password)


def read_secret(name: str, place: Place, search: Search, problems: list[Problem]) -> str | None:
    """The one line of a file, else None and a problem."""
    text = _read_text(name, place, search, problems)
    if text is None:
        return None
    secret = text.strip()
    if not secret:
        problems.append(Problem(place, f"{search.find(name)} is empty"))
        return None
    if not secret.isprintable():
        problems.append(Problem(place, f"{search.find(name)} must hold one line of text"))
        return None
    return secret


def _read_headers(name: str, place: Place, search: Search, problems: list[Problem]) -> dict[str, str]:
    """`Name: value` on each line; blank lines and lines that begin with # are skipped."""
    headers: dict[str, str] = {}
    for number, line in enumerate((_read_text(name, place, search, problems) or "").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        header, colon, value = line.partition(":")
        where = Place(str(search.find(name)), number, 1)
        if not colon:
            problems.append(Problem(where, "no header", hint="write 'Name: value'"))
        elif _check_header(header.strip(), value.strip(), where, problems):
            headers[header.strip()] = value.strip()
    return headers


def _check_header(name: str, value: str, place: Place, problems: list[Problem]) -> bool:
    if not _HEADER_NAME.fullmatch(name):
        problems.append(Problem(place, "not a header's name: letters, digits and hyphens"))
    elif not (value.isascii() and value.isprintable()):
        problems.append(Problem(place, f"the header {name!r} must be printable ASCII on one line"))
    else:
        return True
    return False


def _is_signing_secret(secret: str) -> bool:
    """Standard Webhooks: `whsec_` and base64; any other text is used as it is."""
    if not secret.startswith("whsec_"):
        return True
    try:
        return bool(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except ValueError:
        return False


def _is_exposed(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme != "http":
        return False
    host = parts.hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
