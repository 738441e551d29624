"""Sockets of this network namespace: how many in which state, and who listens where. Format: proc_net_tcp(5)."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SOCKETS = 65_536
"""Of each table so many are read."""
MAX_LISTENERS = 1024

_TCP_STATES: Final[Mapping[bytes, str]] = {
    b"01": "sockets.established",
    b"02": "sockets.syn_sent",
    b"03": "sockets.syn_received",
    b"06": "sockets.time_wait",
    b"08": "sockets.close_wait",
    b"0A": "sockets.listening",
}
_LISTENS = b"0A"
_UNCONNECTED = b"07"
_BLOCK = 1 << 16


class Listener(NamedTuple):
    """An open port."""

    protocol: str
    address: str
    port: int


class Holder(NamedTuple):
    """One socket of a listener. Several may listen on one port (SO_REUSEPORT)."""

    inode: int
    uid: int


class SocketTable(NamedTuple):
    """One look at all sockets."""

    counts: dict[str, int]
    """By metric."""
    listeners: dict[Listener, frozenset[Holder]]
    is_cut: bool
    """Whether there were more sockets or listeners than are looked at."""


class SocketReader(Protocol):
    """Where sockets are read."""

    def read_sockets(self) -> SocketTable | None:
        """All sockets. Raises OSError where there is no network."""


class ProcSockets:
    """The tables below `root`, normally /proc; IPv6 may be absent.

    A UDP socket listens where it is bound and connected to nobody, outside of the range from which the kernel takes
    ports for clients: those come and go with each question to a name server.
    """

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root

    def read_sockets(self) -> SocketTable:
        """Some 5 ms where there are few sockets: the kernel walks its whole table of them."""
        counts = dict.fromkeys([*_TCP_STATES.values(), "sockets.others", "sockets.udp"], 0)
        listeners: dict[Listener, set[Holder]] = {}
        is_cut = False
        clients = self._read_client_ports()
        for name in ("tcp", "tcp6", "udp", "udp6"):
            protocol = name.removesuffix("6")
            for number, row in enumerate(self._list_rows(name)):
                if number >= MAX_SOCKETS:
                    is_cut = True
                    break
                state = row[3]
                metric = "sockets.udp" if protocol == "udp" else _TCP_STATES.get(state, "sockets.others")
                counts[metric] += 1
                if state != (_LISTENS if protocol == "tcp" else _UNCONNECTED):
                    continue
                listener = _read_listener(protocol, row[1])
                if protocol == "udp" and listener.port in clients:
                    continue
                if listener not in listeners and len(listeners) >= MAX_LISTENERS:
                    is_cut = True
                    continue
                listeners.setdefault(listener, set()).add(Holder(int(row[9]), int(row[7])))
        return SocketTable(counts, {key: frozenset(holders) for key, holders in listeners.items()}, is_cut)

    def _list_rows(self, name: str) -> Iterator[list[bytes]]:
        try:
            file = (self._root / "net" / name).open("rb", buffering=_BLOCK)
        except FileNotFoundError:
            if name == "tcp":
                raise
            return
        with file:
            next(file, None)  # the heading
            for line in file:
                yield line.split()

    def _read_client_ports(self) -> range:
        try:
            text = (self._root / "sys/net/ipv4/ip_local_port_range").read_bytes()
        except OSError:
            return range(32768, 61000)
        first, last = text.split()
        return range(int(first), int(last) + 1)


def _read_listener(protocol: str, text: bytes) -> Listener:
    """`0100007F:0277`: the address as words of the host's byte order, the port as a number."""
    address, _, port = text.partition(b":")
    words = [address[start : start + 8] for start in range(0, len(address), 8)]
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(packed)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return Listener(protocol, str(ip), int(port, 16))
