"""`watchdogd silence` against a real daemon: what it mutes is stored and not sent."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.daemon import IMPLANT, Daemon, make_exec_lines, wait_until
from watchdogd.cli.main import main
from watchdogd.cli.silence import print_table, render_made
from watchdogd.listings import SilenceMade, SilenceReport

if TYPE_CHECKING:
    from tests.host.receiver import Receiver

EVIL = "\x1b[2J\nevil\u202e"
SILENCE = SilenceReport(EVIL, (EVIL,), 1, 1_795_000_000_000, False, EVIL, EVIL, 7)  # noqa: FBT003 - as it is sent


@pytest.fixture
def daemon(daemon: Daemon) -> Daemon:
    """Started."""
    daemon.start("--from-start")
    return daemon


def run(daemon: Daemon, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main([*arguments, "--socket", str(daemon.control)])
    said = capsys.readouterr()
    return status, said.out, said.err


def count_listed(daemon: Daemon, capsys: pytest.CaptureFixture[str], state: str) -> int:
    return len(run(daemon, capsys, "alerts", "list", "--state", state, "--format", "json")[1].splitlines())


def test_what_is_silenced_is_stored_and_not_sent(
    daemon: Daemon, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.append(make_exec_lines(1))
    receiver.wait_for(lambda received: len(received) == 1, 30)
    options = ("--rule", "implant started", "--executable", f"{IMPLANT[:-1]}*", "--until", "2h", "--reason", "exercise")
    status, out, err = run(daemon, capsys, "silence", "add", *options)
    assert (status, err) == (0, "")
    first, of, title, advice = out.splitlines()
    silence = re.fullmatch(
        r'silence (\w{8}) until 20\d\d-.*Z: rule="Implant started" executable=~"/opt/evil/implan\.\*"', first
    )
    assert silence is not None
    assert (of, title) == ("of the last day's 1 alert it would have muted 1:", "  1  Implant started")
    assert "--state silenced" in advice
    daemon.append(make_exec_lines(2, pid=4_200_002))
    wait_until(lambda: count_listed(daemon, capsys, "silenced") == 1, daemon)
    _, out, _ = run(daemon, capsys, "silence", "list")
    assert re.search(rf"^{silence[1]}  20\S+ \S+Z  1      \S+.*  exercise$", out, re.MULTILINE)
    _, out, _ = run(daemon, capsys, "alerts", "list", "--state", "silenced", "--format", "json")
    (alert,) = map(json.loads, out.splitlines())
    _, out, _ = run(daemon, capsys, "alerts", "show", alert["watchdogd"]["alert_id"])
    assert re.search(rf"^  silenced {silence[1]}: exercise \(by ", out, re.MULTILINE)
    assert "  told     nobody\n" in out
    _, out, _ = run(daemon, capsys, "status")
    assert re.search(rf"^silence +{silence[1]}: .*; muted 1; exercise", out, re.MULTILINE)
    status, out, _ = run(daemon, capsys, "silence", "expire", silence[1][:4])
    assert (status, out) == (0, f"silence {silence[1]} has ended: it muted 1 alert\n")
    daemon.append(make_exec_lines(3, pid=4_200_003))
    wait_until(lambda: count_listed(daemon, capsys, "all") == 3, daemon)
    assert count_listed(daemon, capsys, "silenced") == 1
    assert f"silence {silence[1]} was ended by" in daemon.said
    assert [request.headers["x-watchdogd-kind"] for request in receiver.requests].count("alert") <= 2


def test_what_is_refused_or_odd_is_said(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--until", "2h", "--reason", "exercise")
    for options, said in {
        common: "at least one matcher is needed",
        (*common, "--match", 'user!="bob"'): "would silence every alert",
        ("--rule", "x", "--until", "1h", "--reason", " "): "a silence needs a reason",
        ("--rule", "x", "--until", "soon", "--reason", "y"): "--until soon: must be a duration",
        ("--rule", "x", "--until", "2020-01-01", "--reason", "y"): "must end in the future",
    }.items():
        status, out, err = run(daemon, capsys, "silence", "add", *options)
        assert (status, out) == (2, "")
        assert said in err
    status, out, err = run(daemon, capsys, "silence", "add", "--rule", "Misspelt", *common)
    assert (status, "is it spelled like this?" in err) == (0, True)
    assert "of the last day's 0 alerts it would have muted none" in out
    _, out, _ = run(daemon, capsys, "silence", "list", "--format", "json")
    (silence,) = json.loads(out)["silences"]
    assert silence["matchers"] == ['rule="Misspelt"']
    status, _, err = run(daemon, capsys, "silence", "end", "zz")
    assert (status, "no silence has an id that begins with" in err) == (2, True)
    status, out, _ = run(daemon, capsys, "silence", "add", "--all-rules", *common, "--format", "json")
    assert (status, json.loads(out)["silence"]["matchers"]) == (0, ['rule=~"(?s).*"'])


@pytest.mark.parametrize(
    "arguments", [(), ("add", "--rule", "x", "--until", "1h"), ("add", "--rule", "x", "--reason", "y"), ("end",)]
)
def test_usage(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["silence", *arguments])
    assert caught.value.code == 2


def test_hostile_text_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([SILENCE])
    print_table([])
    shown, said = capsys.readouterr()
    shown += "\n".join(render_made(SilenceMade(SILENCE, 5_000, complete=False, covered=2, titles={EVIL: 2})))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert not re.search(r"^evil", shown, re.MULTILINE)
    assert "of the newest 5000 alerts it would have muted 2:" in shown
    assert said == "1 in force\n0 in force\n"
