"""Matchers and silences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.entities import Alert, EventId, Level, Process, ProcessKey, Rule
from watchdogd.labels import ALIASES, LABELS, complain_label, read_label
from watchdogd.silences import (
    Matcher,
    MatcherError,
    Silence,
    check_matchers,
    decode_matchers,
    encode_matchers,
    find_silence,
    parse_matcher,
)

PROCESS = Process(
    key=ProcessKey("", 7, 1),
    pid=7,
    ppid=6,
    exe="/opt/backup/run",
    comm="run",
    argv=("run", "--all"),
    cwd="/srv",
    uid=0,
    user="root",
    auid=1000,
    login="ann",
    session="3",
    tty=None,
)


def make_alert(**changes: object) -> Alert:
    known: dict[str, object] = {
        "id": "a1",
        "time_ms": 1_000,
        "rule": Rule(id="r1", title="Shadow Read", level=Level.HIGH, tags=("attack.t1003", "attack.credential-access")),
        "level": Level.HIGH,
        "source": "audit_log",
        "category": "file_access",
        "action": "read",
        "outcome": "success",
        "events": (EventId("audit_log", None, 1_000, 2),),
        "fields": {"TargetFilename": "/etc/shadow", "Hashes": ("x", "y")},
        "matched": {},
        "process": PROCESS,
        "lineage": (),
        "group_key": "g",
        "first_seen_ms": 1_000,
        "last_seen_ms": 1_000,
        "evidence_score": 0.5,
        "reasons": (),
        "lines": (),
        "host": "web1",
    }
    return Alert(**{**known, **changes})  # type: ignore[arg-type]


def silence(*matchers: str, **changes: object) -> Silence:
    known: dict[str, object] = {
        "id": "s1",
        "matchers": tuple(parse_matcher(text) for text in matchers),
        "created_ms": 0,
        "starts_ms": 100,
        "until_ms": 200,
        "reason": "backup",
        "author": "ann",
    }
    return Silence(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "rule=r1",
        'rule="Shadow Read"',
        "level=high",
        "level!=low",
        "user=root",
        "user=ann",
        "login=ann",
        "user!=bob",
        'executable=~"/opt/.*"',
        "executable!~/usr/.*",
        "host=web1",
        "tag=attack.t1003",
        "command_line=run --all",
        "TargetFilename=~/etc/(passwd|shadow)",
        "Hashes=y",
        "Image=/opt/backup/run",
        "process.executable=/opt/backup/run",
        "container=",
    ],
)
def test_a_matcher_holds(text: str) -> None:
    assert parse_matcher(text).holds(make_alert())


@pytest.mark.parametrize(
    "text",
    [
        "rule=R1",
        "rule=Shadow",
        "level=~hi",
        "level!~(high|critical)",
        "user!=ann",
        "executable=~/opt",
        "tag!=attack.t1003",
        "container=~.+",
        "TargetFilename=/etc/passwd",
    ],
)
def test_a_matcher_does_not_hold(text: str) -> None:
    assert not parse_matcher(text).holds(make_alert())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a matcher"),
        ("user", "not a matcher"),
        ("=x", "not a matcher"),
        ("excutable=/bin/sh", "is no label: one of rule"),
        ("user=~(", "not a regular expression that RE2 knows"),
        (r"user=~(a)\1", "not a regular expression that RE2 knows"),
        ("user=" + "x" * 5000, "longer than 4096 characters"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(MatcherError, match=message):
        parse_matcher(text)


def test_a_silence_says_what_it_silences() -> None:
    with pytest.raises(MatcherError, match="at least one"):
        check_matchers(())
    with pytest.raises(MatcherError, match="more than 32"):
        check_matchers([parse_matcher("user=a")] * 33)
    assert not silence(matchers=()).covers(make_alert())


def test_all_matchers_must_hold() -> None:
    assert silence("user=root", "level=high").covers(make_alert())
    assert not silence("user=root", "level=low").covers(make_alert())


def test_a_silence_holds_from_its_start_until_its_end() -> None:
    one = silence("user=root")
    assert [one.holds_at(ms) for ms in (99, 100, 199, 200)] == [False, True, True, False]
    assert not silence("user=root", ended_ms=150).holds_at(160)


def test_of_several_silences_the_longest_is_named() -> None:
    short, long = silence("user=root", id="z"), silence("level=high", id="a", until_ms=300)
    assert find_silence([short, long, silence("user=bob", until_ms=900)], make_alert(), 150) == long
    assert find_silence([short, long], make_alert(), 250) == long
    assert find_silence([short, long], make_alert(), 300) is None


@given(st.sampled_from(sorted(LABELS)), st.sampled_from(["=", "!=", "=~", "!~"]), st.text())
def test_a_matcher_is_read_again_as_it_was_written(name: str, operator: str, value: str) -> None:
    matcher = Matcher(name, operator, value.encode("utf-8", "replace").decode())
    try:
        again = parse_matcher(matcher.text())
    except MatcherError:
        assert operator.endswith("~")
        return
    assert again == matcher
    assert decode_matchers(encode_matchers([again])) == (again,)


@given(st.text(), st.text())
def test_no_text_of_the_host_makes_a_matcher_fail(value: str, other: str) -> None:
    alert = make_alert(fields={"TargetFilename": value + "\udcff"}, host=other)
    assert Matcher("TargetFilename", "=~", "(?s).*").holds(alert)
    assert Matcher("host", "=", other).holds(alert)


def test_labels_of_an_alert_without_a_process_are_unknown() -> None:
    alert = make_alert(process=None)
    assert [read_label(alert, name) for name in ("user", "executable", "parent", "User")] == [()] * 4


def test_every_alias_means_a_label() -> None:
    assert set(ALIASES.values()) <= set(LABELS)
    assert [complain_label(name) for name in (*LABELS, *ALIASES, "TargetFilename")] == [None] * (
        len(LABELS) + len(ALIASES) + 1
    )
