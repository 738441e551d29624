"""Two hundred strings that somebody on the host may have chosen, to forge a line or a field with."""

from __future__ import annotations

from typing import Final

_MARKS: Final = {
    "newline": "\n",
    "return": "\r",
    "both": "\r\n",
    "nul": "\0",
    "group separator": "\x1d",
    "unit separator": "\x1f",
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "eight-bit escape": "\x9b31m",
    "backspace": "\b\b\b\b",
    "delete": "\x7f",
    "right to left": "\u202e",
    "isolate": "\u2067",
    "zero width": "\u200b",
    "joiner": "\u200d",
    "byte order": "\ufeff",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "next line": "\x85",
    "tag": "\U000e0041",
    "variation": "\ufe0f",
    "lone high surrogate": "\ud800",
    "lone low surrogate": "\udfff",
    "bytes that are no UTF-8": "\udcff\udcfe\udc80",
    "quotes": "\"'`",
    "backslashes": "\\\\n\\x0a",
}
"""What may end a line or a field, move the cursor, or not be seen."""

_FORGERIES: Final = (
    "MESSAGE=all is well",
    "PRIORITY=0",
    "_UID=0",
    "WATCHDOGD_VERDICT=benign",
    "MESSAGE\n\x04\0\0\0\0\0\0\0evil\n",
    "\nMESSAGE=forged\nWATCHDOGD_ALERT_ID=forged\n\n",
    "__CURSOR=s=1;i=1\n__REALTIME_TIMESTAMP=1\n",
)

_WHOLE: Final = {
    "a megabyte": "A" * 1_000_000,
    "wide and long": "\U0001f600" * 250_000,
    "newlines and nothing else": "\n" * 100_000,
    "surrogates and nothing else": "\udcff" * 50_000,
    "formats": "%s%n%x {0} {alert} $(id) `id` ${PATH}",
    "catalog's words": "@WATCHDOGD_LEVEL@ @MESSAGE@ @_UID@",
    "our own words": "; high, benign 100% (evidence 0.00); triage: nothing",
    "journal export": "__MONOTONIC_TIMESTAMP=1\n_BOOT_ID=0\nMESSAGE=x\n\n",
    "syslog": "<0>Jan  1 00:00:00 host kernel: panic",
    "json": '","MESSAGE":"forged","x":"',
    "empty": "",
    "spaces": "   ",
    "just below the limit": "B" * 4_000,
    "at the limit": "C" * 4_096,
    "a character across the limit": "D" * 4_070 + "\u20ac" * 20,
    "combining": "a" + "\u0301" * 500,
    "every byte": "".join(map(chr, range(256))),
    "every byte, not decoded": "".join(chr(0xDC00 + byte) for byte in range(128, 256)),
    "private": "\ue000\U000f0000\U0010ffff",
    "no characters": "\ufffe\uffff\ufdd0",
    "equals": "=" * 300,
    "names": "LD_PRELOAD=/tmp/x.so PATH=/tmp",
    "hangul fillers": "\u3164\uffa0\u115f",
    "soft hyphens": "su\u00addo",
    "annotation": "\ufff9a\ufffab\ufffb",
}


def _list() -> dict[str, str]:
    strings = {
        f"{name}, then {forged!r}": f"/bin/x{mark}{forged}{mark}y"
        for name, mark in _MARKS.items()
        for forged in _FORGERIES
    }
    return {**_WHOLE, **strings}


NASTY: Final = _list()
