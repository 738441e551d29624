from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from watchdogd.collect.files import CHUNK_BYTES, MAX_LINE_BYTES, read_files
from watchdogd.errors import SourceError
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Record

TEXT = b"".join(b'type=CWD msg=audit(1700000000.000:%d): cwd="/"\n' % serial for serial in range(5000))


def read(*paths: Path | str, counters: Counters | None = None) -> list[bytes]:
    batches = read_files([str(path) for path in paths], counters or Counters())
    return [record.data for batch in batches for record in batch]


def pack(data: bytes, kind: str) -> bytes:
    if kind == "gz":
        return gzip.compress(data)
    if kind == "xz":
        return lzma.compress(data)
    if kind == "zst":
        if shutil.which("zstd") is None:
            pytest.skip("no zstd program")
        return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout
    return data


@pytest.mark.parametrize("kind", ["log", "gz", "xz", "zst"])
def test_plain_and_packed_files_read_alike_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "audit.log.1"
    log.write_bytes(pack(TEXT, kind))
    assert read(log) == TEXT.split(b"\n")[:-1]


@pytest.mark.parametrize("kind", ["log", "gz", "xz", "zst"])
@pytest.mark.parametrize("piped", [True, False])
def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, piped: bool) -> None:
    log = tmp_path / "log"
    log.write_bytes(pack(TEXT, kind))
    with subprocess.Popen(["cat", str(log)], stdout=subprocess.PIPE) as cat, log.open("rb") as direct:
        assert cat.stdout is not None
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(cat.stdout if piped else direct))
        assert read("-") == TEXT.split(b"\n")[:-1]


def test_several_files_are_one_stream_without_positions(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"one\r\ntwo\n")
    (tmp_path / "a").write_bytes(b"three\n\nfour")
    assert read(tmp_path / "b", tmp_path / "a") == [b"one", b"two", b"three", b"four"]
    (batch, *_) = list(read_files([str(tmp_path / "b")], Counters()))
    assert [record.position for record in batch] == [None, None]


def test_lines_across_chunks_stay_whole(tmp_path: Path) -> None:
    lines = [bytes([97 + n % 26]) * (CHUNK_BYTES // 3 + n) for n in range(10)]
    (tmp_path / "log").write_bytes(b"\n".join(lines))
    assert read(tmp_path / "log") == lines


def test_an_over_long_line_is_cut_and_counted(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a\n" + b"x" * (3 * MAX_LINE_BYTES) + b"\nb\n")
    counters = Counters()
    assert read(tmp_path / "log", counters=counters) == [b"a", b"x" * MAX_LINE_BYTES, b"b"]
    assert counters.get("collect_overlong_lines_total") == 1


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert read(tmp_path / "log") == []


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_file_that_was_cut_off_says_so_after_what_can_be_read(tmp_path: Path, kind: str, keep: float) -> None:
    chance = random.Random(1)
    data = b"".join(b"type=CWD %d\n" % chance.getrandbits(64) for _ in range(50_000))
    packed = pack(data, kind)
    (tmp_path / "log").write_bytes(packed[: int(len(packed) * keep)])
    found: list[Record] = []
    batches = read_files([str(tmp_path / "log")], Counters())
    with pytest.raises(SourceError, match="log: is damaged or was cut off"):
        found.extend(record for batch in batches for record in batch)
    assert found
    assert data.startswith(b"\n".join(record.data for record in found))


@pytest.mark.parametrize("data", [b"\x7fELF\x02\x01\x01" + bytes(200), random.Random(7).randbytes(5000)])
def test_binary_data_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "ls").write_bytes(data)
    with pytest.raises(SourceError, match="ls: is no log but binary data"):
        read(tmp_path / "ls")


def test_a_log_with_some_bad_bytes_is_still_a_log(tmp_path: Path) -> None:
    data = b'type=CWD msg=audit(1.000:1): cwd="/\xff\xfe\x00" and more text that is plain\n' * 9
    (tmp_path / "log").write_bytes(data)
    assert len(read(tmp_path / "log")) == 9


def test_a_directory_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Is a directory.*name the files in it"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"absent: cannot be read \(No such file or directory\)"):
        read(tmp_path / "absent")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(TEXT)
    (tmp_path / "log").chmod(0)
    if os.access(tmp_path / "log", os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(SourceError, match="Permission denied"):
        read(tmp_path / "log")


def test_without_the_zstd_program_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(40))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="there is no zstd program"):
        read(tmp_path / "log")
