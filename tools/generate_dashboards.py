#!/usr/bin/env python3
"""Write deploy/grafana/*.json, the dashboards: what they show stands here in a few lines a panel.

    tools/generate_dashboards.py            # writes the files
    tools/generate_dashboards.py --check    # exit 1 where one is not what this would write

Format: Grafana's dashboard JSON model (schema version 39).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "grafana"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HOST = 'instance=~"$instance"'
WIDTH = 24


class Panel(NamedTuple):
    """One panel. `queries` are legend and PromQL; `@` stands for the chosen hosts."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    red_from: float | None = None
    """Red from this value on (of `stat`)."""
    red_below: float | None = None
    description: str = ""
    stack: bool = False


def quantile(share: float, start: str) -> str:
    """Latency of the model's server."""
    buckets = f'watchdogd_ai_request_seconds_bucket{{@,start="{start}"}}[$__rate_interval]'
    return f"histogram_quantile({share}, sum by (le) (rate({buckets})))"


SECURITY = (
    Panel("Critical and high, last 24 h", (("", 'sum(increase(watchdogd_alerts_by_level_total{@,level=~"critical|high",state="active"}[24h]))'),), kind="stat", width=4, height=5, red_from=1),
    Panel("Alerts, last 24 h", (("", "sum(increase(watchdogd_store_active_alerts_total{@}[24h]))"),), kind="stat", width=4, height=5),
    Panel("Repeats folded, last 24 h", (("", "sum(increase(watchdogd_store_folded_alerts_total{@}[24h]))"),), kind="stat", width=4, height=5),
    Panel("Blind to", (("", "sum(watchdogd_blind_conditions{@})"),), kind="stat", width=4, height=5, red_from=1, description="What watchdogd cannot see now; `watchdogd status` names it."),
    Panel("Dead letters", (("", 'sum(watchdogd_deliveries{@,state="dead"})'),), kind="stat", width=4, height=5, red_from=1, description="Deliveries that were given up: `watchdogd outbox list`."),
    Panel("Rules in force", (("", 'min(watchdogd_rules{@,state="active"})'),), kind="stat", width=4, height=5, red_below=1),
    Panel("Alerts by level", (("{{level}}", 'sum by (level) (increase(watchdogd_alerts_by_level_total{@,state="active"}[$__rate_interval]))'),), width=12, stack=True),
    Panel("Verdicts", (("{{label}}", "sum by (label) (increase(watchdogd_verdicts_total{@}[$__rate_interval]))"),), width=12, stack=True, description="What triage made of them; `untriaged` where nobody judged."),
    Panel("Alerts by what became of them", (("{{state}}", "sum by (state) (increase(watchdogd_alerts_by_level_total{@}[$__rate_interval]))"),), width=12, stack=True, description="active, folded into an earlier one, inhibited by another, silenced."),
    Panel("Deliveries waiting", (("{{sink}}", 'sum by (sink) (watchdogd_deliveries{@,state="pending"})'),), width=12),
    Panel("Events judged and matches", (("events/s", "sum(rate(watchdogd_judge_events_total{@}[$__rate_interval]))"), ("matches/s", "sum(rate(watchdogd_judge_matches_total{@}[$__rate_interval]))")), width=12, unit="ops"),
    Panel("In the database", (("{{state}}", "sum by (state) (watchdogd_stored_alerts{@})"),), width=12),
)  # fmt: skip

TRIAGE = (
    Panel("Model's server", (("", "min(watchdogd_ai_reachable{@})"),), kind="stat", width=4, height=5, red_below=1),
    Panel("Model in memory", (("", "min(watchdogd_ai_model_loaded{@})"),), kind="stat", width=4, height=5, red_below=1),
    Panel("Passed its exam", (("", "min(watchdogd_ai_model_examined{@})"),), kind="stat", width=4, height=5, description="Only then does the model's label carry weight."),
    Panel("VRAM in use", (("", "sum(watchdogd_ai_vram_bytes{@})"),), kind="stat", width=4, height=5, unit="bytes"),
    Panel("Questions a minute", (("", "sum(rate(watchdogd_triage_requests_total{@}[5m])) * 60"),), kind="stat", width=4, height=5),
    Panel("Orders to the model", (("", "sum(increase(watchdogd_triage_injections_total{@}[24h]))"),), kind="stat", width=4, height=5, red_from=1, description="Alerts, last 24 h, whose text reads like an instruction to a model."),
    Panel("Latency, warm", (("median", quantile(0.5, "warm")), ("95 %", quantile(0.95, "warm"))), width=12, unit="s"),
    Panel("Latency, cold", (("median", quantile(0.5, "cold")), ("95 %", quantile(0.95, "cold"))), width=12, unit="s", description="The server had to load the model first."),
    Panel("Questions a minute, through the API, too", (("triage", "sum(rate(watchdogd_triage_requests_total{@}[$__rate_interval])) * 60"), ("free questions", "sum(rate(watchdogd_api_questions_total{@}[$__rate_interval])) * 60")), width=12),
    Panel("Tokens a second", (("{{kind}}", "sum by (kind) (rate(watchdogd_ai_tokens_total{@}[$__rate_interval]))"),), width=12),
    Panel("VRAM and memory by model", (("{{model}} VRAM", "sum by (model) (watchdogd_ai_vram_bytes{@})"), ("{{model}} in all", "sum by (model) (watchdogd_ai_model_bytes{@})")), width=12, unit="bytes"),
    Panel("Waiting and asked", (("waiting", "sum(watchdogd_ai_waiting{@})"), ("in flight", "sum(watchdogd_ai_in_flight{@})"), ("budget left", "sum(watchdogd_ai_budget_left{@})")), width=12),
    Panel("Answered without asking", (("kept verdict", "sum(increase(watchdogd_triage_cached_total{@}[$__rate_interval]))"), ("same question", "sum(increase(watchdogd_triage_folded_total{@}[$__rate_interval]))"), ("shed", "sum(increase(watchdogd_triage_shed_total{@}[$__rate_interval]))"), ("over quota", "sum(increase(watchdogd_triage_over_quota_total{@}[$__rate_interval]))")), width=12, stack=True),
    Panel("No verdict", (("timeouts", "sum(increase(watchdogd_triage_timeouts_total{@}[$__rate_interval]))"), ("errors", "sum(increase(watchdogd_triage_errors_total{@}[$__rate_interval]))"), ("breaker open", "sum(increase(watchdogd_triage_breaker_open_total{@}[$__rate_interval]))"), ("obeyed an order", "sum(increase(watchdogd_triage_obeyed_total{@}[$__rate_interval]))")), width=12, stack=True),
    Panel("Breaker", (("{{state}}", "max by (state) (watchdogd_ai_breaker{@})"),), width=12, stack=True),
    Panel("Whose verdicts", (("{{by}}", "sum by (by) (increase(watchdogd_verdicts_total{@}[$__rate_interval]))"),), width=12, stack=True),
)  # fmt: skip

HEALTH = (
    Panel("Up", (("", "min(up{@})"),), kind="stat", width=4, height=5, red_below=1),
    Panel("Every count adds up", (("", "min(watchdogd_ledger_complete{@})"),), kind="stat", width=4, height=5, red_below=1, description="`watchdogd status` shows the ledger."),
    Panel("Last reload accepted", (("", "min(watchdogd_last_load_accepted{@})"),), kind="stat", width=4, height=5, red_below=1),
    Panel("Sources not read", (("", "count(watchdogd_source_running{@} == 0) or vector(0)"),), kind="stat", width=4, height=5, red_from=1),
    Panel("Lost in the kernel", (("", "sum(increase(watchdogd_collect_kernel_lost_total{@}[24h]))"),), kind="stat", width=4, height=5, red_from=1),
    Panel("Database refuses", (("", "max(watchdogd_store_refusing{@}) or vector(0)"),), kind="stat", width=4, height=5, red_from=1),
    Panel("Memory", (("{{instance}}", "process_resident_memory_bytes{@}"),), width=12, unit="bytes"),
    Panel("CPU", (("{{instance}}", "rate(process_cpu_seconds_total{@}[$__rate_interval])"),), width=12, unit="percentunit"),
    Panel("Lines and records", (("logs", "sum(rate(watchdogd_collect_lines_total{@}[$__rate_interval]))"), ("kernel's socket", "sum(rate(watchdogd_collect_netlink_lines_total{@}[$__rate_interval]))"), ("decoded", "sum(rate(watchdogd_decode_lines_total{@}[$__rate_interval]))")), width=12, unit="ops"),
    Panel("Events", (("decoded", "sum(rate(watchdogd_decode_events_total{@}[$__rate_interval]))"), ("sampled", "sum(rate(watchdogd_collect_sampled_events_total{@}[$__rate_interval]))"), ("judged", "sum(rate(watchdogd_judge_evaluated_events_total{@}[$__rate_interval]))"), ("our own", "sum(rate(watchdogd_judge_own_events_total{@}[$__rate_interval]))")), width=12, unit="ops"),
    Panel("Loss on the way in", (("garbage", "sum(increase(watchdogd_decode_garbage_lines_total{@}[$__rate_interval]))"), ("gaps", "sum(increase(watchdogd_decode_serial_gaps_total{@}[$__rate_interval]))"), ("incomplete", "sum(increase(watchdogd_decode_incomplete_events_total{@}[$__rate_interval]))"), ("torn", "sum(increase(watchdogd_collect_torn_lines_total{@}[$__rate_interval]))"), ("socket overrun", "sum(increase(watchdogd_collect_netlink_overruns_total{@}[$__rate_interval]))")), width=12, stack=True),
    Panel("Deliveries", (("sent", "sum(increase(watchdogd_write_sent_total{@}[$__rate_interval]))"), ("tried again", "sum(increase(watchdogd_write_retries_total{@}[$__rate_interval]))"), ("given up", "sum(increase(watchdogd_write_dead_letters_total{@}[$__rate_interval]))")), width=12, stack=True),
    Panel("How long a stage takes, 99 %", tuple((stage, f'histogram_quantile(0.99, sum by (le) (rate(watchdogd_stage_seconds_bucket{{@,stage="{stage}"}}[$__rate_interval])))') for stage in ("judge", "commit", "deliver")), width=12, unit="s"),
    Panel("Between two stages", (("{{amount}}", 'sum by (amount) (watchdogd_in_hand{@,amount=~".*(queued|open|held|now)"})'),), width=12),
    Panel("Database", (("{{instance}}", "watchdogd_database_bytes{@}"),), width=12, unit="bytes"),
    Panel("API", (("requests", "sum(rate(watchdogd_api_requests_total{@}[$__rate_interval]))"), ("refused", "sum(rate(watchdogd_api_refused_total{@}[$__rate_interval]))"), ("failed", "sum(rate(watchdogd_api_failed_total{@}[$__rate_interval]))")), width=12, unit="ops"),
)  # fmt: skip

DASHBOARDS = {
    "host-security": ("watchdogd: host security", SECURITY),
    "ai-triage": ("watchdogd: AI triage", TRIAGE),
    "watchdog-health": ("watchdogd: health of the watchdog", HEALTH),
}


def build(uid: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """One dashboard."""
    return {
        "uid": f"watchdogd-{uid}",
        "title": title,
        "tags": ["watchdogd"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "instance",
                    "label": "Host",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": {"query": "label_values(watchdogd_build_info, instance)", "refId": "instance"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "links": [{"type": "dashboards", "tags": ["watchdogd"], "title": "watchdogd", "asDropdown": False}],
        "panels": place(panels),
    }


def place(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """Panels from left to right, row after row."""
    placed, x, y, height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        placed.append(draw(number, panel, x, y))
        x, height = x + panel.width, max(height, panel.height)
    return placed


def draw(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    """One panel's JSON."""
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "stat":
        defaults["thresholds"] = {"mode": "absolute", "steps": colour(panel)}
        options: dict[str, Any] = {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"]}}
    else:
        mode = "normal" if panel.stack else "none"
        defaults["custom"] = {"fillOpacity": 20, "stacking": {"mode": mode}, "showPoints": "never"}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "legendFormat": legend,
                "expr": query.replace("@", HOST),
            }
            for index, (legend, query) in enumerate(panel.queries)
        ],
    }


def colour(panel: Panel) -> list[dict[str, Any]]:
    """Green, and red where it should not be."""
    if panel.red_below is not None:
        return [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    if panel.red_from is not None:
        return [{"color": "green", "value": None}, {"color": "red", "value": panel.red_from}]
    return [{"color": "blue", "value": None}]


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    check = parser.parse_args().check
    stale = []
    for uid, (title, panels) in DASHBOARDS.items():
        path, text = FOLDER / f"{uid}.json", json.dumps(build(uid, title, panels), indent=1) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(path)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
