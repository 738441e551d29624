"""A host metric in words: how much, for how long, and by which process, for models and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.triage.guard import clean

if TYPE_CHECKING:
    from watchdogd.entities import Alert

_TEXT_CHARS = 120
_NAMES = {
    "cpu.percent": ("CPU at {} %", "CPU al {} %"),
    "cpu.percent_5m": ("CPU at {} % for 5 min", "CPU al {} % durante 5 min"),
    "memory.used_percent": ("memory {} % used", "memoria ocupada al {} %"),
    "memory.available_percent": ("memory {} % available", "memoria disponible: {} %"),
    "swap.used_percent": ("swap {} % used", "swap ocupado al {} %"),
    "disk.used_percent": ("disk {} % full", "disco lleno al {} %"),
    "disk.inodes_used_percent": ("{} % of the inodes used", "{} % de los inodos ocupados"),
    "disk.io_bytes_per_s": ("disks read and write {} bytes/s", "los discos leen y escriben {} bytes/s"),
    "network.bytes_per_s": ("network carries {} bytes/s", "la red transporta {} bytes/s"),
    "network.errors_per_s": ("{} network errors/s", "{} errores de red/s"),
    "processes.count": ("{} processes", "{} procesos"),
}
_WORDS = {
    "en": ("on", "usual is", "by", "as", "started by"),
    "es": ("en", "lo habitual es", "por", "como", "iniciado por"),
}


def describe(alert: Alert, language: str = "en") -> str:
    """`CPU at 97 % for 5 min (usual is 4), by xmrig as web, started by /bin/sh`; empty for other alerts.

    Made of the fields of a host_metrics event alone; texts of the host are cleaned and masked.
    """
    fields = alert.fields
    metric, value = fields.get("metric"), fields.get("value")
    if alert.category != "host_metrics" or not isinstance(metric, str) or not isinstance(value, int | float):
        return ""
    on, usual, by, as_user, started_by = _WORDS[language]
    names = _NAMES.get(metric)
    said = names[language == "es"].format(_show(value)) if names else f"{clean(metric, 40)}: {_show(value)}"
    if isinstance(mount := fields.get("mount"), str):
        said += f" {on} {clean(mount, _TEXT_CHARS)}"
    if isinstance(baseline := fields.get("baseline"), int | float):
        said += f" ({usual} {_show(baseline)})"
    for words, *sources in (
        (f", {by}", "CommandLine", "Image", "ProcessName"),
        (f" {as_user}", "User"),
        (f", {started_by}", "ParentImage"),
    ):
        text = next((text for name in sources if isinstance(text := fields.get(name), str) and text), "")
        if text:
            said += f"{words} {clean(text, _TEXT_CHARS)}"
    return said


def _show(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")
