"""README.md as the tests read it: the commands of its `sh` blocks by section, and the sample alert."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
INTRODUCTION = "watchdogd"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, str]:
    """Text below each heading; what stands before the first `##` is INTRODUCTION."""
    parts = re.split(r"^#{1,2} (.+)\n", README.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def commands(section: str) -> list[str]:
    """Commands of the `sh` blocks of a section, in order. KeyError where there is no such section."""
    found = [body for language, body in _BLOCK.findall(sections()[section]) if language == "sh"]
    return [line for body in found for line in body.splitlines() if line.strip() and not line.startswith("#")]


def sample_alert() -> str:
    """What stands in the first block."""
    return str(_BLOCK.findall(README.read_text())[0][1])


def write_sample_alert(text: str) -> None:
    """Put this into the first block."""
    README.write_text(_BLOCK.sub(lambda _: f"```\n{text}```", README.read_text(), count=1))
