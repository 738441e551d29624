#!/usr/bin/env python3
"""Write watchdogd/match/fields.json: which fields each view has, and each type of audit record.

    tools/generate_fields.py LOG...            # writes the file
    tools/generate_fields.py LOG... --check    # exit 1 where the file lacks a field that the logs hold

What decode and enrich make of the logs is gathered, and what their sources name is added: the logs of the corpora
(tests/conftest.py says where they are) hold most views and record types. Only names go into the file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from watchdogd import collect
from watchdogd.decode import interpret, log_words
from watchdogd.decode.tables import load_tables
from watchdogd.match.logsources import SERVICES
from watchdogd.match.syntax import CATEGORIES
from watchdogd.samples import read_audit
from watchdogd.telemetry import Counters

TARGET = Path(__file__).resolve().parent.parent / "watchdogd" / "match" / "fields.json"
ACTOR = ("Image", "User", "ProcessId", "ParentProcessId", "LogonId", "TerminalSessionId", "CommandLine")
CONTEXT = (
    "CurrentDirectory", "AncestorImages", "Context", "ImagePackaged", "ParentImage", "ParentCommandLine", "ParentUser",
)  # fmt: skip
FILE = ("TargetFilename", "SourceFilename")
STATE = (
    "Type", "Mode", "Owner", "Group", "Size", "ModifiedTime", "Hashes", "LinkTarget", "Capabilities", "Xattrs",
)  # fmt: skip
DECLARED = {
    "file_event": FILE,
    "file_rename": FILE,
    "file_access": ("TargetFilename", "Outcome"),
    "file_change": ("TargetFilename", "Mode"),
    "file_delete": ("TargetFilename",),
    "network_connection": (
        "DestinationIp", "DestinationPort", "SourceIp", "SourcePort", "Protocol", "Initiated", "Outcome",
    ),
    "authentication": ("SubjectUser", "SourceIp", "SourceHostname", "Terminal", "Operation", "Outcome"),
    "service": ("Unit", "Operation", "Outcome"),
    "audit_record": ("RecordType", "Operation", "Outcome"),
    "syscall": ("Syscall", "ExitCode", "Outcome", "TargetFilename", "SocketPath"),
    "host_metrics": (
        "metric", "value", "unit", "baseline", "baseline_hour", "zscore", "zscore_5m", "anomaly", "since", "minutes",
        "mount", "core", "device", "interface", "rank", "sensor",
        "gpu", "Image", "CommandLine", "User", "ProcessId", "ProcessName", "ParentProcessId", "ParentImage",
        "ParentCommandLine", "ParentUser", "AncestorImages", "ProcessCpuPercent", "ProcessMemoryBytes",
        "ProcessIoBytesPerSecond", "ProcessCount", "ProcessFiles", "Unit", "DestinationIp", "DestinationPort",
        "Protocol", "Context", "CurrentDirectory", "ImagePackaged", "LogonId", "TerminalSessionId",
    ),
    "file_integrity": (
        "TargetFilename", "Action", "Changed", "Gained", "Package", "PackageCount", "PackageIntact", "FileCount",
        "Reverted",        "OtherImages", *STATE, *(f"Previous{name}" for name in STATE),
    ),
}  # fmt: skip
"""Of views what no log may happen to hold."""

DECLARED_RECORDS = {
    "CONFIG_CHANGE": (
        "audit_backlog_limit", "audit_backlog_wait_time", "audit_enabled", "audit_failure", "audit_pid",
        "audit_rate_limit", "lost", "old",
    ),
}  # fmt: skip
"""Of records likewise: what the kernel's audit.c writes when auditing is set."""

ENTRY = (
    "Message", "Identifier", "Unit", "Image", "CommandLine", "ProcessId", "SenderUid", "Priority", "Facility",
    "Transport", "Operation", "Outcome",
)  # fmt: skip
"""What decode/journal.py gives of every entry."""

NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
ARGUMENT = re.compile(r"a[0-9]+(_len|\[[0-9]+\])?")


def gather(paths: list[Path]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Names by view and by record type, as the logs have them."""
    views: dict[str, set[str]] = defaultdict(set)
    records: dict[str, set[str]] = defaultdict(set)
    types = set(load_tables().types.values())
    for path in paths:
        for event in read_audit(path.read_bytes().splitlines(), Counters()):
            for view in event.views:
                views[view.category].update(view.fields)
            for record in event.records:
                if record.type in types:
                    names = (name for name, _, _ in record.fields)
                    records[record.type].update(name for name in names if is_name(name))
    return views, records


def is_name(name: str) -> bool:
    """Return whether a field is called so, and it is no numbered argument."""
    return NAME.fullmatch(name) is not None and ARGUMENT.fullmatch(name) is None


def build_table(paths: list[Path]) -> dict[str, Any]:
    """Return what watchdogd.match.fields reads."""
    views, records = gather(paths)
    for category in CATEGORIES:
        views[category].update(DECLARED.get(category, ()))
        if category != "host_metrics":
            views[category].update((*ACTOR, *CONTEXT))
    for kind, names in DECLARED_RECORDS.items():
        records[kind].update(names)
    for service in SERVICES:
        views[service].update(ENTRY, log_words.FIELDS)
    known = (interpret._IDS, interpret._SESSIONS, interpret._STRINGS, interpret._CAPABILITY_MASKS, interpret._SIMPLE)  # noqa: SLF001
    others = {name for names in known for name in names if is_name(name)}
    tables = load_tables()
    syscalls = {name for names in tables.syscalls.values() for name in names.values()}
    source = (Path(collect.__file__).parent / "host_figures.py").read_text(encoding="utf-8")
    return {
        "views": {category: sorted(views[category]) for category in (*CATEGORIES, *SERVICES)},
        "records": {kind: sorted(records[kind]) for kind in sorted(records)},
        "types": sorted(tables.types.values()),
        "syscalls": sorted(syscalls),
        "nametypes": ["NORMAL", "PARENT", "CREATE", "DELETE", "UNKNOWN"],
        "metrics": sorted(set(re.findall(r'"([a-z]+\.[a-z0-9_]+)"', source))),
        "others": {"records": sorted(others - {name for names in records.values() for name in names})},
    }


def render(table: dict[str, Any]) -> str:
    """JSON with one list on each line, so that what is new shows as a difference that can be read."""
    parts = []
    for name, value in table.items():
        lines = (
            ",\n".join(f"    {json.dumps(key)}: {json.dumps(names)}" for key, names in value.items())
            if isinstance(value, dict)
            else ""
        )
        parts.append(f"  {json.dumps(name)}: " + (f"{{\n{lines}\n  }}" if lines else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = render(build_table(args.logs))
    if args.check:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == text else f"{TARGET} differs from what would be written")
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
