"""Samples in folders of all shapes: which belong to which rule, and what each failure says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watchdogd.entities import Level, Rule
from watchdogd.errors import Place
from watchdogd.match import syntax
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.samples import (
    FAILED,
    MAX_SAMPLE_BYTES,
    MISSING,
    PASSED,
    SKIPPED,
    find_leftovers,
    find_samples,
    run_samples,
    select_rules,
)

if TYPE_CHECKING:
    from watchdogd.samples import SampleResult

EXEC = b"""\
type=SYSCALL msg=audit(1700000000.100:7): arch=c000003e syscall=59 success=yes exit=0 items=0 ppid=1 pid=20 auid=0 \
uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 \
tty=(none) ses=1 comm="%(name)s" exe="/usr/bin/%(name)s" key=(null)
type=EXECVE msg=audit(1700000000.100:7): argc=1 a0="%(name)s"
"""
BASH, CAT = EXEC % {b"name": b"bash"}, EXEC % {b"name": b"cat"}


def make_body(
    path: Path, number: int = 1, *, reason: str = "", silent: bool = False, name: str = ""
) -> syntax.RuleBody:
    """A rule that matches bash."""
    rule = Rule(f"rule-{number}", f"Rule {number}", Level.HIGH, path=str(path))
    test = syntax.Test("Image", (syntax.Text((syntax.MANY, "/bash")),))
    return syntax.RuleBody(
        rule,
        Place(str(path), 1, 1),
        "" if reason else "process_creation",
        {"bash": syntax.Group((test,), every=True)},
        syntax.Named("bash"),
        reason,
        silent=silent,
        name=name,
    )


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def run_one(folder: Path, body: syntax.RuleBody) -> SampleResult:
    (result,) = run_samples(RuleSet((body,)), [folder])
    return result


@pytest.mark.parametrize("place", ["deep/er/tests", "deep/tests", "tests"])
def test_samples_lie_beside_the_file_or_higher_up(tmp_path: Path, place: str) -> None:
    body = make_body(tmp_path / "deep" / "er" / "shell.yml")
    put(tmp_path / place / "shell" / "fires_once.log", BASH)
    result = run_one(tmp_path, body)
    assert (result.status, result.expected, result.matched) == (PASSED, "match", ("1700000000.100:7",))
    assert result.problem is None


def test_samples_above_the_rule_folder_are_not_its_own(tmp_path: Path) -> None:
    put(tmp_path / "tests" / "shell" / "fires.log", BASH)
    assert run_one(tmp_path / "rules", make_body(tmp_path / "rules" / "shell.yml")).status == MISSING


def test_a_rule_that_should_match_says_what_its_nearest_event_lacks(tmp_path: Path) -> None:
    path = put(
        tmp_path / "tests" / "shell" / "fires.log", b"type=DAEMON_START msg=audit(1700000000.000:1): op=start\n" + CAT
    )
    result = run_one(tmp_path, make_body(tmp_path / "shell.yml"))
    assert (result.status, result.line, result.matched) == (FAILED, 2, ())
    assert str(result.problem) == (
        f"{path}:2: error: 'Rule 1': the rule must match here, and no event does: 1700000000.100:7 comes nearest "
        f"and lacks: Image ends with '/bash' (the rule is {tmp_path}/shell.yml)"
    )


def test_a_rule_that_should_not_match_names_the_event(tmp_path: Path) -> None:
    put(tmp_path / "tests" / "shell" / "quiet.log", CAT.replace(b":7)", b":6)") + BASH)
    result = run_one(tmp_path, make_body(tmp_path / "shell.yml"))
    assert (result.status, result.line, result.expected) == (FAILED, 3, "no match")
    assert "must not match here, and event 1700000000.100:7 does" in result.message


def test_an_event_without_the_view_says_which_it_has(tmp_path: Path) -> None:
    put(tmp_path / "tests" / "shell" / "fires.log", b"type=DAEMON_START msg=audit(1700000000.000:1): op=start\n")
    result = run_one(tmp_path, make_body(tmp_path / "shell.yml"))
    assert result.message.endswith(": the rule looks at process_creation; of this event there is: audit_record")


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"", None, "is empty"),
        (b"no audit line\n" + BASH, None, "decode_garbage_lines_total is 1: some lines are cut off or are no audit"),
        (BASH.replace(b"items=0", b"items=2"), None, "decode_incomplete_events_total is 1"),
        (b'{"Image": "/bin/bash"}\n{"Image": ', 2, "not a JSON object of fields"),
        (b'{"@time_ms": "noon"}\n', 1, "@time_ms a whole number"),
        (b"x" * (MAX_SAMPLE_BYTES + 1), None, "is larger than 4 MiB"),
    ],
)
def test_a_sample_that_cannot_be_read_fails(tmp_path: Path, data: bytes, line: int | None, message: str) -> None:
    put(tmp_path / "tests" / "shell" / "quiet.log", data)
    result = run_one(tmp_path, make_body(tmp_path / "shell.yml"))
    assert (result.status, result.line) == (FAILED, line)
    assert message in result.message


def test_a_folder_in_the_place_of_a_sample_fails(tmp_path: Path) -> None:
    (tmp_path / "tests" / "shell" / "fires.log").mkdir(parents=True)
    assert run_one(tmp_path, make_body(tmp_path / "shell.yml")).message == "is not a file"


def test_fields_are_a_sample_too(tmp_path: Path) -> None:
    body = make_body(tmp_path / "shell.yml")
    put(tmp_path / "tests" / "shell" / "fires.log", b'{"Image": "/bin/cat"}\n\n{"Image": "/bin/bash"}\n')
    put(
        tmp_path / "tests" / "shell" / "quiet.log",
        b'{"Image": "/bin/bash", "@category": "file_event", "@time_ms": 5}\n',
    )
    fires, quiet = run_samples(RuleSet((body,)), [tmp_path])
    assert (fires.status, fires.matched) == (PASSED, ("20.000:3",))
    assert quiet.status == PASSED


def test_inactive_rules_are_skipped_and_others_without_samples_named(tmp_path: Path) -> None:
    bodies = (
        make_body(tmp_path / "one.yml", 1, reason="nothing here reads it"),
        make_body(tmp_path / "two.yml", 2),
        make_body(tmp_path / "three.yml", 3, silent=True),
    )
    results = run_samples(RuleSet(bodies), [tmp_path])
    assert [(result.rule_id, result.status) for result in results] == [("rule-1", SKIPPED), ("rule-2", MISSING)]
    assert results[0].message == "inactive: nothing here reads it"
    assert results[0].problem is None
    problem = results[1].problem
    assert problem is not None
    assert (problem.severity, str(problem.place)) == ("warning", str(tmp_path / "two.yml"))


def test_only_those_that_are_asked_for_run(tmp_path: Path) -> None:
    bodies = (make_body(tmp_path / "one.yml", 1), make_body(tmp_path / "two.yml", 2))
    assert [result.rule_id for result in run_samples(RuleSet(bodies), [tmp_path], {"rule-2"})] == ["rule-2"]


def test_samples_of_one_rule_of_several_stand_in_a_folder_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "both.yml"
    first, second = make_body(path, 1, silent=True, name="base"), make_body(path, 2)
    put(tmp_path / "tests" / "both" / "fires.log", BASH)
    put(tmp_path / "tests" / "both" / "base" / "fires.log", BASH)
    put(tmp_path / "tests" / "both" / "rule-2" / "quiet.log", CAT)
    assert [found.name for found in find_samples(first, [tmp_path])] == ["fires.log"]
    results = run_samples(RuleSet((first, second)), [tmp_path])
    assert [(result.rule_id, Path(result.path).parent.name, result.status) for result in results] == [
        ("rule-1", "base", PASSED),
        ("rule-2", "both", PASSED),
        ("rule-2", "rule-2", PASSED),
    ]


def test_what_a_correlation_builds_on_comes_with_it(tmp_path: Path) -> None:
    base, other = make_body(tmp_path / "a.yml", 1, silent=True), make_body(tmp_path / "a.yml", 2)
    lower, upper = (
        syntax.Correlation(
            Rule(number, number, Level.HIGH, path=str(tmp_path / "c.yml")),
            Place("c.yml"),
            "event_count",
            (syntax.Feed(below, below, ()),),
            (),
            60_000,
            (syntax.Bound("gte", 2),),
            silent=number == "lower",
        )
        for number, below in (("lower", "rule-1"), ("upper", "lower"))
    )
    ruleset = RuleSet((base, other), correlations=(lower, upper))
    part = select_rules(ruleset, "upper")
    assert [body.rule.id for body in part.bodies] == ["rule-1"]
    assert part.bodies[0].silent
    assert [(found.rule.id, found.silent) for found in part.correlations] == [("lower", True), ("upper", False)]
    assert [(found.rule.id, found.silent) for found in select_rules(ruleset, "lower").correlations] == [
        ("lower", False)
    ]


GUESSING = """\
title: Failed
name: failed
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01
level: low
logsource: {product: linux, category: authentication}
detection:
  sel: {Outcome: failure}
  condition: sel
---
title: Guessing
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c02
level: high
correlation:
  type: event_count
  rules: [failed]
  group-by: [SourceIp]
  timespan: 1m
  condition: {gte: 3}
"""


def fail(serial: int, second: int, address: str = "10.0.0.1") -> bytes:
    text = f'exe="/usr/sbin/sshd" hostname={address} addr={address} terminal=ssh res=failed'
    head = (
        f"type=USER_AUTH msg=audit({1_700_000_000 + second}.000:{serial}): pid=9 uid=0 auid=4294967295 ses=4294967295"
    )
    return f"{head} msg='op=PAM:authentication acct=\"root\" {text}'\n".encode()


def test_the_sample_of_a_correlation_is_a_sequence(tmp_path: Path) -> None:
    (tmp_path / "guess.yml").write_text(GUESSING)
    folder = tmp_path / "tests" / "guess"
    put(folder / "fires.log", b"".join(fail(number, 10 * number) for number in range(3)))
    put(folder / "quiet_slow.log", b"".join(fail(number, 31 * number) for number in range(9)))
    put(folder / "quiet_many.log", b"".join(fail(number, number, f"10.0.0.{number}") for number in range(9)))
    ruleset = load_rules([tmp_path])
    results = run_samples(ruleset, [tmp_path])
    assert [(result.title, result.status) for result in results] == [("Guessing", PASSED)] * 3
    assert results[0].matched == ("1700000020.000:2",)
    assert len(run_samples(ruleset, [tmp_path], {"5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01"})) == 3, "it builds on that one"
    put(folder / "fires.log", fail(1, 0) + fail(2, 0))
    result = run_samples(ruleset, [tmp_path])[0]
    assert result.message == "the rule must match here, and no event does (of 2 events 'Failed' matches 2)"
    put(folder / "quiet_slow.log", b"".join(fail(number, number) for number in range(4)))
    result = run_samples(ruleset, [tmp_path])[2]
    assert (result.status, result.line) == (FAILED, 3)


def test_slips_of_the_pen_are_told(tmp_path: Path) -> None:
    (tmp_path / "shell.yml").write_text("")
    put(tmp_path / "tests" / "shell" / "fires.log", BASH)
    put(tmp_path / "tests" / "shell" / "fire.log", BASH)
    put(tmp_path / "tests" / "shell" / "README.md", b"")
    put(tmp_path / "tests" / "shel" / "fires.log", BASH)
    assert [str(problem) for problem in find_leftovers([tmp_path])] == [
        f"{tmp_path}/tests/shel: warning: these samples belong to no rule (no file is called shel.yml)",
        f"{tmp_path}/tests/shell/fire.log: warning: is no sample (fires*.log or quiet*.log)",
    ]
