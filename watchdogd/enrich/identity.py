"""Names of users: from the log's enriched fields, then from the host itself, never from a machine that replays."""

from __future__ import annotations

import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.ports import Clock

_UNSET_UID = 4294967295


def look_up_host_user(uid: int) -> str | None:
    """Name in this host's user database, None where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


class Identity:
    """User names by uid, remembered for a minute. `look_up` None (replay) knows no names at all."""

    def __init__(
        self, clock: Clock, look_up: Callable[[int], str | None] | None = None, *, keep_s: float = 60.0
    ) -> None:
        self._clock = clock
        self._look_up = look_up
        self._keep_s = keep_s
        self._names: dict[int, tuple[float, str | None]] = {}

    def name(self, uid: int | None) -> str | None:
        """The user's name, None where unknown or unset."""
        if uid is None or uid == _UNSET_UID or self._look_up is None:
            return None
        now_s = self._clock.monotonic_s()
        kept = self._names.get(uid)
        if kept is None or now_s - kept[0] > self._keep_s:
            if len(self._names) > 4096:  # noqa: PLR2004 -- a host with more users than this only looks up again
                self._names.clear()
            kept = (now_s, self._look_up(uid))
            self._names[uid] = kept
        return kept[1]
