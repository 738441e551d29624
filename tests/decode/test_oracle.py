"""Against libauparse, over all third-party logs. The remaining differences are listed in docs/decoding.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.decode.oracle import compare

if TYPE_CHECKING:
    from pathlib import Path

LISTED_RAW = {("CRYPTO_SESSION", "mac"), ("SYSCALL", "key"), ("LOGIN", "auid"), ("LOGIN", "old-auid")}
LISTED_INTERPRETED = {
    ("USER_TTY", "data"),
    ("TTY", "data"),
    ("AVC", "peer"),
    ("SECCOMP", "syscall"),
    ("CONFIG_CHANGE", "op"),
    ("SYSCALL", "a1"),  # chown: owner and group
    ("SYSCALL", "a2"),
}


def test_every_record_and_nearly_every_field_is_as_auparse_reads_it(corpora: Path) -> None:
    result = compare(corpora / "third_party")
    assert result.records > 300
    assert result.missing == []
    theirs = [difference for difference in result.raw if difference.theirs is not None]
    assert 1 - len(theirs) / result.fields >= 0.999
    assert 1 - len(result.interpreted) / result.interpreted_fields >= 0.99
    named_raw = {(each.type, (each.ours or each.theirs or ("",))[0]) for each in result.raw}
    assert named_raw <= LISTED_RAW
    assert {(each.type, each.ours[0]) for each in result.interpreted if each.ours} <= LISTED_INTERPRETED
