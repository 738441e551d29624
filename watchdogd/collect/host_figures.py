"""What is measured of the host: every metric's name, unit and what it is of; docs/metrics.md says the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Metric(msgspec.Struct, frozen=True):
    """What all figures of one name have in common.

    `behind` names who explains it (one of `host_weights.KINDS`), empty where nobody is sought. `of` is the field that
    tells its series apart, empty where there is one. `slow`: measured with the walk, not with each sample.
    """

    unit: str
    behind: str = ""
    of: str = ""
    slow: bool = False


METRICS: Final[Mapping[str, Metric]] = {
    "cpu.percent": Metric("percent", "cpu"),
    "cpu.percent_5m": Metric("percent", "cpu"),
    "cpu.iowait_percent": Metric("percent", "io"),
    "cpu.steal_percent": Metric("percent"),
    "cpu.core_percent": Metric("percent", "cpu", of="core", slow=True),
    "load.1m": Metric("load", "cpu"),
    "load.5m": Metric("load", "cpu"),
    "load.15m": Metric("load", "cpu"),
    "load.per_cpu_5m": Metric("load", "cpu"),
    "memory.used_percent": Metric("percent", "memory"),
    "memory.available_percent": Metric("percent", "memory"),
    "swap.used_percent": Metric("percent", "memory"),
    "pressure.cpu_some_percent": Metric("percent", "cpu"),
    "pressure.memory_some_percent": Metric("percent", "memory"),
    "pressure.memory_full_percent": Metric("percent", "memory"),
    "pressure.io_some_percent": Metric("percent", "io"),
    "pressure.io_full_percent": Metric("percent", "io"),
    "disk.used_percent": Metric("percent", of="mount"),
    "disk.inodes_used_percent": Metric("percent", of="mount"),
    "disk.io_bytes_per_s": Metric("bytes/s", "io"),
    "disk.read_bytes_per_s": Metric("bytes/s", "io"),
    "disk.write_bytes_per_s": Metric("bytes/s", "io"),
    "disk.operations_per_s": Metric("operations/s", "io"),
    "disk.busy_percent": Metric("percent", "io"),
    "disk.device_bytes_per_s": Metric("bytes/s", of="device", slow=True),
    "disk.device_operations_per_s": Metric("operations/s", of="device", slow=True),
    "disk.device_busy_percent": Metric("percent", of="device", slow=True),
    "network.bytes_per_s": Metric("bytes/s"),
    "network.received_bytes_per_s": Metric("bytes/s"),
    "network.sent_bytes_per_s": Metric("bytes/s"),
    "network.errors_per_s": Metric("errors/s"),
    "network.drops_per_s": Metric("packets/s"),
    "network.interface_bytes_per_s": Metric("bytes/s", of="interface", slow=True),
    "network.interface_errors_per_s": Metric("errors/s", of="interface", slow=True),
    "network.interface_drops_per_s": Metric("packets/s", of="interface", slow=True),
    "sockets.established": Metric("sockets", slow=True),
    "sockets.listening": Metric("sockets", slow=True),
    "sockets.time_wait": Metric("sockets", slow=True),
    "sockets.close_wait": Metric("sockets", slow=True),
    "sockets.syn_received": Metric("sockets", slow=True),
    "sockets.syn_sent": Metric("sockets", slow=True),
    "sockets.others": Metric("sockets", slow=True),
    "sockets.udp": Metric("sockets", slow=True),
    "processes.count": Metric("processes", "group"),
    "processes.threads": Metric("threads", "group"),
    "processes.threads_percent": Metric("percent", "group"),
    "processes.running": Metric("processes", "cpu"),
    "processes.blocked": Metric("processes", "io"),
    "processes.forks_per_s": Metric("forks/s", "forks"),
    "processes.zombies": Metric("processes", "zombies", slow=True),
    "processes.top_cpu_percent": Metric("percent", of="rank", slow=True),
    "processes.top_memory_percent": Metric("percent", of="rank", slow=True),
    "files.open": Metric("files", "files"),
    "files.open_percent": Metric("percent", "files"),
    "files.process_percent": Metric("percent", "files", slow=True),
    "users.logged_in": Metric("users", slow=True),
    "users.sessions": Metric("sessions", slow=True),
    "sensors.temperature_celsius": Metric("celsius", of="sensor", slow=True),
    "gpu.busy_percent": Metric("percent", of="gpu", slow=True),
    "gpu.memory_percent": Metric("percent", of="gpu", slow=True),
    "gpu.temperature_celsius": Metric("celsius", of="gpu", slow=True),
    "clock.step_seconds": Metric("seconds"),
    "clock.offset_seconds": Metric("seconds", slow=True),
    "clock.max_error_seconds": Metric("seconds", slow=True),
    "clock.unsynchronised": Metric("flag", slow=True),
    "services.failed": Metric("services", slow=True),
}

LISTENER: Final = "sockets.listener_opened"
"""The metric of an event, not of a figure: it has no value."""


class Figure(msgspec.Struct, frozen=True, gc=False):
    """One measured value of a metric; `part` is what it is of: a mount, a core, a rank."""

    metric: str
    value: float
    part: str | int | None = None

    @property
    def series(self) -> str:
        """What tells figures of one sample apart: `disk.used_percent:/home`."""
        return self.metric if self.part is None else f"{self.metric}:{self.part}"
