"""A port that begins to listen, from the kernel's table to the alert: real sockets, real processes, shipped rules."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watchdogd.collect.host_figures import LISTENER
from watchdogd.collect.host_metrics import HostMetrics
from watchdogd.decode.decoder import Decoder
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.context import Contexts
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import Instance, OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.enrich.procfs import ProcReader
from watchdogd.judge import Judge
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters
from watchdogd.triage.scorer import Scorer

if TYPE_CHECKING:
    from watchdogd.entities import Alert

RULES = Path(__file__).resolve().parents[1] / "rules" / "command-and-control"
OUTSIDE_PACKAGES = "0d0b2c0e-96a5-4f0f-8a3b-0a1f4b7a6122"
PROGRAM = (
    "import socket,sys;s=socket.create_server(('0.0.0.0',0));print(s.getsockname()[1],flush=True);sys.stdin.read()"
)


class Clock(SystemClock):
    """A minute passes when the test says so."""

    def __init__(self) -> None:
        self.passed_s = 0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.passed_s


class Host:
    """This host as the daemon sees it, by rules about listeners."""

    def __init__(self, rules: RuleSet, own: tuple[Instance, ...] = ()) -> None:
        self.clock, self.counters = Clock(), Counters()
        self.metrics = HostMetrics(self.counters, self.clock)
        tree = ProcessTree(ProcReader())
        enricher = Enricher(
            tree,
            Identity(self.clock),
            Baseline(),
            OwnProcesses(own),
            host="here",
            contexts=Contexts({}, lambda _: False),
        )
        decoder = Decoder(self.counters, live=True)
        self.judge = Judge(decoder, enricher, Engine(rules), Scorer().score, self.counters, host="here")

    def look(self) -> list[Alert]:
        """Alerts about ports that opened since the last look."""
        self.clock.passed_s += 60
        alerts = self.judge.judge_events(self.metrics.sample(), self.clock.now_ms()).alerts
        return [alert for alert in alerts if alert.fields["metric"] == LISTENER]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    folder = tmp_path_factory.mktemp("rules")
    shutil.copy(RULES / "listener_outside_packages.yml", folder)
    return load_rules([folder])


def start_server() -> tuple[subprocess.Popen[bytes], int]:
    server = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def test_the_alert_says_who_listens_below_whom(rules: RuleSet) -> None:
    host = Host(rules)
    assert host.look() == []
    server, port = start_server()
    with server:
        (alert,) = (alert for alert in host.look() if alert.fields["DestinationPort"] == port)
        assert host.look() == []
        server.communicate()
    assert alert.rule.id == OUTSIDE_PACKAGES
    assert (alert.category, alert.action, alert.fields["ImagePackaged"]) == ("host_metrics", "listen", "false")
    assert alert.process is not None
    assert alert.process.argv == (sys.executable, "-c", PROGRAM)
    assert alert.process.exe == str(Path("/proc/self/exe").readlink())
    assert [process.pid for process in alert.lineage[:2]] == [os.getpid(), os.getppid()]


def test_each_port_is_told_by_itself_though_the_same_rule_held_before(rules: RuleSet) -> None:
    host = Host(rules)
    host.look()
    ports = []
    for _ in range(2):
        server, port = start_server()
        with server:
            ports += [(port, alert.fields["DestinationPort"] == port) for alert in host.look()]
            server.communicate()
    assert [is_it for _, is_it in ports].count(True) == 2


def test_a_port_of_our_own_is_not_alerted_about(rules: RuleSet) -> None:
    start_ms = ProcReader().read_start_ms(os.getpid())
    assert start_ms is not None
    host = Host(rules, own=(Instance(os.getpid(), start_ms, None),))
    host.look()
    with socket.create_server(("0.0.0.0", 0)) as ours:
        port = ours.getsockname()[1]
        assert [alert for alert in host.look() if alert.fields["DestinationPort"] == port] == []
    assert host.counters.get("judge_own_events_total") >= 1
