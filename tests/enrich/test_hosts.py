"""A log into which several hosts write: pids, names and our own processes of one host mean nothing on another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.enrich.lines import BASE_MS, write_syscall
from tests.enrich.recordings import enrich_lines, make_enricher
from tests.enrich.test_procfs import FakeProc
from watchdogd.decode.decoder import Decoder
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.hosts import HOSTS_LIMIT, choose_node
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import Instance, OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Event, Position, Record
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

INIT, SHELL, ID, NGINX, POSTGRES = (
    *("/usr/lib/systemd/systemd", "/usr/bin/bash", "/usr/bin/id"),
    *("/usr/sbin/nginx", "/usr/bin/postgres"),
)
FOREIGN_BOOT = (
    "type=SYSTEM_BOOT msg=audit(1795000100.000:2): pid=400 uid=0 auid=4294967295 msg=' comm=\"x\" res=success'"
)


def list_lineage(event: Event) -> list[tuple[int, str | None]]:
    return [(ancestor.pid, ancestor.exe) for ancestor in event.lineage]


class Daemon:
    """The daemon's enricher on host `web01`: pid 10 is nginx there, and pid 77 is the daemon itself."""

    def __init__(self, root: Path) -> None:
        proc = FakeProc(root, boot_s=BASE_MS // 1000 - 1000)
        proc.add(1, 0, INIT, start_s=0)
        proc.add(10, 1, NGINX, start_s=5, cgroup="0::/system.slice/nginx.service\n")
        proc.add(77, 1, "/usr/bin/python3", start_s=6)
        self.counters = Counters()
        self.tree = ProcessTree(proc.reader, counters=self.counters)
        self.enricher = Enricher(
            self.tree,
            Identity(SystemClock(), {1001: "alice"}.get),
            Baseline(),
            OwnProcesses([Instance(77, BASE_MS - 990_000, None)]),
            host="web01",
            counters=self.counters,
        )

    def hear(self, *story: list[str], in_file: bool = True) -> Event:
        """The last event of these lines, as the tail of the log (or the kernel's socket) gives them."""
        decoder = Decoder(Counters(), live=False)
        place = Position("audit_log", "1:1:aa", 0, 1) if in_file else None
        records = [Record("audit_log", place, line.encode()) for lines in story for line in lines]
        events = [*decoder.feed(records, 0).events, *decoder.drain().events]
        return [self.enricher.enrich(event) for event in events][-1]


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def test_replay_has_a_tree_for_each_node() -> None:
    story = [
        *write_syscall("execve", 10, 1, NGINX, node="web01"),
        *write_syscall("execve", 10, 1, SHELL, at_ms=1, node="db01"),
        *write_syscall("execve", 11, 10, ID, at_ms=2, node="web01"),
    ]
    assert list_lineage(enrich_lines(story, make_enricher())[-1]) == [(10, NGINX)]


@pytest.mark.parametrize("own", ["", "web01", "WEB01", "web01.example.org"])
def test_live_pids_of_several_nodes_do_not_mix(daemon: Daemon, own: str) -> None:
    daemon.hear(write_syscall("execve", 20, 10, SHELL, node=own))
    foreign = daemon.hear(
        write_syscall("execve", 10, 1, POSTGRES, at_ms=1, node="db01"),
        write_syscall("execve", 30, 10, SHELL, at_ms=2, node="db01"),
    )
    assert list_lineage(foreign) == [(10, POSTGRES)]
    assert foreign.process is not None
    assert (foreign.process.key.boot, foreign.process.user) == ("", None)
    ours = daemon.hear(write_syscall("execve", 31, 10, ID, at_ms=3, node=own))
    assert list_lineage(ours) == [(10, NGINX), (1, INIT)]
    assert ours.process is not None
    assert (ours.process.key.boot, ours.process.user) == ("boot-a", "alice")


@pytest.mark.parametrize("own", ["", "web01"])
def test_a_pid_of_ours_on_another_node_is_not_ours(daemon: Daemon, own: str) -> None:
    assert daemon.hear(write_syscall("connect", 77, 1, SHELL, node=own)).own
    assert not daemon.hear(write_syscall("connect", 77, 1, SHELL, at_ms=1, node="db01")).own
    assert not daemon.hear(write_syscall("execve", 78, 77, SHELL, at_ms=2, node="db01")).own


def test_a_name_that_nothing_explains_is_ours_until_a_better_one_comes(daemon: Daemon) -> None:
    """`name_format = numeric` or `user`: nothing on the host tells that name."""
    assert daemon.hear(write_syscall("connect", 77, 1, SHELL, node="192.0.2.7")).own
    assert not daemon.hear(write_syscall("connect", 77, 1, SHELL, node="192.0.2.8")).own
    assert daemon.hear(write_syscall("connect", 77, 1, SHELL, node="192.0.2.7")).own
    assert daemon.hear(write_syscall("connect", 77, 1, SHELL, node="web01")).own
    assert not daemon.hear(write_syscall("connect", 77, 1, SHELL, node="192.0.2.7")).own


def test_what_was_learnt_of_a_wrong_guess_is_forgotten(daemon: Daemon) -> None:
    daemon.hear(write_syscall("execve", 50, 10, POSTGRES, node="db01"))
    ours = daemon.hear(write_syscall("execve", 51, 50, ID, at_ms=1, node="web01"))
    assert list_lineage(ours) == []


def test_a_log_without_names_is_ours_and_every_name_in_it_is_another_hosts(daemon: Daemon) -> None:
    daemon.hear(write_syscall("execve", 20, 10, SHELL))
    assert not daemon.hear(write_syscall("connect", 77, 1, SHELL, node="db01")).own
    assert daemon.hear(write_syscall("connect", 77, 1, SHELL)).own


def test_the_sockets_lines_say_nothing_of_how_the_log_names_us(daemon: Daemon) -> None:
    assert daemon.hear(write_syscall("connect", 77, 1, SHELL), in_file=False).own
    assert daemon.hear(write_syscall("connect", 77, 1, SHELL, at_ms=1, node="192.0.2.7")).own


def test_lines_of_the_past_tell_it_too(daemon: Daemon) -> None:
    decoder = Decoder(Counters(), live=False)
    decoder.feed([Record("audit_log", None, line.encode()) for line in write_syscall("execve", 20, 10, SHELL)], 0)
    for event in decoder.drain().events:
        daemon.enricher.learn(event)
    assert not daemon.hear(write_syscall("connect", 77, 1, SHELL, node="192.0.2.7")).own


def test_the_start_of_another_host_empties_its_tree_and_no_other(daemon: Daemon) -> None:
    daemon.hear(write_syscall("execve", 20, 10, SHELL, node="web01"))
    daemon.hear(write_syscall("execve", 20, 1, POSTGRES, node="db01"))
    daemon.hear([f"node=db01 {FOREIGN_BOOT}"])
    assert list_lineage(daemon.hear(write_syscall("execve", 21, 20, ID, at_ms=200_000, node="db01"))) == []
    ours = daemon.hear(write_syscall("execve", 21, 20, ID, at_ms=200_000, node="web01"))
    assert list_lineage(ours)[0] == (20, SHELL)


def test_trees_of_other_hosts_share_the_room_of_one(daemon: Daemon) -> None:
    daemon.hear(write_syscall("execve", 20, 10, SHELL, node="web01"))
    own_images = len(daemon.tree)
    for number in range(HOSTS_LIMIT + 3):
        for pid in range(100, 220):
            daemon.hear(write_syscall("execve", pid, 1, SHELL, at_ms=pid, node=f"n{number}"))
    others = daemon.enricher._hosts._others
    assert len(others) == HOSTS_LIMIT
    assert sum(map(len, others.values())) <= daemon.tree.limit
    assert daemon.counters.get("enrich_forgotten_hosts_total") == 3
    assert daemon.counters.get("enrich_evicted_processes_total") > 0
    assert len(daemon.tree) == own_images


def test_the_host_that_was_silent_for_longest_is_forgotten_first(daemon: Daemon) -> None:
    daemon.hear(write_syscall("execve", 20, 10, SHELL, node="web01"))
    daemon.hear(write_syscall("execve", 5, 1, POSTGRES, node="n0"))
    for number in range(1, HOSTS_LIMIT + 1):
        daemon.hear(write_syscall("execve", 5, 1, SHELL, at_ms=number, node=f"n{number}"))
        kept = daemon.hear(write_syscall("execve", 6, 5, ID, at_ms=number, node="n0"))
        assert list_lineage(kept) == [(5, POSTGRES)]


def report_login(node: str, what: str) -> list[str]:
    start = f"node={node} " if node else ""
    stamp = f"msg=audit({BASE_MS // 1000}.500:9):"
    said = f'op=login {what} exe="/usr/sbin/sshd" hostname=? addr=192.0.2.9 terminal=ssh res=success'
    return [f"{start}type=USER_LOGIN {stamp} pid=99 uid=1001 auid=1001 ses=4 msg='{said}'"]


def test_an_account_by_number_gets_its_name_on_its_own_host_alone(daemon: Daemon) -> None:
    fields = daemon.hear(report_login("", "id=1001")).views[0].fields
    assert (fields["User"], fields["SubjectUser"]) == ("alice", "alice")
    fields = daemon.hear(report_login("db01", "id=1001")).views[0].fields
    assert (fields["User"], fields["SubjectUser"]) == ("1001", "1001")


def test_a_number_that_was_typed_as_an_account_is_no_id(daemon: Daemon) -> None:
    fields = daemon.hear(report_login("", 'acct="1001"')).views[0].fields
    assert (fields["User"], fields["SubjectUser"]) == ("1001", "alice")


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        (set(), None),
        ({None}, None),
        ({"192.0.2.7"}, "192.0.2.7"),
        ({"web01", "db01"}, "web01"),
        ({"Web01", "web01.example.org", None}, "Web01"),
        ({"web01.example.org", "db01.example.org"}, "web01.example.org"),
        ({None, "db01"}, None),
        ({"192.0.2.7", "192.0.2.8"}, None),
    ],
)
def test_the_sockets_events_get_the_name_that_the_log_has_for_us(nodes: set[str | None], chosen: str | None) -> None:
    assert choose_node(nodes, "web01") == chosen
