"""The path with a real model, SmolLM2-135M: its opinion is worth nothing, its form is real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.triage.conftest import make_alert, make_believed, make_settings
from watchdogd.entities import Label
from watchdogd.errors import TriageError
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters
from watchdogd.triage.ollama import ChatOptions, OllamaClient, first_token_shares
from watchdogd.triage.prompt import LABEL_SCHEMA, LABELS, build_question, explain_label
from watchdogd.triage.scorer import Scorer
from watchdogd.triage.triager import Triager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.ollama.fixtures import Ollama

pytestmark = pytest.mark.slow


@pytest.fixture
async def client(ollama: Ollama) -> AsyncIterator[OllamaClient]:
    made = OllamaClient(ollama.url, timeout_s=60)
    yield made
    await made.close()


def options(ollama: Ollama, **changes: object) -> ChatOptions:
    plain = ChatOptions(model=ollama.model, num_ctx=4096, num_predict=32, temperature=0.0, seed=42, keep_alive="30m")
    return msgspec.structs.replace(plain, **changes)


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


async def test_real_verdict(ollama: Ollama, client: OllamaClient) -> None:
    counters = Counters()
    settings = make_settings(model=ollama.model, ollama_url=ollama.url)
    triager = Triager(settings, client, counters, SystemClock(), Scorer(), make_believed(ollama.digest))
    assert await triager.available() == "0.32.0"
    alert = make_alert()
    verdict = await triager.ask(alert)
    scored = Scorer().score(alert)
    alert = msgspec.structs.replace(alert, evidence_score=scored.probability, reasons=scored.reasons)
    question = build_question(alert, num_ctx=settings.num_ctx, num_predict=settings.num_predict)
    assert verdict.prompt_tokens is not None
    assert question.least_tokens <= verdict.prompt_tokens <= question.most_tokens
    assert verdict.prompt_sha256 == question.sha256
    assert verdict.model_digest == ollama.digest
    assert not verdict.truncated
    if verdict.label is Label.UNTRIAGED:  # benign without a usable explanation
        assert verdict.error
    else:
        assert verdict.by == "fusion"
        assert 0 <= (verdict.model_share or 0) <= 1
        assert bool(verdict.summary) != bool(verdict.error)
    assert counters.get("triage_requests_total") == 2


async def test_label_and_logprobs_are_those_of_the_protocol(ollama: Ollama, client: OllamaClient) -> None:
    question = build_question(make_alert("id"), num_ctx=4096, num_predict=256)
    reply = await client.chat(list(question.messages), LABEL_SCHEMA, options(ollama), logprobs=True)
    assert any(f'"{label}"' in reply.content for label in LABELS)
    shares = first_token_shares(reply.logprobs, "label", LABELS)
    assert sum(shares.values()) == pytest.approx(1)
    again = await client.chat(list(question.messages), LABEL_SCHEMA, options(ollama), logprobs=True)
    assert again.content == reply.content


@pytest.mark.parametrize("text", ["qzxj" * 4000, "0123456789日本" * 500], ids=["rare letters", "digits and kanji"])
async def test_hostile_text_never_outgrows_the_context(ollama: Ollama, client: OllamaClient, text: str) -> None:
    alert = make_alert("sh", text, lineage=make_alert("x", text).lineage * 9, fields={"A": text, "B": text})
    question = build_question(alert, num_ctx=2304, num_predict=16)
    messages = explain_label(question, Label.MALICIOUS)
    with pytest.raises(TriageError, match="cut at num_predict"):  # answered, so it fitted
        await client.chat(messages, LABEL_SCHEMA, options(ollama, num_ctx=2304, num_predict=1))


async def test_other_model(ollama: Ollama, client: OllamaClient) -> None:
    with pytest.raises(TriageError, match="ollama pull nosuch:1b"):
        await client.chat(user("?"), LABEL_SCHEMA, options(ollama, model="nosuch:1b"))
    assert await client.digest("nosuch:1b") is None


async def test_question_over_the_context(ollama: Ollama, client: OllamaClient) -> None:
    with pytest.raises(TriageError, match="longer than the model's context"):
        await client.chat(user("word " * 600), LABEL_SCHEMA, options(ollama, num_ctx=512))


async def test_answer_cut_at_num_predict(ollama: Ollama, client: OllamaClient) -> None:
    with pytest.raises(TriageError, match=r"cut at num_predict \(3 tokens\)"):
        await client.chat(user("?"), LABEL_SCHEMA, options(ollama, num_predict=3))


async def test_bad_schema(ollama: Ollama, client: OllamaClient) -> None:
    with pytest.raises(TriageError, match="500"):
        await client.chat(user("?"), {"type": "nonsense"}, options(ollama))


async def test_properties_come_in_alphabetical_order(ollama: Ollama, client: OllamaClient) -> None:
    properties = {name: {"type": "boolean"} for name in ("zeta", "alpha", "mid")}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    content = (await client.chat(user("?"), schema, options(ollama, num_predict=64))).content
    assert content.index("alpha") < content.index("mid") < content.index("zeta")
