"""Dashboards and alert rules: every query parses and names only what a running daemon exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
PROMETHEUS_OWN = {"up"}
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*"}


def list_targets() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def list_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


QUERIES = [*list_targets(), *((rule["alert"], rule["expr"]) for rule in list_rules())]


def find_metrics(expr: str) -> set[str]:
    """Names of the metrics that a query selects. Raises ValueError where it is none."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    found: set[str] = set()

    def walk(node: Any) -> None:  # noqa: ANN401 (the parser's nodes)
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name
            found.add(node.name)
            return
        for name in ("expr", "lhs", "rhs", "param", "args", "vector_selector", "vs"):
            part = getattr(node, name, None)
            for child in part if isinstance(part, list) else [part]:
                if child is not None:
                    walk(child)

    walk(promql_parser.parse(expr))
    return found


def test_there_are_three_dashboards() -> None:
    assert [path.stem for path in DASHBOARDS] == ["ai-triage", "host-security", "watchdog-health"]
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == 3


@pytest.mark.parametrize(("name", "expr"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_names_what_a_running_daemon_exports(exported: set[str], name: str, expr: str) -> None:
    metrics = find_metrics(expr)
    assert metrics, name
    assert metrics <= exported | PROMETHEUS_OWN, metrics - exported


def test_what_is_no_query_or_no_metric_is_found() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        find_metrics("sum(rate(x[5m])")
    assert find_metrics('sum by (a) (rate(x_total{b=~"c"}[5m])) / on() y - min_over_time(z[1h:5m])') == {
        "x_total",
        "y",
        "z",
    }


def test_panels_do_not_overlap() -> None:
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, (path.stem, panel["title"])
            assert max(x for x, _ in cells) < 24
            taken |= cells


def test_every_rule_says_what_to_do() -> None:
    for rule in list_rules():
        assert re.fullmatch(r"Watchdogd[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
    assert len({rule["alert"] for rule in list_rules()}) == len(list_rules())


def test_promtool_agrees() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here")
    done = subprocess.run([promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_are_what_the_generator_writes() -> None:
    command = [sys.executable, str(ROOT / "tools" / "generate_dashboards.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
