"""The daemon's wall clock is set while alerts wait: they go out after the wait that they had, not an hour later."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.daemon import Daemon, wait_until
from tests.faults.scene import append, ask_status, read_ids
from tests.host.receiver import Fault, Receiver

pytestmark = pytest.mark.slow

HOUR_S = 3600


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    made: Path = tmp_path_factory.mktemp("clock") / "shift_clock.so"
    source = Path(__file__).with_name("shift_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


def prepare(daemon: Daemon, library: Path) -> None:
    daemon.environ |= {"LD_PRELOAD": str(library), "SHIFT_CLOCK": str(daemon.folder / "shift")}
    daemon.log.touch()


def set_clock(daemon: Daemon, shift_s: int) -> None:
    file = daemon.folder / "shift.new"
    file.write_text(str(shift_s))
    file.rename(daemon.folder / "shift")


@pytest.mark.parametrize("shift_s", [-HOUR_S, pytest.param(HOUR_S, marks=pytest.mark.host)])
def test_a_deadline_of_triage_survives_it(tmp_path: Path, receiver: Receiver, library: Path, shift_s: int) -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        extra = f"triage:\n  ollama_url: {url}\n  timeout_s: 600\n  deadline_s:\n    high: 3\n"
        with Daemon(tmp_path, webhook_url=receiver.url, extra=extra) as daemon:
            prepare(daemon, library)
            daemon.start()
            expected = append(daemon, range(1, 2))
            wait_until(lambda: ask_status(daemon)["counters"].get("store_alerts_total") == 1, daemon)
            set_clock(daemon, shift_s)
            wait_until(lambda: read_ids(receiver) == expected, daemon)
            wait_until(lambda: ask_status(daemon)["counters"]["store_clock_steps_total"] == 1, daemon)
            assert "the clock was set" in daemon.said
            expected |= append(daemon, range(2, 3))
            wait_until(lambda: read_ids(receiver) == expected, daemon)
            assert daemon.stop() == 0


def test_a_retry_survives_a_clock_that_is_set_back_and_a_restart(
    tmp_path: Path, receiver: Receiver, library: Path
) -> None:
    receiver.answer_next(*[Fault(status=503, headers=(("Retry-After", "3"),))] * 2)
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        prepare(daemon, library)
        daemon.start()
        expected = append(daemon, range(1, 2))
        wait_until(lambda: ask_status(daemon)["counters"].get("write_retries_total") == 1, daemon)
        set_clock(daemon, -HOUR_S)
        wait_until(lambda: ask_status(daemon)["counters"].get("write_retries_total") == 2, daemon)
        daemon.kill()
        set_clock(daemon, -2 * HOUR_S)  # once more, while nobody sees it
        before = len(receiver.requests)
        daemon.start()
        wait_until(lambda: len(receiver.requests) > before and read_ids(receiver) == expected, daemon)
        wait_until(lambda: ask_status(daemon)["counters"].get("write_sent_total") == 1, daemon)
        assert daemon.stop() == 0
