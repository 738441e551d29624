"""Everything of Ollama's API beside the questions: what is there, what is loaded, and how more comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.ollama.scripted import Answer, Scripted, chat, label, lines, reply
from tests.ollama.server import free_port
from watchdogd.errors import TriageError
from watchdogd.triage.connection import MAX_REPLY_BYTES
from watchdogd.triage.ollama import (
    ChatOptions,
    InstalledModel,
    LoadedModel,
    ModelMissingError,
    OllamaAbsentError,
    OllamaClient,
    PullStep,
    TriageTimeoutError,
    is_same_model,
)

if TYPE_CHECKING:
    from tests.ollama.fixtures import Ollama

OPTIONS = ChatOptions(model="m:1b", num_ctx=4096, num_predict=32, temperature=0.0, seed=42, keep_alive="30m")
DETAILS = {"quantization_level": "Q4_0", "parameter_size": "3.8B"}
PIECE = {"message": {"role": "assistant", "content": "a"}, "done": False}
LAST = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
HTML = b"<html><body>502 Bad Gateway</body></html>"


async def pull(server: Scripted, stall_s: float = 20.0) -> list[PullStep]:
    client = OllamaClient(server.url, timeout_s=20)
    try:
        return [step async for step in client.pull("m:1b", stall_s=stall_s)]
    finally:
        await client.close()


async def converse(url: str, timeout_s: float = 20.0, options: ChatOptions = OPTIONS) -> str:
    client = OllamaClient(url, timeout_s=timeout_s)
    try:
        return "".join([piece async for piece in client.converse([{"role": "user", "content": "?"}], options)])
    finally:
        await client.close()


async def test_installed_and_loaded() -> None:
    entry = {"name": "m:1b", "model": "m:1b", "digest": "d" * 64, "size": 2_000_000_000, "details": DETAILS}
    loaded = entry | {"size": 3_000_000_000, "size_vram": 2_500_000_000, "context_length": 4096}
    async with Scripted(tags=reply({"models": [entry]}), ps=reply({"models": [loaded]})) as server:
        client = OllamaClient(server.url, timeout_s=20)
        assert await client.list_installed() == (InstalledModel("m:1b", "d" * 64, 2_000_000_000, "Q4_0", "3.8B"),)
        assert await client.list_loaded() == (LoadedModel("m:1b", "d" * 64, 3_000_000_000, 2_500_000_000, 4096),)
        await client.close()


@pytest.mark.parametrize("body", [{"models": []}, {"models": None}, {}])
async def test_nothing_installed(body: dict[str, Any]) -> None:
    async with Scripted(tags=reply(body), ps=reply(body)) as server:
        client = OllamaClient(server.url, timeout_s=20)
        assert await client.list_installed() == ()
        assert await client.list_loaded() == ()
        await client.close()


async def test_older_servers_say_less() -> None:
    entry = {"name": "m:1b", "details": {"quantization_level": None}}
    async with Scripted(tags=reply({"models": [entry]}), ps=reply({"models": [entry]}), show=reply({})) as server:
        client = OllamaClient(server.url, timeout_s=20)
        assert await client.list_installed() == (InstalledModel("m:1b", "", 0),)
        assert await client.list_loaded() == (LoadedModel("m:1b", "", 0, 0, 0),)
        assert (await client.show("m:1b")).context == 0
        await client.close()


async def test_facts_of_a_model() -> None:
    info = {"general.architecture": "llama", "llama.context_length": 131072, "tokenizer.ggml.tokens": None}
    show = reply({"details": DETAILS, "model_info": info, "capabilities": ["completion", "tools"]})
    async with Scripted(show=show) as server:
        client = OllamaClient(server.url, timeout_s=20)
        facts = await client.show("m:1b")
        await client.close()
    assert (facts.quantisation, facts.parameters, facts.context) == ("Q4_0", "3.8B", 131072)
    assert facts.capabilities == ("completion", "tools")


async def test_pull_tells_how_it_stands() -> None:
    layer = {"status": "pulling dde5aa3fc5ff", "digest": "sha256:dde5", "total": 2000}
    script = lines({"status": "pulling manifest"}, layer, layer | {"completed": 1500}, b"\n", {"status": "success"})
    async with Scripted(pull=script) as server:
        steps = await pull(server)
    assert steps == [
        PullStep("pulling manifest"),
        PullStep("pulling dde5aa3fc5ff", "sha256:dde5", 0, 2000),
        PullStep("pulling dde5aa3fc5ff", "sha256:dde5", 1500, 2000),
        PullStep("success"),
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lines({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}),
            "Ollama failed: pull model manifest: file does not exist",
        ),
        (lines({"status": "pulling manifest"}), "ended before it was complete"),
        (lines(), "ended before it was complete"),
        (lines({"status": "success"}, {"status": "pulling manifest"}), "ended before"),
        (lines({"status": "pulling manifest"}, b'{"status": "pu'), "no valid reply"),
        (lines(b"\xff\xfe\n"), "no valid reply"),
        (lines(b"[1]\n"), "no valid reply"),
        (lines({"status": "pulling manifest"}, b"x" * (MAX_REPLY_BYTES + 1)), "larger than"),
        (lines({"status": "pulling manifest"}, after="reset"), "failed"),
        (reply(HTML, 502, "text/html"), "HTML"),
        (reply(HTML, 200, "text/html"), "HTML"),
        (reply({"error": "server busy, please try again"}, 503), "busy"),
        (reply({"error": "invalid model name"}, 400), "answered 400: invalid model name"),
    ],
)
async def test_failed_pull(answer: Answer, message: str) -> None:
    async with Scripted(pull=answer) as server:
        with pytest.raises(TriageError, match=message):
            await pull(server)


@pytest.mark.parametrize("answer", [Answer(b"", delay_s=30), lines({"status": "pulling manifest"}, after="stall")])
async def test_stalled_pull_ends(answer: Answer) -> None:
    async with Scripted(pull=answer) as server:
        with pytest.raises(TriageTimeoutError, match=r"within 0\.3 s"):
            await pull(server, stall_s=0.3)


async def test_pull_without_a_server() -> None:
    client = OllamaClient(f"http://127.0.0.1:{free_port()}", timeout_s=20)
    with pytest.raises(OllamaAbsentError, match="does not answer at"):
        [step async for step in client.pull("m:1b")]
    await client.close()


async def test_free_answer_in_pieces() -> None:
    async with Scripted(lines(PIECE, PIECE | {"message": {"content": "b"}}, LAST)) as server:
        assert await converse(server.url) == "ab"
    assert server.questions[0]["stream"] is True
    assert "format" not in server.questions[0]
    assert server.questions[0]["options"]["num_ctx"] == 4096


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lines(PIECE), "incomplete"),
        (lines(PIECE, {"error": "an error was encountered while running the model"}), "Ollama failed: an error was"),
        (lines(PIECE, b'{"message": {"content": "x"'), "no valid reply"),
        (lines(PIECE, after="reset"), "failed"),
        (reply({"error": "model 'm:1b' not found"}, 404), "ollama pull m:1b"),
    ],
)
async def test_free_answer_that_breaks_off(answer: Answer, message: str) -> None:
    async with Scripted(answer) as server:
        with pytest.raises(TriageError, match=message):
            await converse(server.url)


async def test_free_answer_that_stalls() -> None:
    async with Scripted(lines(PIECE, after="stall")) as server:
        with pytest.raises(TriageTimeoutError):
            await converse(server.url, timeout_s=0.3)


async def test_empty_messages_load_and_unload() -> None:
    async with Scripted(reply({"message": {"content": ""}, "done": True, "done_reason": "load"})) as server:
        client = OllamaClient(server.url, timeout_s=20)
        await client.load(OPTIONS)
        await client.unload("m:1b")
        await client.close()
    loading, unloading = server.questions
    assert (loading["messages"], loading["keep_alive"], loading["options"]["num_ctx"]) == ([], "30m", 4096)
    assert (unloading["messages"], unloading["keep_alive"]) == ([], 0)


async def test_model_gone_between_two_questions() -> None:
    gone = reply({"error": "model 'm:1b' not found"}, 404)
    async with Scripted(label("benign"), gone, chat("{}")) as server:
        client = OllamaClient(server.url, timeout_s=20)
        question: list[dict[str, str]] = [{"role": "user", "content": "?"}]
        assert "benign" in (await client.chat(question, {}, OPTIONS)).content
        with pytest.raises(ModelMissingError):
            await client.chat(question, {}, OPTIONS)
        assert (await client.chat(question, {}, OPTIONS)).content == "{}"  # the client is none the worse for it
        await client.close()


@pytest.mark.parametrize(
    "error",
    [
        {"error": '{"error":{"message":"request (9 tokens) exceeds the available context size (4 tokens)"}}'},
        {"error": {"message": "request (9 tokens) exceeds the available context size (4 tokens)"}},
    ],
)
async def test_error_within_an_error_is_unwrapped(error: dict[str, Any]) -> None:
    async with Scripted(reply(error, 400)) as server:
        client = OllamaClient(server.url, timeout_s=20)
        with pytest.raises(TriageError) as raised:
            await client.chat([], {}, OPTIONS)
        await client.close()
    expected = "the question is longer than the model's context: request (9 tokens) exceeds the available context size"
    assert str(raised.value) == f"{expected} (4 tokens)"


@pytest.mark.parametrize("error", ["{", '{"error": 7}', '{"error": {}}', '{"error": ""}', "[]", '{"error": "{}"}'])
async def test_error_of_any_form_is_told(error: str) -> None:
    async with Scripted(reply(error.encode(), 500)) as server:
        client = OllamaClient(server.url, timeout_s=20)
        with pytest.raises(TriageError, match="answered 500"):
            await client.chat([], {}, OPTIONS)
        await client.close()


@pytest.mark.parametrize(
    ("installed", "wanted", "same"),
    [
        ("llama:latest", "llama", True),
        ("llama:latest", "llama:latest", True),
        ("llama:1b", "llama", False),
        ("host:5000/llama:latest", "host:5000/llama", True),
        ("phi3:mini", "phi3:mini", True),
    ],
)
def test_names(installed: str, wanted: str, *, same: bool) -> None:
    assert is_same_model(installed, wanted) is same


@pytest.mark.slow
async def test_real_server_tells_of_itself(ollama: Ollama) -> None:
    client = OllamaClient(ollama.url, timeout_s=60)
    options = ChatOptions(ollama.model, 4096, 12, 0.0, 42, "30m")
    await client.load(options)
    (installed,) = await client.list_installed()
    (loaded,) = await client.list_loaded()
    assert installed.name == loaded.name == ollama.model
    assert installed.digest == loaded.digest == ollama.digest
    assert (await client.show(ollama.model)).quantisation == installed.quantisation == "Q4_1"
    await client.unload(ollama.model)
    assert await client.list_loaded() == ()
    reply_ = await client.chat([{"role": "user", "content": "Say yes."}], {"type": "boolean"}, options)
    assert reply_.content in ("true", "false")  # it was loaded again by itself
    assert len(await client.list_loaded()) == 1
    assert [step.status async for step in client.pull(ollama.model)][-1] == "success"
    with pytest.raises(TriageError, match="file does not exist"):
        [step async for step in client.pull("nosuch:1b")]
    with pytest.raises(ModelMissingError):
        await client.show("nosuch:1b")
    await client.close()


@pytest.mark.slow
async def test_bounds_of_integers_are_enforced(ollama: Ollama) -> None:
    client = OllamaClient(ollama.url, timeout_s=60)
    options = ChatOptions(ollama.model, 4096, 12, 0.0, 42, "30m")
    schema = {"type": "integer", "minimum": 40, "maximum": 60}
    said = await client.chat([{"role": "user", "content": "Write the number 7."}], schema, options)
    assert 40 <= int(said.content) <= 60
    await client.close()


@pytest.mark.slow
async def test_real_free_answer(ollama: Ollama) -> None:
    said = await converse(ollama.url, 60, ChatOptions(ollama.model, 4096, 24, 0.0, 42, "30m"))
    assert said.strip()
