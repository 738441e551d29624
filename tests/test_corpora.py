"""Every recorded log there is, from decoding to the printed alert; and how much memory a long one takes."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from itertools import islice
from pathlib import Path

import jsonschema
import msgspec
import pytest

from tests.size import LARGE, choose_items
from watchdogd.cli.display import render_alert
from watchdogd.cli.replay import build_judge, judge_files
from watchdogd.match.library import load_rules
from watchdogd.telemetry import Counters
from watchdogd.write.formats.ecs import alert_document

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MEASURED = """\
import re, sys
from pathlib import Path
from watchdogd.cli.main import main
status = main(sys.argv[1:])
sys.stderr.write(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""
"""The command, and then its own peak of resident memory in KiB (ru_maxrss would hold the test runner's)."""


def list_logs(corpora: Path) -> list[Path]:
    return sorted(
        path
        for path in corpora.rglob("*")
        if path.is_file() and ".log" in path.name and path.suffix in {".log", ".1", ".2", ".3"}
    )


@pytest.mark.sampled
def test_no_log_crashes_anything_and_every_alert_keeps_its_contract(corpora: Path) -> None:
    logs = list_logs(corpora)
    assert len(logs) > 150
    rules = load_rules([ROOT / "rules", corpora / "third_party" / "sigmahq"])
    schema = json.loads((ROOT / "docs" / "schemas" / "alert.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    with_alerts = with_events = 0
    for log in choose_items(logs, 6):
        counters = Counters()
        alerts = list(judge_files(build_judge(rules, counters), [str(log)], counters))
        assert counters.get("judge_events_total") == counters.get("decode_events_total"), log
        with_events += counters.get("decode_events_total") > 0
        # Some are no audit logs but what `ausearch -i` or syslog made of one: counted, not read.
        assert counters.get("decode_events_total") + counters.get("decode_garbage_lines_total") > 0, log
        assert len({alert.id for alert in alerts}) == len(alerts), log
        with_alerts += bool(alerts)
        for alert in islice(alerts, 0, None, 1 + len(alerts) // 5):
            document = json.loads(msgspec.json.encode(alert_document(alert)))
            assert validator.is_valid(document), (log, list(validator.iter_errors(document))[:1])
            text = render_alert(alert).plain
            assert text.isprintable() or text.replace("\n", "").isprintable() or "\xa0" in text, (log, text)
            assert len(text) < 20_000
    assert with_events > (150 if LARGE else 25)
    assert with_alerts > (80 if LARGE else 13)


def test_all_logs_as_one_stream(corpora: Path) -> None:
    logs = [str(log) for log in list_logs(corpora)]
    command = [sys.executable, "-m", "watchdogd", "replay", "--rules", "rules", "--format", "json", "--summary", *logs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    summary = dict(line.split(" ") for line in done.stderr.decode().splitlines() if line.count(" ") == 1)
    shown = [json.loads(line)["watchdogd"]["count"] for line in done.stdout.splitlines()]
    assert int(summary["judge_alerts_total"]) == sum(shown) > len(shown)


def measure_peak_mb(log: Path) -> float:
    command = [sys.executable, "-c", MEASURED, "replay", "--rules", str(ROOT / "rules"), "--triage", "off", str(log)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0
    return int(done.stderr.split()[-1]) / 1024


def test_memory_does_not_grow_with_the_length_of_a_log(corpora: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.log", tmp_path / "half.log"
    whole.write_bytes(lzma.decompress((corpora / "recorded" / "volume.log.xz").read_bytes()))
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) > 200_000
    half.write_bytes(b"".join(lines[: len(lines) // 2]))
    half_mb, whole_mb = measure_peak_mb(half), measure_peak_mb(whole)
    assert whole_mb < 150
    assert whole_mb < half_mb * 1.2, f"{half_mb:.0f} MiB for half of it, {whole_mb:.0f} for the whole"
    print(f"peak: {half_mb:.1f} MiB for half, {whole_mb:.1f} MiB for the whole")  # noqa: T201 -- shown with -s
