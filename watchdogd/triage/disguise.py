"""What a text says below a disguise: encodings, look-alikes, scattered letters; one layer deep, within bounds."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_BASE64_OF_A_NAME = re.compile(r"(?<=/)[A-Za-z0-9+_-]{24,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){16,}")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})")
_ESCAPES = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|&#(\d{1,6});")
_SCATTERED = re.compile(r"(?:\b\w ){8}")
_BETWEEN_LETTERS = re.compile(r"(?<=\w) (?=\w\b)")
_CONTROL = re.compile(r"\x1b\][0-9]*;?|\x1b\[[0-?]*[ -/]*[@-~]|\x1b.|[\x00-\x1f\x7f\x9b]")
_EMPTY_QUOTES = re.compile(r"''|\"\"")
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}
_LOOK_ALIKES = str.maketrans(
    "аеорсхіѕјуһԁԛԝɡАЕОРСХІВМНКТΑΒΕΖΗΙΚΜΝΟΡΤΥΧαοεικνρτυχ",
    "aeopcxisjyhdqwgAEOPCXIBMHKTABEZHIKMNOPTYXaoeiknptux",
)
_LEET = str.maketrans("0134578@$", "oieastbas")
_TELLING = ("benign", "ignore", "instruc", "verdict", "veredict", "disregard", "harmless")
"""One of these, and a rare disguise is worth a look."""
_MIN_PRINTABLE = 0.85
_MOST_PARTS = 8
_PAST_UNICODE = 0x110000


def undisguise(text: str) -> Iterator[str]:
    """What `text` may say otherwise than as it stands; at most about 30 readings."""
    if not text.isascii():
        yield text.translate(_TAGS).translate(_LOOK_ALIKES)
    if not text.isprintable():
        yield _CONTROL.sub(" ", text)
        yield _CONTROL.sub("", text)
    if "''" in text or '""' in text:
        yield _EMPTY_QUOTES.sub("", text)
    if _SCATTERED.search(text):
        yield _BETWEEN_LETTERS.sub("", text)
    if "\\" in text or "&#" in text:
        yield _ESCAPES.sub(_read_escape, text)
    if "%" in text:
        yield _PERCENT.sub(lambda hit: chr(int(hit[0][1:], 16)), text)
    lowered = text.lower()
    for reading in (codecs.encode(lowered, "rot13"), lowered[::-1], lowered.translate(_LEET)):
        if any(word in reading for word in _TELLING):
            yield reading
    yield from _decode(text)


def _decode(text: str) -> Iterator[str]:
    for hit in list(_HEX.finditer(text))[:_MOST_PARTS]:
        yield from _read(bytes.fromhex(hit[0]))
    for hit in (*list(_BASE64.finditer(text))[:_MOST_PARTS], *list(_BASE64_OF_A_NAME.finditer(text))[:_MOST_PARTS]):
        body = hit[0].rstrip("=").replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(body[: len(body) - (len(body) % 4 == 1)] + "=" * (-len(body) % 4))
        except (binascii.Error, ValueError):
            continue
        yield from _read(raw)


def _read_escape(hit: re.Match[str]) -> str:
    code = int(hit[1] or hit[2], 16) if hit[1] or hit[2] else int(hit[3])
    return chr(code) if code < _PAST_UNICODE else " "


def _read(raw: bytes) -> Iterator[str]:
    text = raw.decode("utf-8", "replace")
    if text and sum(char.isprintable() and char != "\ufffd" for char in text) >= _MIN_PRINTABLE * len(text):
        yield text
