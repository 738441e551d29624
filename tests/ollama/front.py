"""A thin front that speaks Ollama's /api/* and forwards to llama-server: the engine that Ollama itself runs.

It copies what the real server (0.32) does where a client can tell: properties in alphabetical order, `done_reason`
`length`, its error statuses and bodies, logprobs from before the grammar, counts and durations in nanoseconds. Usage:

    python tests/ollama/front.py --port 11434 --llama-port 8080 --model smollm2:135m [--digest HEX]
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

VERSION = "0.32.0"
MAX_TOP_LOGPROBS = 20
SIZE_BYTES = 98_000_000
DETAILS = {"format": "gguf", "family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"}
_WORDS = re.compile(r"\s*\S+|\s+")


class ApiError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Front(ThreadingHTTPServer):
    """The server; `model` is the only model it has. It says itself whether that is loaded; the engine keeps it."""

    daemon_threads = True

    def __init__(self, port: int, llama_port: int, model: str, digest: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.llama_url = f"http://127.0.0.1:{llama_port}"
        self.model = model
        self.digest = digest
        self.loaded = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass

    def do_GET(self) -> None:
        self._answer({"/api/version": self._version, "/api/tags": self._tags, "/api/ps": self._ps}.get(self.path))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            self.question: dict[str, Any] = json.loads(content)
        except ValueError as error:
            self._send(400, {"error": str(error)})
            return
        if self.path == "/api/pull":
            self._pull()
        elif self.path == "/api/chat" and self.question.get("stream", True):
            self._stream_chat()
        else:
            self._answer({"/api/chat": self._chat, "/api/show": self._show}.get(self.path))

    def _answer(self, handle: Callable[[], dict[str, Any]] | None) -> None:
        if handle is None:
            self._send(404, {"error": "404 page not found"})
            return
        try:
            self._send(200, handle())
        except ApiError as error:
            self._send(error.status, {"error": str(error)})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_lines(self, lines: Iterable[dict[str, Any]]) -> None:
        """A streamed answer, one JSON object a line, in chunks."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            content = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.write(b"0\r\n\r\n")

    def _stream_chat(self) -> None:
        """The answer word by word; it is made first, then sent."""
        try:
            whole = self._chat()
        except ApiError as error:
            self._send(error.status, {"error": str(error)})
            return
        text = whole["message"]["content"]
        pieces = [{"message": {"role": "assistant", "content": piece}, "done": False} for piece in _WORDS.findall(text)]
        self._send_lines([*pieces, whole | {"message": {"role": "assistant", "content": ""}}])

    def _pull(self) -> None:
        """Of the one model everything is there already; any other is not to be had, which is said in a 200."""
        lines: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        if self.question.get("model") != self.server.model:
            lines.append({"error": "pull model manifest: file does not exist"})
        else:
            name = self.server.digest[:12]
            layer = {"digest": f"sha256:{self.server.digest}", "total": SIZE_BYTES, "completed": SIZE_BYTES}
            lines += [{"status": f"pulling {name}"} | layer, {"status": "verifying sha256 digest"}]
            lines += [{"status": "writing manifest"}, {"status": "success"}]
        self._send_lines(lines)

    def _show(self) -> dict[str, Any]:
        self._require_model()
        info = {"general.architecture": "llama", "llama.context_length": 8192}
        return {"details": DETAILS, "model_info": info, "capabilities": ["completion"]}

    def _require_model(self) -> str:
        model: str = self.question.get("model", "")
        if model != self.server.model:
            raise ApiError(404, f"model '{model}' not found")
        return model

    def _version(self) -> dict[str, Any]:
        return {"version": VERSION}

    def _tags(self) -> dict[str, Any]:
        return {"models": [self._entry() | {"modified_at": "2026-01-01T00:00:00Z"}]}

    def _ps(self) -> dict[str, Any]:
        if not self.server.loaded.is_set():
            return {"models": []}
        return {"models": [self._entry() | {"size_vram": 0, "context_length": 4096}]}

    def _entry(self) -> dict[str, Any]:
        name = {"name": self.server.model, "model": self.server.model}
        return name | {"size": SIZE_BYTES, "digest": self.server.digest, "details": DETAILS}

    def _chat(self) -> dict[str, Any]:
        started = time.monotonic_ns()
        question = self.question
        model = self._require_model()
        if not 0 <= question.get("top_logprobs", 0) <= MAX_TOP_LOGPROBS:
            raise ApiError(400, "top_logprobs must be between 0 and 20")
        base = {"model": model, "created_at": datetime.now(UTC).isoformat(), "done": True}
        if not question.get("messages"):
            reason = "unload" if question.get("keep_alive") == 0 else "load"
            (self.server.loaded.clear if reason == "unload" else self.server.loaded.set)()
            return base | {"message": {"role": "assistant", "content": ""}, "done_reason": reason}
        options = question.get("options", {})
        self._check_context(question["messages"], options.get("num_ctx", 4096))
        self.server.loaded.set()
        answer = self._post("/v1/chat/completions", _translate(question, options))
        return base | _translate_back(answer, question, time.monotonic_ns() - started)

    def _check_context(self, messages: list[dict[str, str]], num_ctx: int) -> None:
        prompt = self._post("/apply-template", {"messages": messages})["prompt"]
        count = len(self._post("/tokenize", {"content": prompt})["tokens"])
        if count > num_ctx:
            inner = {
                "code": 400,
                "message": f"request ({count} tokens) exceeds the available context size ({num_ctx} tokens)",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": count,
                "n_ctx": num_ctx,
            }
            raise ApiError(400, json.dumps({"error": inner}))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(self.server.llama_url + path, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                decoded: dict[str, Any] = json.load(response)
                return decoded
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            raise ApiError(400 if "context" in text else 500, text) from None
        except OSError as error:
            raise ApiError(500, f"llama runner process has terminated: {error}") from None


def _translate(question: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Ollama's question as llama-server's."""
    body: dict[str, Any] = {
        "messages": question["messages"],
        "temperature": options.get("temperature", 0.8),
        "seed": options.get("seed", 0),
        "max_tokens": options.get("num_predict", -1),
        "cache_prompt": True,
    }
    schema = question.get("format")
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": _sort(schema)}}
    if question.get("logprobs"):
        body |= {"logprobs": True, "top_logprobs": max(question.get("top_logprobs", 0), 1)}
    return body


def _sort(schema: object) -> object:
    """As Go's maps come out: properties in alphabetical order."""
    if isinstance(schema, dict):
        return {name: _sort(schema[name]) for name in sorted(schema)}
    return [_sort(part) for part in schema] if isinstance(schema, list) else schema


def _translate_back(answer: dict[str, Any], question: dict[str, Any], elapsed_ns: int) -> dict[str, Any]:
    """llama-server's answer as Ollama's."""
    choice = answer["choices"][0]
    timings = answer.get("timings", {})
    body = {
        "message": {"role": "assistant", "content": choice["message"].get("content") or ""},
        "done_reason": choice["finish_reason"],
        "total_duration": elapsed_ns,
        "load_duration": 1,
        "prompt_eval_count": answer["usage"]["prompt_tokens"],
        "prompt_eval_duration": int(timings.get("prompt_ms", 0) * 1e6),
        "eval_count": answer["usage"]["completion_tokens"],
        "eval_duration": int(timings.get("predicted_ms", 0) * 1e6),
    }
    if question.get("logprobs"):
        with_top = question.get("top_logprobs", 0) > 0
        body["logprobs"] = [_logprob(entry, with_top=with_top) for entry in choice["logprobs"]["content"]]
    return body


def _logprob(entry: dict[str, Any], *, with_top: bool) -> dict[str, Any]:
    said = {name: entry[name] for name in ("token", "logprob", "bytes")}
    if with_top:
        said["top_logprobs"] = [{name: top[name] for name in said} for top in entry["top_logprobs"]]
    return said


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Ollama's protocol in front of llama-server, for tests")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--llama-port", type=int, required=True)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--digest", default="0" * 64)
    given = parser.parse_args()
    Front(given.port, given.llama_port, given.model, given.digest).serve_forever()


if __name__ == "__main__":
    main()
