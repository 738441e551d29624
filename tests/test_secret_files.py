from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.secret_files import blot_secrets, complain_url, mask_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("https://example.org/", "https://example.org"),
        ("https://example.org/a?b#c", "https://example.org/..."),
        ("https://user:pass@example.org", "https://***@example.org"),
        ("https://[::1]:8/x", "https://[::1]:8/..."),
        ("http://[broken", "***"),
        ("http://host:port/", "***"),
    ],
)
def test_of_a_url_only_the_host_is_shown(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("url: https://u:p@example.org/a/b?c  # x", "url: https://***@example.org/*****  # x"),
        ("  Authorization: Bearer abc", "  Authorization: ****** ***"),
        ("  'X-Api-Key': \"abc\"", "  'X-Api-Key': *****"),
        ("secret: abc", "secret: ***"),
        ("secret_file: ops.secret", "secret_file: ops.secret"),
        ("- whsec_MfKQ9r8GKYqrTw", "- whsec_" + "*" * 14),
        ("model: phi3:mini", "model: phi3:mini"),
    ],
)
def test_a_line_keeps_its_length_and_loses_its_secrets(line: str, shown: str) -> None:
    assert blot_secrets(line) == shown


@given(st.text())
def test_blotting_never_moves_a_column(line: str) -> None:
    assert len(blot_secrets(line)) == len(line)


@given(st.text(max_size=80) | st.text(max_size=40).map("https://{}".format))
def test_no_url_crashes_and_what_passes_can_be_masked(url: str) -> None:
    if complain_url(url) is None:
        assert mask_url(url).startswith(("http://", "https://"))
    mask_url(url)
