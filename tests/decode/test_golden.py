"""Recorded slices and hand-made forms against what the decoder is known to make of them.

`golden/NAME.log` gives `golden/NAME.json`; `pytest --update-golden tests/decode` writes them anew, to be read before
they are committed. All but forms.log (hand-made) and paths.log (test_views.py says what was run) are slices of our own
recordings (../shared/data/recorded, the DEV host).
"""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from tests.decode.conftest import decode_lines
from watchdogd.decode.document import event_document
from watchdogd.resources import find_resource

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.log"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads((find_resource("schemas") / "event.schema.json").read_text()))


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) >= 7


@pytest.mark.parametrize("log", GOLDEN, ids=lambda log: log.stem)
def test_golden(log: Path, *, update_golden: bool) -> None:
    documents = [
        json.loads(msgspec.json.encode(event_document(event))) for event in decode_lines(log.read_bytes().split(b"\n"))
    ]
    for document in documents:
        VALIDATOR.validate(document)
    expected = log.with_suffix(".json")
    if update_golden:
        expected.write_text(json.dumps(documents, indent=1, ensure_ascii=True) + "\n")
    assert documents == json.loads(expected.read_text())
