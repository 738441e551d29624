"""A figure of the host as a person says it: how much, since when, what is usual, and by which process."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import FieldMap

_NAMES: Final = {
    "cpu.percent": ("CPU at {}", "CPU al {}"),
    "cpu.percent_5m": ("CPU at {} for 5 min", "CPU al {} durante 5 min"),
    "cpu.iowait_percent": ("CPU waiting for disks {} of the time", "CPU a la espera de los discos el {} del tiempo"),
    "cpu.steal_percent": (
        "{} of the CPU given to others by the hypervisor",
        "el hipervisor da a otros el {} de la CPU",
    ),
    "memory.used_percent": ("memory {} used", "memoria ocupada al {}"),
    "memory.available_percent": ("memory {} available", "memoria disponible: {}"),
    "swap.used_percent": ("swap {} used", "swap ocupado al {}"),
    "pressure.memory_full_percent": (
        "everybody waiting for memory {} of the time",
        "todos a la espera de memoria el {} del tiempo",
    ),
    "pressure.io_full_percent": (
        "everybody waiting for disks {} of the time",
        "todos a la espera de los discos el {} del tiempo",
    ),
    "disk.used_percent": ("disk {} full", "disco lleno al {}"),
    "disk.inodes_used_percent": ("{} of the inodes used", "{} de los inodos ocupados"),
    "disk.io_bytes_per_s": ("disks read and write {}", "los discos leen y escriben {}"),
    "disk.read_bytes_per_s": ("{} read from disks", "{} leídos de los discos"),
    "disk.write_bytes_per_s": ("{} written to disks", "{} escritos en los discos"),
    "network.bytes_per_s": ("network carries {}", "la red transporta {}"),
    "network.received_bytes_per_s": ("{} received", "{} recibidos"),
    "network.sent_bytes_per_s": ("{} sent", "{} enviados"),
    "network.errors_per_s": ("{} network errors/s", "{} errores de red/s"),
    "network.drops_per_s": ("{} packets dropped/s", "{} paquetes perdidos/s"),
    "sockets.established": ("{} TCP connections", "{} conexiones TCP"),
    "sockets.listening": ("{} TCP sockets listening", "{} sockets TCP a la escucha"),
    "sockets.close_wait": ("{} TCP connections not closed", "{} conexiones TCP sin cerrar"),
    "sockets.syn_received": ("{} half-open connections", "{} conexiones a medio abrir"),
    "sockets.syn_sent": ("{} connections being tried", "{} conexiones en curso de abrirse"),
    "processes.count": ("{} processes", "{} procesos"),
    "processes.threads": ("{} threads", "{} hilos"),
    "processes.zombies": ("{} ended processes that nobody waits for", "{} procesos zombis"),
    "processes.forks_per_s": ("{} processes made/s", "{} procesos creados/s"),
    "files.open": ("{} open files", "{} ficheros abiertos"),
    "users.logged_in": ("{} users logged in", "{} usuarios conectados"),
    "users.sessions": ("{} sessions", "{} sesiones"),
    "services.failed": ("{} failed services", "{} servicios fallidos"),
}
_OURS: Final = re.compile(r"[a-z0-9_./%]{1,64}")
_LASTING: Final = {"cpu.percent_5m": "cpu.percent"}
"""What is said of a metric of minutes where it is known how long it has lasted."""
_DAYS: Final = {
    "Mon": ("Mondays", "lunes"),
    "Tue": ("Tuesdays", "martes"),
    "Wed": ("Wednesdays", "miércoles"),
    "Thu": ("Thursdays", "jueves"),
    "Fri": ("Fridays", "viernes"),
    "Sat": ("Saturdays", "sábados"),
    "Sun": ("Sundays", "domingos"),
}
_PARTS: Final = ("mount", "device", "interface", "sensor", "gpu", "core")
"""What a metric may be of."""
_SPOKEN: Final = frozenset({"percent", "bytes/s"})
"""Units that are said even where the name of the metric says what is counted."""
_SIZES: Final = ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"))
_HOURS_FROM, _DAYS_FROM = 120, 2880
"""Minutes from which hours, and days, are said."""


def describe_figure(fields: FieldMap, show: Callable[[str], str], language: str = "en") -> str:
    """`CPU at 97 % for 25 min (usual on Mondays at 14 h: 12 %), by "xmrig" as "web", started by "/bin/sh"`.

    Made of the fields of a host_metrics event alone, empty for others. `show` makes a text of the host harmless:
    every one passes it.
    """
    said = describe_amount(fields, show, language)
    return said and said + describe_culprit(fields, show, language)


def describe_amount(fields: FieldMap, show: Callable[[str], str], language: str = "en") -> str:
    """How much, for how long, and what is usual; empty where there is no figure."""
    metric, value = fields.get("metric"), fields.get("value")
    if not isinstance(metric, str) or not isinstance(value, int | float):
        return ""
    is_spanish = language == "es"
    minutes, unit = fields.get("minutes"), str(fields.get("unit") or "")
    lasts = isinstance(minutes, int) and fields.get("anomaly") is not None
    names = _NAMES.get(_LASTING.get(metric, metric) if lasts else metric)
    amount = _say_value(value, unit if names is None or unit in _SPOKEN else "", show)
    said = f"{_show_name(metric, show)}: {amount}" if names is None else names[is_spanish].format(amount)
    part = next((text for name in _PARTS if (text := fields.get(name)) is not None), None)
    if part is not None:
        said += f" {'en' if is_spanish else 'on'} {show(str(part))}"
    if lasts and isinstance(minutes, int):
        said += _say_time(minutes, is_growing=fields.get("anomaly") == "leak", is_spanish=is_spanish)
    baseline = fields.get("baseline")
    if isinstance(baseline, int | float):
        usual = _say_value(baseline, unit if unit in _SPOKEN else "", show)
        said += f" ({_say_usual(fields.get('baseline_hour'), is_spanish=is_spanish)} {usual})"
    return said


def describe_culprit(fields: FieldMap, show: Callable[[str], str], language: str = "en") -> str:
    """The process that explains most of it: `, by "xmrig" as "web", started by "/bin/sh"`, as far as it is known."""
    by, as_user, started_by = ("por", "como", "iniciado por") if language == "es" else ("by", "as", "started by")
    said = ""
    for words, *names in (
        (f", {by}", "CommandLine", "Image", "ProcessName"),
        (f" {as_user}", "User"),
        (f", {started_by}", "ParentImage"),
    ):
        text = next((text for name in names if isinstance(text := fields.get(name), str) and text), "")
        if text:
            said += f"{words} {show(text)}"
    return said


def _say_value(value: float, unit: str, show: Callable[[str], str]) -> str:
    if unit == "bytes/s":
        size, name = next(((size, name) for size, name in _SIZES if abs(value) >= size), (1.0, "B/s"))
        return f"{_round(value / size)} {name}"
    said = _round(value)
    return f"{said} %" if unit == "percent" else f"{said} {_show_name(unit, show)}" if unit else said


def _show_name(name: str, show: Callable[[str], str]) -> str:
    """A name of ours as it is; what looks like none is the host's."""
    return name if _OURS.fullmatch(name) else show(name)


def _round(number: float) -> str:
    """Three digits that count, never an exponent: `97`, `4.25`, `0.004`, `12345`."""
    magnitude = abs(number)
    places = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3  # noqa: PLR2004
    said = f"{number:.{places}f}"
    return said.rstrip("0").rstrip(".") if places else said


def _say_time(minutes: int, *, is_growing: bool, is_spanish: bool) -> str:
    if minutes < _HOURS_FROM:
        time = f"{minutes} min"
    elif minutes < _DAYS_FROM:
        time = f"{minutes // 60} h"
    else:
        time = f"{minutes // 1440} {'días' if is_spanish else 'days'}"
    if is_growing:
        return f", y creciendo desde hace {time}" if is_spanish else f", growing for {time}"
    return f" desde hace {time}" if is_spanish else f" for {time}"


def _say_usual(hour: object, *, is_spanish: bool) -> str:
    """`usual is`, or `usual on Mondays at 14 h:` where the hour of the week is known."""
    day, _, number = hour.partition(" ") if isinstance(hour, str) else ("", "", "")
    if day in _DAYS and number.isdecimal():
        return (
            f"lo habitual los {_DAYS[day][1]} a las {int(number)} h:"
            if is_spanish
            else f"usual on {_DAYS[day][0]} at {int(number)} h:"
        )
    return "lo habitual es" if is_spanish else "usual is"
