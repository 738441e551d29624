"""Who listens on a TCP port of this host, and which Ollama servers run here, on the host and in containers."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.enrich.procfs import read_cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.cli.doctor_site import Site

_LISTENING: Final = "0A"
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


class Listener(msgspec.Struct, frozen=True):
    """A listening socket; `pid` is 0 and `program` empty where only root may see whose it is."""

    address: str
    port: int
    inode: int
    pid: int = 0
    program: str = ""

    @property
    def place(self) -> str:
        """Address and port."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def owner(self) -> str:
        """Program and pid as a person is told."""
        return f"{self.program} (pid {self.pid})" if self.pid else "a program that only root can see"


class Server(msgspec.Struct, frozen=True):
    """A running `ollama serve`; `container` is empty on the host itself."""

    pid: int
    container: str

    @property
    def place(self) -> str:
        """Where it runs, as a person is told."""
        return f"pid {self.pid} in container {self.container[:12]}" if self.container else f"pid {self.pid} on the host"


def list_listeners(site: Site, port: int) -> list[Listener]:
    """Sockets that listen on a port, IPv4 first (/proc/net/tcp and tcp6, proc_pid_net(5))."""
    found = [
        listener
        for name in ("tcp", "tcp6")
        for listener in parse_listeners(_read(site, f"/proc/net/{name}"))
        if listener.port == port
    ]
    owners = _find_owners(site, {listener.inode for listener in found})
    return [
        msgspec.structs.replace(listener, pid=owners[listener.inode], program=site.name_process(owners[listener.inode]))
        if listener.inode in owners
        else listener
        for listener in found
    ]


def parse_listeners(text: str) -> Iterator[Listener]:
    """The listening sockets of one such file."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 10 or words[3] != _LISTENING:  # noqa: PLR2004 - the tenth column is the inode
            continue
        host, _, port = words[1].partition(":")
        raw = bytes.fromhex(host)
        turned = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))  # each word in host order
        yield Listener(str(ipaddress.ip_address(turned)), int(port, 16), int(words[9]))


def list_servers(site: Site) -> list[Server]:
    """Every `ollama serve` of this host, those in containers included."""
    return [
        Server(process.pid, read_cgroup(_read(site, f"/proc/{process.pid}/cgroup"))[1] or "")
        for process in site.list_processes("ollama")
        if "serve" in _read(site, f"/proc/{process.pid}/cmdline").split("\0")
    ]


def _find_owners(site: Site, inodes: set[int]) -> dict[int, int]:
    """Pids by the sockets that they hold; what may not be seen is left out."""
    owners: dict[int, int] = {}
    if not inodes:
        return owners
    for entry in site.path("/proc").iterdir():
        if entry.name.isdigit():
            for link in _read_links(entry / "fd"):
                match = _SOCKET.fullmatch(link)
                if match is not None and int(match[1]) in inodes:
                    owners.setdefault(int(match[1]), int(entry.name))
    return owners


def _read_links(folder: Path) -> Iterator[str]:
    """Where a process's descriptors lead; one that is closed meanwhile is left out."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            yield str(entry.readlink())


def _read(site: Site, name: str) -> str:
    try:
        return site.read(name)
    except OSError:
        return ""
