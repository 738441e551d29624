"""A thin front that speaks Ollama's /api/* and forwards to llama-server: the engine that Ollama itself runs.

It copies what the real server (0.32) does where a client can tell: properties in alphabetical order, `done_reason`
`length`, its error statuses and bodies, logprobs from before the grammar, counts and durations in nanoseconds. Usage:

    python tests/ollama/front.py --port 11434 --llama-port 8080 --model smollm2:135m [--digest HEX]
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "0.32.0"
MAX_TOP_LOGPROBS = 20


class ApiError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Front(ThreadingHTTPServer):
    """The server; `model` is the only model it has."""

    daemon_threads = True

    def __init__(self, port: int, llama_port: int, model: str, digest: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.llama_url = f"http://127.0.0.1:{llama_port}"
        self.model = model
        self.digest = digest


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass

    def do_GET(self) -> None:
        self._answer({"/api/version": self._version, "/api/tags": self._tags, "/api/ps": self._ps}.get(self.path))

    def do_POST(self) -> None:
        self._answer({"/api/chat": self._chat}.get(self.path))

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

    def _version(self) -> dict[str, Any]:
        return {"version": VERSION}

    def _tags(self) -> dict[str, Any]:
        entry = {"name": self.server.model, "model": self.server.model, "size": 1, "digest": self.server.digest}
        return {"models": [entry]}

    def _ps(self) -> dict[str, Any]:
        entry = {"name": self.server.model, "model": self.server.model, "size_vram": 0, "context_length": 4096}
        return {"models": [entry | {"digest": self.server.digest}]}

    def _chat(self) -> dict[str, Any]:
        started = time.monotonic_ns()
        try:
            question = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        model = question.get("model", "")
        if model != self.server.model:
            raise ApiError(404, f"model '{model}' not found")
        if not 0 <= question.get("top_logprobs", 0) <= MAX_TOP_LOGPROBS:
            raise ApiError(400, "top_logprobs must be between 0 and 20")
        if question.get("stream", True):
            raise ApiError(500, "this front does not stream")
        base = {"model": model, "created_at": datetime.now(UTC).isoformat(), "done": True}
        if not question.get("messages"):
            reason = "unload" if question.get("keep_alive") == 0 else "load"
            return base | {"message": {"role": "assistant", "content": ""}, "done_reason": reason}
        options = question.get("options", {})
        self._check_context(question["messages"], options.get("num_ctx", 4096))
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
