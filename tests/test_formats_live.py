"""A running daemon whose receivers have formats of the administrator's own: a template, and apprise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, make_exec_lines
from tests.host.receiver import Receiver
from watchdogd.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_template_is_reloaded_or_refused_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = tmp_path / "own.j2"
    template.write_text('{"first": "{{ title }}"}')
    with Receiver() as receiver, Receiver() as service, Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        (tmp_path / "phone.url").write_text(f"json://127.0.0.1:{service.port}/token-abc123\n")
        (tmp_path / "phone.url").chmod(0o600)
        own = "    format: template\n    template_file: own.j2\n"
        phone = "  - name: phone\n    format: apprise\n    url_file: phone.url\n    timeout_s: 60\n"
        daemon.config.write_text(daemon.config.read_text() + own + phone)
        daemon.log.touch()
        daemon.start("--from-start")
        daemon.append(make_exec_lines(1))
        [request] = receiver.wait_for(lambda got: len(got) == 1, 30)
        assert request.document["first"] == "Implant started"
        [told] = service.wait_for(lambda got: len(got) == 1, 60)
        assert told.document["title"] == "high: Implant started"

        template.write_text('{"second":\n "{{ title }}", "x": "{{ nothing }}"}')
        assert main(["reload", "--socket", str(daemon.control)]) != 0
        refused = "".join(capsys.readouterr())
        assert "own.j2:2: error: 'nothing' is undefined" in refused
        daemon.append(make_exec_lines(2))
        assert receiver.wait_for(lambda got: len(got) == 2, 30)[1].document["first"] == "Implant started"

        template.write_text('{"second": "{{ title }}"}')
        assert main(["reload", "--socket", str(daemon.control)]) == 0
        daemon.append(make_exec_lines(3))
        assert receiver.wait_for(lambda got: len(got) == 3, 30)[2].document == {"second": "Implant started"}
        assert daemon.stop() == 0
        assert "token-abc123" not in daemon.said
