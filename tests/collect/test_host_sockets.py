from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from watchdogd.collect.host_listeners import KNOWN_LISTENERS, Listeners
from watchdogd.collect.host_processes import ProcProcesses
from watchdogd.collect.host_sockets import MAX_LISTENERS, Holder, Listener, ProcSockets, SocketTable

if TYPE_CHECKING:
    from pathlib import Path

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def make_row(local: str, remote: str, state: str, *, uid: int = 0, inode: int = 5) -> str:
    return f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1 0 100 0\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "sys/net/ipv4/ip_local_port_range").write_text("32768\t60999\n")
    return tmp_path


def test_states_are_counted_and_listeners_found(proc: Path) -> None:
    zero, nobody = "00000000:0000", "00000000000000000000000000000000:0000"
    (proc / "net/tcp").write_text(
        HEADING
        + make_row("00000000:0016", zero, "0A", inode=11)
        + make_row("0100007F:1F90", zero, "0A", uid=33, inode=12)
        + make_row("0100007F:1F90", zero, "0A", uid=33, inode=13)  # SO_REUSEPORT
        + make_row("0100007F:0016", "0200007F:9C40", "01")
        + make_row("0100007F:0016", "0200007F:9C41", "06", inode=0)
        + make_row("0100007F:0016", "0200007F:9C42", "04")
    )
    (proc / "net/tcp6").write_text(HEADING + make_row("0000000000000000FFFF00000100007F:0050", nobody, "0A"))
    (proc / "net/udp").write_text(
        HEADING
        + make_row("00000000:0035", zero, "07", inode=21)
        + make_row("00000000:9C40", zero, "07", inode=22)  # a client's
        + make_row("0100007F:0035", "0200007F:0001", "01", inode=23)  # connected
    )
    table = ProcSockets(proc).read_sockets()
    assert table.listeners == {
        Listener("tcp", "0.0.0.0", 22): {Holder(11, 0)},
        Listener("tcp", "127.0.0.1", 8080): {Holder(12, 33), Holder(13, 33)},
        Listener("tcp", "127.0.0.1", 80): {Holder(5, 0)},
        Listener("udp", "0.0.0.0", 53): {Holder(21, 0)},
    }
    assert {name: count for name, count in table.counts.items() if count} == {
        "sockets.listening": 4,
        "sockets.established": 1,
        "sockets.time_wait": 1,
        "sockets.others": 1,
        "sockets.udp": 3,
    }
    assert not table.is_cut


def test_more_listeners_than_are_looked_at_are_cut(proc: Path) -> None:
    rows = (make_row(f"00000000:{port:04X}", "00000000:0000", "0A") for port in range(1, MAX_LISTENERS + 9))
    (proc / "net/tcp").write_text(HEADING + "".join(rows))
    table = ProcSockets(proc).read_sockets()
    assert len(table.listeners) == MAX_LISTENERS
    assert table.counts["sockets.listening"] == MAX_LISTENERS + 8
    assert table.is_cut


def test_without_a_network_there_is_nothing(proc: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ProcSockets(proc).read_sockets()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_real_listener_is_found_with_its_owner(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((address, 0))
        listening.listen()
        listener = Listener("tcp", address, listening.getsockname()[1])
        holders = ProcSockets().read_sockets().listeners[listener]
        (inode,) = {holder.inode for holder in holders}
        assert {holder.uid for holder in holders} == {os.getuid()}
        assert ProcProcesses().find_owners(frozenset({inode}), [os.getpid()]) == {inode: os.getpid()}


# What is new.


class Host:
    def __init__(self) -> None:
        self.owners: dict[int, int] = {}
        self.images: dict[int, str] = {}
        self.asked: list[frozenset[int]] = []
        self.listeners = Listeners(self.find, lambda pid: {"ProcessId": pid, "Image": self.images[pid]})

    def find(self, inodes: frozenset[int]) -> dict[int, int]:
        self.asked.append(inodes)
        return {inode: pid for inode, pid in self.owners.items() if inode in inodes}

    def look(self, **ports: tuple[int, ...]) -> list[tuple[int, object]]:
        """Ports that opened, with their programs; sockets by port, as `p80=(inode, ...)`."""
        listeners = {
            Listener("tcp", "::", int(port[1:])): frozenset(Holder(inode, 0) for inode in inodes)
            for port, inodes in ports.items()
        }
        opened = self.listeners.note(SocketTable({}, listeners, is_cut=False))
        return [(one.listener.port, one.process.get("Image")) for one in opened]


@pytest.fixture
def host() -> Host:
    host = Host()
    host.owners = {1: 10, 2: 10, 3: 10, 4: 40, 5: 10}
    host.images = {10: "/usr/sbin/nginx", 40: "/tmp/x"}
    return host


def test_what_listens_at_the_start_is_the_baseline(host: Host) -> None:
    assert host.look(p80=(1,)) == []
    assert host.look(p80=(1,)) == []
    assert host.asked == [{1}]  # whose sockets are known is not asked again


def test_a_new_port_is_told_once(host: Host) -> None:
    host.look(p80=(1,))
    assert host.look(p80=(1,), p99=(4,)) == [(99, "/tmp/x")]
    assert host.look(p80=(1,), p99=(4,)) == []


def test_a_service_that_restarts_on_its_port_is_not_told(host: Host) -> None:
    host.look(p80=(1,))
    assert host.look() == []
    assert host.look(p80=(2, 3)) == []
    assert host.look(p80=(2, 3, 5)) == []  # one more worker


def test_another_program_on_a_known_port_is_told(host: Host) -> None:
    host.look(p80=(1,))
    assert host.look(p80=(4,)) == [(80, "/tmp/x")]
    assert host.look(p80=(1,)) == []  # the first one comes back


def test_one_without_an_owner_is_told_all_the_same(host: Host) -> None:
    host.look()
    assert host.look(p81=(77,)) == [(81, None)]


def test_what_is_remembered_is_bounded(host: Host) -> None:
    host.look()
    for start in range(0, 3 * KNOWN_LISTENERS, 1000):
        host.look(**{f"p{start + number}": (start + number + 1000,) for number in range(1000)})
    assert len(host.listeners._known) == KNOWN_LISTENERS


def test_images_of_one_port_are_bounded(host: Host) -> None:
    for inode in range(100, 200):
        host.owners[inode], host.images[inode] = inode, f"/tmp/{inode}"
        host.look(p80=(inode,))
    (known,) = host.listeners._known.values()
    assert len(known.images) <= 16
