"""Every way Ollama can fail is one TriageError that a person understands."""

from __future__ import annotations

import gzip
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ollama.scripted import Answer, Scripted, chat, label, reply
from tests.ollama.server import free_port
from watchdogd.errors import TriageError
from watchdogd.triage.ollama import (
    MAX_REPLY_BYTES,
    ChatOptions,
    Logprob,
    OllamaClient,
    TokenLogprob,
    TriageTimeoutError,
    first_token_shares,
)
from watchdogd.triage.prompt import LABELS

if TYPE_CHECKING:
    from watchdogd.triage.ollama import ChatReply

OPTIONS = ChatOptions(model="phi3:mini", num_ctx=4096, num_predict=32, temperature=0.0, seed=42, keep_alive="30m")
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"label": {"type": "string"}}}
HTML = b"<html><body>502 Bad Gateway</body></html>"


async def ask(url: str, timeout_s: float = 20.0) -> ChatReply:
    client = OllamaClient(url, timeout_s=timeout_s)
    try:
        return await client.chat([{"role": "user", "content": "?"}], SCHEMA, OPTIONS, logprobs=True)
    finally:
        await client.close()


async def test_question_always_carries_every_option() -> None:
    async with Scripted(label("benign")) as server:
        answer = await ask(server.url)
    question = server.questions[0]
    assert question["options"] == {"num_ctx": 4096, "num_predict": 32, "temperature": 0.0, "seed": 42}
    assert question["think"] is False
    assert question["stream"] is False
    assert question["keep_alive"] == "30m"
    assert question["format"] == SCHEMA
    assert (question["logprobs"], question["top_logprobs"]) == (True, 20)
    assert answer.prompt_tokens == 600
    assert answer.logprobs == ()  # an older server leaves them out


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply({"error": "model 'phi3:mini' not found"}, 404), "ollama pull phi3:mini"),
        (
            reply({"error": '{"error":{"message":"request (9 tokens) exceeds the available context size"}}'}, 400),
            "longer than the model's context",
        ),
        (reply({"error": "invalid format"}, 500), "answered 500: invalid format"),
        (reply({"error": "server busy, please try again"}, 503), "busy"),
        (reply(HTML, 502, "text/html"), "HTML"),
        (reply(HTML, 200, "text/html"), "HTML"),
        (reply(b'{"message": {"content": "a', 200), "no valid reply"),
        (reply(b"\xff\xfe\x00", 200), "no valid reply"),
        (reply({"nothing": 1}), "no valid reply"),
        (reply([1, 2]), "no valid reply"),
        (reply({"message": {"content": 7}, "done": True}), "no valid reply"),
        (reply({"message": {"content": "x"}, "done": False}), "incomplete"),
        (chat('{"label": "mal', done_reason="length"), "num_predict"),
        (reply(b"x" * (MAX_REPLY_BYTES + 1)), "larger than"),
        (reply(gzip.compress(b"0" * 10_000_000), Content_Encoding="gzip"), "compressed"),
        (reply(b"", 301, Location="http://127.0.0.1:1/"), "answered 301"),
        (Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", after="close"), "failed"),
        (Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", after="reset"), "failed"),
        (Answer(b"", after="reset"), "failed"),
        (Answer(b"SSH-2.0-OpenSSH_9.2\r\n"), "failed"),
        (Answer(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n"), "failed"),
    ],
)
async def test_fault_is_a_clear_error(answer: Answer, message: str) -> None:
    async with Scripted(answer) as server:
        with pytest.raises(TriageError, match=message) as raised:
            await ask(server.url)
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()


async def test_refused() -> None:
    with pytest.raises(TriageError, match=r"does not answer at .*triage\.ollama_url"):
        await ask(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", delay_s=30),
        Answer(b"", after="stall"),
        Answer(b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"message":', after="stall"),
    ],
    ids=["slow first byte", "no byte", "stalled body"],
)
async def test_silence_ends_at_the_timeout(answer: Answer) -> None:
    async with Scripted(answer) as server:
        with pytest.raises(TriageTimeoutError, match=r"within 0\.3 s"):
            await ask(server.url, timeout_s=0.3)


async def test_proxy_of_the_environment_is_not_used_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with Scripted(label("benign")) as server:
        assert "benign" in (await ask(server.url)).content


async def test_password_of_the_url_is_not_shown() -> None:
    with pytest.raises(TriageError) as raised:
        await ask(f"http://user:hunter2@127.0.0.1:{free_port()}")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://", "ftp://x", "http://[::1", "nonsense", "http://a b/"])
async def test_impossible_url(url: str) -> None:
    with pytest.raises(TriageError):
        await ask(url)


@pytest.mark.parametrize(
    ("model", "digest"),
    [("phi3:mini", "d1"), ("llama", "d2"), ("llama:latest", "d2"), ("phi3", None), ("x/y:latest", "d3"), ("x/y", "d3")],
)
async def test_digest_by_name(model: str, digest: str | None) -> None:
    names = {"phi3:mini": "d1", "llama:latest": "d2", "x/y:latest": "d3"}
    tags = reply({"models": [{"name": name, "model": name, "digest": d} for name, d in names.items()]})
    async with Scripted(label("benign"), tags=tags) as server:
        client = OllamaClient(server.url, timeout_s=20)
        assert await client.digest(model) == digest
        await client.close()


async def test_client_can_be_used_after_close() -> None:
    async with Scripted(label("benign")) as server:
        client = OllamaClient(server.url, timeout_s=20)
        for _ in range(2):
            assert await client.version() == "0.32.0"
            await client.close()


def tokens(*texts: str, top: dict[str, float] | None = None) -> tuple[Logprob, ...]:
    """Tokens; the one marked by `*` carries `top` (token to probability)."""
    made = []
    for text in texts:
        alternatives = top or {} if text.startswith("*") else {}
        token = text.removeprefix("*")
        likely = tuple(TokenLogprob(other, math.log(p)) for other, p in alternatives.items())
        made.append(Logprob(token, math.log(alternatives.get(token, 0.01)), likely))
    return tuple(made)


def test_shares_add_up_the_tokens_that_begin_a_label() -> None:
    top = {"mal": 0.3, "m": 0.1, "ben": 0.2, "The": 0.3, "": 0.05, '"': 0.05}
    # The engine's grammar lets a code fence stand before the object; it is part of the tokens, not of the content.
    shares = first_token_shares(
        tokens("```", "json", '\n{"', "label", '" : "', "*mal", "icious", '"}', top=top), "label", LABELS
    )
    assert shares == {
        "malicious": pytest.approx(2 / 3),
        "suspicious": 0.0,
        "benign": pytest.approx(1 / 3),
    }


def test_shares_where_the_token_begins_before_the_value() -> None:
    shares = first_token_shares(
        tokens('{"label":', '* "ben', 'ign"}', top={' "ben': 0.6, ' "sus': 0.2, "x": 0.2}), "label", LABELS
    )
    assert shares["benign"] == pytest.approx(0.75)


@pytest.mark.parametrize("texts", [(), ("benign",), ('{"label"',), ('{"label": 7}',), ('{"other": "benign"}',)])
def test_no_shares_without_the_field(texts: tuple[str, ...]) -> None:
    assert first_token_shares(tokens(*texts), "label", LABELS) == {}


@given(
    st.lists(
        st.tuples(
            st.text(alphabet='{}":labelmicousn \n', max_size=12),
            st.floats(allow_nan=True),
            st.lists(st.tuples(st.text(max_size=5), st.floats(allow_nan=True)), max_size=4),
        ),
        max_size=12,
    )
)
def test_shares_never_fail_and_sum_to_one(said: list[tuple[str, float, list[tuple[str, float]]]]) -> None:
    logprobs = tuple(Logprob(text, p, tuple(TokenLogprob(*other) for other in top)) for text, p, top in said)
    shares = first_token_shares(logprobs, "label", LABELS)
    assert not shares or sum(shares.values()) == pytest.approx(1)
