"""Messages of the kernel's audit group become the lines that auditd writes. The live socket is in tests/host."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.collect.netlink_messages import Kernel, make_message
from tests.collect.probing import assert_answers
from tests.daemon import make_exec_lines
from watchdogd.collect.audit_netlink import SOURCE, AuditNetlink, clean_text, cut_messages
from watchdogd.decode.tables import name_type
from watchdogd.errors import SourceError
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from watchdogd.entities import Record

LINES = make_exec_lines(7, 1_795_000_000_123).splitlines()
NOW_MS = 1_795_000_000_500


class StillClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0


class Bench:
    def __init__(self, batch_lines: int = 64) -> None:
        self.counters = Counters()
        self.source = AuditNetlink(name_type, self.counters, StillClock(), batch_lines=batch_lines)
        self.kernel = Kernel()
        self.source._socket = self.kernel  # type: ignore[assignment]
        self.batches: list[list[Record]] = []

    def step(self) -> None:
        self.source.step(self._take)

    def _take(self, records: list[Record]) -> None:
        self.batches.append(records)

    def lines(self) -> list[bytes]:
        return [record.data for batch in self.batches for record in batch]

    def holes(self) -> list[int]:
        return [batch[0].lost_ms for batch in self.batches]


def test_messages_become_the_lines_that_auditd_writes() -> None:
    bench = Bench()
    bench.kernel.queue += [make_message(line) for line in LINES]
    bench.step()
    assert bench.lines() == LINES
    record = bench.batches[0][0]
    assert (record.source, record.position, record.lost_ms) == (SOURCE, None, 0)
    bench.step()
    assert len(bench.batches) == 1


def test_a_type_without_a_name_is_written_as_auditd_does() -> None:
    bench = Bench()
    bench.kernel.queue.append(make_message(b"type=UNKNOWN[1999] msg=audit(1.000:1): x=1"))
    bench.step()
    assert bench.lines() == [b"type=UNKNOWN[1999] msg=audit(1.000:1): x=1"]


def test_lines_name_the_node_where_the_log_does() -> None:
    bench = Bench()
    bench.source.use_node("web01")
    bench.kernel.queue.append(make_message(LINES[0]))
    bench.step()
    assert bench.lines() == [b"node=web01 " + LINES[0]]


def test_an_overrun_is_counted_and_the_batches_around_the_hole_say_so() -> None:
    bench = Bench(batch_lines=2)
    messages = [make_message(line) for line in LINES]
    bench.kernel.queue += [*messages[:2], None, *messages[2:4]]
    bench.step()
    bench.kernel.queue += messages[4:]
    bench.step()
    bench.kernel.queue += messages[:1]
    bench.step()
    hole = b""
    assert bench.lines() == [*LINES[:2], hole, *LINES[2:4], hole, *LINES[4:], LINES[0]]
    assert bench.holes() == [0, NOW_MS, 0, NOW_MS, 0, 0]
    assert bench.counters.get("collect_netlink_overruns_total") == 1


def test_a_hole_is_said_even_where_nothing_follows() -> None:
    bench = Bench()
    bench.kernel.queue.append(None)
    bench.step()
    assert bench.lines() == [b"", b""]
    assert bench.holes() == [NOW_MS, NOW_MS]


def test_while_the_queue_was_never_seen_empty_the_hole_may_still_come() -> None:
    bench = Bench(batch_lines=1024)
    bench.kernel.queue += [None, *[make_message(LINES[0])] * 1500]
    for _ in range(3):
        bench.step()
    assert bench.holes() == [NOW_MS, 0, NOW_MS, NOW_MS, 0, NOW_MS]
    assert [len(batch) for batch in bench.batches] == [1, 1024, 1, 1, 476, 1]


def test_a_message_of_a_program_is_no_record() -> None:
    bench = Bench()
    bench.kernel.sender = 4242
    bench.kernel.queue.append(make_message(LINES[0]))
    bench.step()
    assert bench.batches == []
    assert bench.counters.get("collect_netlink_foreign_total") == 1


def test_a_cut_message_is_counted_and_kept() -> None:
    bench = Bench()
    bench.kernel.flags = socket.MSG_TRUNC
    bench.kernel.queue.append(make_message(LINES[0])[:100])
    bench.step()
    assert bench.lines() == [LINES[0][: 100 - 16 + len(b"type=SYSCALL msg=")]]
    assert bench.counters.get("collect_netlink_truncated_total") == 1


def test_any_other_error_ends_the_run() -> None:
    bench = Bench()
    bench.kernel.queue.append(errno.ENOTCONN)
    with pytest.raises(SourceError, match="the log is read all the same"):
        bench.step()


def test_several_messages_in_one_datagram_and_messages_of_netlink_itself() -> None:
    first, second = make_message(LINES[0]), make_message(LINES[1])
    padded = first + b"\0" * (-len(first) % 4)
    done = struct.pack("=IHHII", 16, 3, 0, 0, 0)
    expected = [(1300, LINES[0].partition(b" msg=")[2]), (1309, LINES[1].partition(b" msg=")[2])]
    assert list(cut_messages(padded + done + second)) == expected


def test_a_length_without_the_header_is_understood() -> None:
    message = make_message(LINES[0])
    short = struct.pack("=I", len(message) - 16) + message[4:]
    assert list(cut_messages(short)) == list(cut_messages(message))


@given(st.lists(st.binary(max_size=80)))
def test_nothing_in_a_datagram_makes_it_raise(datagrams: list[bytes]) -> None:
    bench = Bench()
    bench.kernel.queue += datagrams
    bench.step()
    assert all(b"\n" not in line and b"\0" not in line for line in bench.lines())


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=60))
def test_whatever_the_header_says_the_text_stays_inside(length: int, kind: int, rest: bytes) -> None:
    datagram = struct.pack("=IHHII", length, kind, 0, 0, 0) + rest
    for number, text in cut_messages(datagram):
        assert number >= 1000
        assert text in rest


def test_text_is_cleaned_as_auditd_does() -> None:
    assert clean_text(b"audit(1.000:1): msg='a\nb'\0garbage") == b"audit(1.000:1): msg='a b'"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPERM, "CAP_AUDIT_READ"),
        (errno.EAFNOSUPPORT, "this container"),
        (errno.EPROTONOSUPPORT, "this container"),
        (errno.EMFILE, "the log is read all the same"),
    ],
)
def test_where_it_may_not_it_says_what_to_do(number: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(socket, "socket", refuse)
    source = AuditNetlink(name_type, Counters(), StillClock())
    with pytest.raises(SourceError, match=said):
        source.run(lambda _: None)


class Socket:
    """What the kernel lets an unprivileged reader do: CAP_AUDIT_READ, but not CAP_NET_ADMIN."""

    def __init__(self, may_force: bool, may_join: bool) -> None:  # noqa: FBT001 - a fake
        self._may_force, self._may_join = may_force, may_join
        self.options: list[tuple[int, int]] = []
        self.bound: tuple[int, int] | None = None
        self.closed = False

    def settimeout(self, timeout_s: float) -> None:
        assert timeout_s == 0

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert level == socket.SOL_SOCKET
        if option == SO_RCVBUFFORCE and not self._may_force:
            raise PermissionError(errno.EPERM, "no")
        self.options.append((option, value))

    def getsockopt(self, *_: int) -> int:
        return 0

    def bind(self, address: tuple[int, int]) -> None:
        if not self._may_join:
            raise PermissionError(errno.EPERM, "no")
        self.bound = address

    def close(self) -> None:
        self.closed = True


SO_RCVBUFFORCE = 33


@pytest.mark.parametrize(("may_force", "option"), [(True, SO_RCVBUFFORCE), (False, socket.SO_RCVBUF)])
def test_it_asks_for_room_and_takes_what_it_may(
    may_force: bool,  # noqa: FBT001 - a table
    option: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without CAP_NET_ADMIN the kernel cuts SO_RCVBUF to net.core.rmem_max and says nothing."""
    opened = Socket(may_force, may_join=True)
    monkeypatch.setattr(socket, "socket", lambda *_: opened)
    source = AuditNetlink(name_type, Counters(), StillClock())
    source.open()
    assert opened.options == [(option, 8 << 20)]
    assert opened.bound == (0, 1)
    source.close()
    assert opened.closed


def test_a_socket_that_may_not_join_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Socket(may_force=False, may_join=False)
    monkeypatch.setattr(socket, "socket", lambda *_: opened)
    with pytest.raises(SourceError, match="CAP_AUDIT_READ"):
        AuditNetlink(name_type, Counters(), StillClock()).open()
    assert opened.closed


def test_a_probe_is_answered_while_nothing_comes() -> None:
    source = AuditNetlink(name_type, Counters(), StillClock())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(0)
    source._socket = ours
    assert_answers(source)
    theirs.close()


def test_stop_ends_a_run_that_waits() -> None:
    source = AuditNetlink(name_type, Counters(), StillClock())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(0)
    source._socket = ours
    thread = threading.Thread(target=source.run, args=(lambda _: None,))
    thread.start()
    source.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert ours.fileno() == -1
    theirs.close()
