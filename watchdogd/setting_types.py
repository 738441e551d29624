"""What settings are made of: their base, and the kinds of values that several of them hold."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from watchdogd import conversion, secret_files

Text = Annotated[str, Meta(min_length=1)]
FilePath = Annotated[str, Meta(min_length=1, extra={"path": True})]
Timeout = Annotated[float, Meta(gt=0, le=86_400)]
RuleId = Annotated[
    str,
    Meta(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z", extra={"form": "a rule's id (a UUID)"}),
]
Url = Annotated[str, Meta(extra={"check": secret_files.complain_url, "mask": secret_files.mask_url})]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all settings: shown only as their types allow (`conversion.describe`)."""

    def __repr__(self) -> str:
        """Name and values, secrets masked."""
        shown = ", ".join(f"{name}={value!r}" for name, value in conversion.describe(self).items())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As `repr`, for rich."""
        return list(conversion.describe(self).items())
