"""Reads Sigma rule files with pySigma, in a process of its own that ends when it has answered.

pySigma takes about 17 MB and gives none of it back, so the daemon never imports it: `library` starts this module,
asks by a `syntax.ReadRequest` on its standard input, and takes plain data (a list of `syntax.FileReading`, as msgpack)
from its standard output. Nothing is downloaded: pySigma's ATT&CK tables belong to its validators, which are not used.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.errors import ProblemsError
from watchdogd.marks import decode_text, load_documents, read_bytes
from watchdogd.match import syntax
from watchdogd.match.compile import compile_body
from watchdogd.match.files import show_path
from watchdogd.match.header import Report, is_amendment, read_amendment, read_extras, read_name, read_rule
from watchdogd.match.lint import lint_document
from watchdogd.match.logsources import choose_view
from watchdogd.match.placeholders import Placeholders, read_placeholders
from watchdogd.match.read_correlation import read_correlation
from watchdogd.match.read_detection import DetectionReader
from watchdogd.match.read_filter import read_filter

if TYPE_CHECKING:
    from watchdogd.errors import Problem
    from watchdogd.marks import MarkedDocument


def answer_request(request: syntax.ReadRequest) -> list[syntax.FileReading]:
    """One reading for each file, in the order asked for. Never raises for bad input."""
    given = request.placeholders
    placeholders = Placeholders() if given is None else read_placeholders(Path(os.fsdecode(given)))
    return [
        syntax.FileReading(placeholders.path, placeholders.digest, (), placeholders.problems)
        if path == given
        else read_file(Path(os.fsdecode(path)), placeholders, lint=request.lint)
        for path in request.paths
    ]


def read_file(path: Path, placeholders: Placeholders, *, lint: bool = False) -> syntax.FileReading:
    """Read every document of one file, and report every mistake at once. Never raises for bad input.

    `lint` adds warnings of what is allowed and surely not meant.
    """
    shown = show_path(path)
    try:
        data = read_bytes(path)
    except ProblemsError as error:
        return syntax.FileReading(shown, "", (), error.problems)
    digest = hashlib.sha256(data).hexdigest()
    try:
        text = decode_text(data, shown)
    except ProblemsError as error:
        return syntax.FileReading(shown, digest, (), error.problems)
    documents, problems = load_documents(text, shown)
    bodies: list[syntax.Body] = []
    for document in documents:
        if document.data is not None:
            body, found = _read_document(document, text.splitlines(), placeholders, lint=lint)
            bodies += body
            problems += found
    return syntax.FileReading(shown, digest, tuple(bodies), tuple(problems))


def _read_document(
    document: MarkedDocument, lines: list[str], placeholders: Placeholders, *, lint: bool
) -> tuple[list[syntax.Body], list[Problem]]:
    report = Report(document, lines)
    try:
        body = _read_body(document, report, placeholders)
        if body is not None:
            if isinstance(body, syntax.RuleBody):
                compile_body(body)
            msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=syntax.Body)
    except Exception as error:  # noqa: BLE001 - whatever a file holds is a message to its author, never a crash
        report.add((), f"cannot be used as a rule: {type(error).__name__}: {error}"[:300])
        body = None
    if lint:
        lint_document(report, body)
    return [] if body is None else [body], report.problems


def _read_body(document: MarkedDocument, report: Report, placeholders: Placeholders) -> syntax.Body | None:
    if not isinstance(document.data, dict):
        report.add((), "not a Sigma rule: a map with title, logsource and detection is expected")
        return None
    if "action" in document.data:
        report.add(("action",), "`action` documents are not part of Sigma 2", "write each rule out in full")
        return None
    if is_amendment(document.data):
        return read_amendment(report)
    if "correlation" in document.data:
        extras = read_extras(report)
        return read_correlation(report, read_rule(report, extras, has_source=False), extras)
    if "filter" in document.data:
        return read_filter(report, placeholders)
    return _read_rule(report, placeholders)


def _read_rule(report: Report, placeholders: Placeholders) -> syntax.RuleBody | None:
    extras = read_extras(report)
    rule = read_rule(report, extras)
    parsed = DetectionReader(report, placeholders, "detection").read()
    if rule is None or parsed is None:
        return None
    view, reason = choose_view(rule)
    detections, condition = parsed if view else ({}, None)
    name, place = read_name(report.document.data), report.document.place("id")
    return syntax.RuleBody(rule, place, view, detections, condition, reason, extras, name)


def main() -> None:
    """Answer the request on standard input with a list of `syntax.FileReading` on standard output."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=syntax.ReadRequest)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer_request(request)))


if __name__ == "__main__":
    main()
