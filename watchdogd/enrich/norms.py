"""How unusual a figure of this host is: each series of host metrics against its own past."""

from __future__ import annotations

import logging
import time
import zlib
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from watchdogd.enrich.norm import Norm, Standing
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from watchdogd.entities import Event, FieldMap

log = logging.getLogger("watchdogd.enrich")

SOURCE: Final = "host_metrics"
MAX_SERIES: Final = 512
SAVE_MINUTES: Final = 15
"""How much of what was learnt an unclean end may cost."""

_MINUTE_MS: Final = 60_000
_DAY_S: Final = 86_400
_EPOCH_WEEKDAY: Final = 3
_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_RESOLUTION: Final = {
    "percent": 0.5,
    "load": 0.05,
    "bytes/s": 65536.0,
    "operations/s": 5.0,
    "packets/s": 1.0,
    "errors/s": 0.1,
    "forks/s": 1.0,
    "processes": 2.0,
    "threads": 8.0,
    "files": 64.0,
    "sockets": 4.0,
    "users": 1.0,
    "sessions": 1.0,
    "services": 0.5,
    "celsius": 2.0,
    "seconds": 0.05,
    "flag": 0.5,
}
"""Least spread by unit: a figure that never moved must not turn its first small step into a huge z-score."""
_OTHER_RESOLUTION: Final = 0.1
_IDLE_MINUTES: Final = 60


class Norms:
    """One norm a series, at most MAX_SERIES: one unseen for an hour makes room, the longest first; else new ones wait.

    `take_changes` hands to the store what a restart needs: each series every SAVE_MINUTES.
    """

    def __init__(
        self,
        stored: Mapping[str, bytes] | None = None,
        *,
        counters: Counters | None = None,
        localtime: Callable[[float], time.struct_time] = time.localtime,
    ) -> None:
        """`stored`: what `take_changes` gave, by series. What cannot be read is counted, and begins anew."""
        self._stored = dict(stored or {})
        self._counters = counters or Counters()
        self._localtime = localtime
        self._norms: dict[str, Norm] = {}
        self._minute = self._slot = 0
        self._due: set[str] = set()

    def describe(self, event: Event) -> Event:
        """The metric event with what is usual (`baseline`) and how far it strays from that, in spreads (`zscore`).

        `zscore_5m` is that of the last five minutes' median. All are None in the warm-up. An anomaly adds `anomaly`,
        `since` and `minutes`; `baseline_hour` says of which hour of the week the baseline is, once that is known.
        An event that has a z-score is left alone.
        """
        view = event.views[0]
        value = view.fields.get("value")
        if not isinstance(value, int | float) or "zscore" in view.fields:
            return event
        minute = event.id.time_ms // _MINUTE_MS
        if minute != self._minute:
            self._minute, self._slot = minute, self._name_slot(event.id.time_ms / 1000)
        series = event.id.name
        norm = self._norms.get(series) or self._open(series, str(view.fields.get("unit")))
        if norm is None:
            return event
        norm.add(value, minute, self._slot)
        if (minute + zlib.crc32(series.encode())) % SAVE_MINUTES == 0:
            self._due.add(series)
        return replace(event, views=(replace(view, fields=self._judge(norm, view.fields, value)),))

    def take_changes(self, *, everything: bool = False) -> dict[str, bytes]:
        """By series, what is to be stored: what fell due since the last call, or all of it at a stop."""
        due, self._due = self._norms.keys() if everything else self._due, set()
        return {series: msgspec.msgpack.encode(norm.freeze()) for series in due if (norm := self._norms.get(series))}

    def _judge(self, norm: Norm, fields: FieldMap, value: float) -> FieldMap:
        center = norm.center
        if center is None:
            return {**fields, "baseline": None, "zscore": None, "zscore_5m": None}
        window = norm.window_zscore
        judged: FieldMap = {
            **fields,
            "baseline": round(center, 3),
            "zscore": round((value - center) / norm.spread, 2),
            "zscore_5m": None if window is None else round(window, 2),
        }
        if norm.is_seasoned:
            judged["baseline_hour"] = f"{_WEEKDAYS[self._slot // 24]} {self._slot % 24:02}"
        if found := norm.anomaly:
            judged["anomaly"], since = found
            judged["since"] = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(since * 60))
            judged["minutes"] = self._minute - since
        return judged

    def _open(self, series: str, unit: str) -> Norm | None:
        """A series that was not seen in this life; None where there is no room."""
        if len(self._norms) >= MAX_SERIES:
            oldest = min(self._norms, key=lambda name: self._norms[name].minute)
            if self._minute - self._norms[oldest].minute < _IDLE_MINUTES:
                self._counters.add("enrich_norms_full_total")
                return None
            del self._norms[oldest]
        resolution = _RESOLUTION.get(unit, _OTHER_RESOLUTION)
        norm = None
        state = self._stored.pop(series, None)
        if state is not None:
            try:
                norm = Norm(resolution, msgspec.msgpack.decode(state, type=Standing))
            except (msgspec.MsgspecError, ValueError) as error:
                self._counters.add("enrich_norms_unread_total")
                log.warning("what was usual of a metric cannot be read, it is learnt anew: %s", error)
        norm = self._norms[series] = norm or Norm(resolution)
        return norm

    def _name_slot(self, time_s: float) -> int:
        """The hour of the week, local time: people's habits go by that. 0 is Monday, midnight."""
        try:
            local = self._localtime(time_s)
        except (OverflowError, ValueError, OSError):  # a clock far from any calendar: UTC's week serves as well
            days, rest = divmod(int(time_s), _DAY_S)
            return (days + _EPOCH_WEEKDAY) % 7 * 24 + rest // 3600
        return local.tm_wday * 24 + local.tm_hour
