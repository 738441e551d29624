"""`watchdogd outbox` against a running daemon: what was refused is listed, sent again under the same id, dropped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon, make_exec_lines, wait_until
from tests.host.receiver import Fault, Receiver
from watchdogd.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_refused_listed_sent_again_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, Any]:
        status = main(["outbox", *arguments, "--socket", str(daemon.control), "--format", "json"])
        out = capsys.readouterr().out
        return status, json.loads(out) if out else None

    gone = Fault(status=410)
    with Receiver(gone, gone) as receiver, Receiver() as other, Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        daemon.config.write_text(daemon.config.read_text() + f"  - name: other\n    url: {other.url}\n")
        daemon.log.touch()
        daemon.start("--from-start")
        daemon.append(make_exec_lines(1) + make_exec_lines(2))
        wait_until(lambda: "deliveries to receiver are given up" in daemon.said, daemon)
        other.wait_for(lambda got: len(got) == 3, 30)
        titles = sorted(request.document["rule"]["name"] for request in other.requests)
        assert titles[0] == "Deliveries to a receiver are given up"
        wait_until(lambda: len(receiver.requests) == 2, daemon)

        status, listed = run("list", "--state", "dead")
        dead = listed["deliveries"]
        assert status == 0
        assert [(row["sink"], row["state"], row["error"]) for row in dead] == [
            ("receiver", "dead", "webhook receiver: answered 410")
        ] * 2
        assert run("retry", str(dead[0]["id"])) == (0, {"count": 1})
        received = receiver.wait_for(lambda got: len(got) == 3, 30)
        first = next(one for one in received if one.document["watchdogd"]["alert_id"] == dead[0]["alert_id"])
        assert received[2].headers["webhook-id"] == first.headers["webhook-id"] == f"alert_{dead[0]['alert_id']}"

        assert run("drop", str(dead[1]["id"]), "--reason", "a drill") == (0, {"count": 1})
        assert run("retry", "--all-dead") == (2, {"count": 0})
        assert run("retry", "--sink", "nobody")[0] == 2
        status, listed = run("list")
        assert [(row["state"], row["error"]) for row in listed["deliveries"]] == [("dropped", "dropped: a drill")]
        assert daemon.stop() == 0
        assert "write_dropped_total=1" in daemon.said
