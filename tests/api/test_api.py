"""The API of a real daemon, by its socket and by TCP."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema
import pytest

from tests.api.conftest import READ, WRITE, Served, configure
from tests.daemon import RULE_ID, make_exec_lines, wait_until
from tests.ollama.server import free_port

if TYPE_CHECKING:
    from tests.ollama.fixtures import Ollama

ROOT = Path(__file__).resolve().parents[2]
ALERT_SCHEMA = json.loads((ROOT / "docs" / "schemas" / "alert.schema.json").read_text())


def list_ids(client: httpx.Client, **query: str | int) -> list[str]:
    answer = client.get("/api/v1/alerts", params=query)
    assert answer.status_code == 200, answer.text
    return [alert["watchdogd"]["alert_id"] for alert in answer.json()["alerts"]]


def test_alerts_are_listed_by_page_as_the_contract_says(served: Served) -> None:
    with served.local() as client:
        everything = list_ids(client)
        assert len(everything) == 3
        found, cursor = [], None
        while True:
            page = client.get("/api/v1/alerts", params={"limit": 1} | ({"cursor": cursor} if cursor else {})).json()
            for alert in page["alerts"]:
                jsonschema.validate(alert, ALERT_SCHEMA)
                found.append(alert["watchdogd"]["alert_id"])
            cursor = page["next"]
            if cursor is None:
                break
        assert found == everything
        assert list_ids(client, level="high") == everything
        assert list_ids(client, level="low") == []
        assert list_ids(client, rule=RULE_ID) == everything
        assert list_ids(client, until="2001-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("level=worst", "level"),
        ("verdict=null", "verdict"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%C2%B2-1", "cursor"),
        ("since=yesterday", "since"),
        ("unknown=1", "unknown"),
        ("level=high&level=low", "twice"),
    ],
)
def test_a_query_that_is_wrong_is_explained(served: Served, query: str, said: str) -> None:
    with served.local() as client:
        answer = client.get(f"/api/v1/alerts?{query}")
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert said in answer.json()["detail"]


def test_a_rule_that_nobody_knows_is_not_found(served: Served) -> None:
    with served.local() as client:
        assert client.get("/api/v1/alerts?rule=no-such-rule").status_code == 404


def test_an_alert_is_shown_with_its_lines_and_judged(served: Served) -> None:
    with served.local() as client:
        alert_id = list_ids(client)[-1]
        answer = client.get(f"/api/v1/alerts/{alert_id[:12]}").json()
        jsonschema.validate(answer["alert"], ALERT_SCHEMA)
        assert answer["alert"]["watchdogd"]["alert_id"] == alert_id
        assert any("type=EXECVE" in line for line in answer["alert"]["watchdogd"]["lines"])
        given = client.post(f"/api/v1/alerts/{alert_id}/verdict", json={"label": "benign", "note": "mine"})
        assert given.status_code == 200, given.text
        assert given.json()["label"] == "benign"
        assert client.get(f"/api/v1/alerts/{alert_id}").json()["opinion"]["note"] == "mine"
        missing = client.get("/api/v1/alerts/" + "0" * 64)
        assert missing.status_code == 404
        assert client.get("/api/v1/alerts/..%2f..%2fetc%2fpasswd").status_code == 404
        assert client.post("/api/v1/alerts/" + "0" * 64 + "/verdict", json={"label": "benign"}).status_code == 404


def test_tokens_say_who_may_what(served: Served) -> None:
    verdict = {"label": "benign"}
    with served.remote() as nobody, served.remote(READ) as reader, served.remote(WRITE) as writer:
        alert_id = list_ids(reader)[0]
        refused = nobody.get("/api/v1/status")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert nobody.get("/api/v1/nowhere").status_code == 401
        assert reader.get("/api/v1/nowhere").status_code == 404
        assert nobody.get("/healthz").status_code == 200
        assert nobody.get("/readyz").status_code == 200
        assert nobody.get("/metrics").status_code == 401
        assert reader.get("/metrics").status_code == 200
        assert reader.get("/api/v1/status").json()["active"] == 1
        assert reader.post(f"/api/v1/alerts/{alert_id}/verdict", json=verdict).status_code == 403
        assert reader.get(f"/api/v1/alerts/{alert_id}?mask=off").status_code == 403
        assert writer.get(f"/api/v1/alerts/{alert_id}?mask=off").status_code == 200
        assert writer.post(f"/api/v1/alerts/{alert_id}/verdict", json=verdict).status_code == 200


def test_a_browser_is_not_led_here(served: Served) -> None:
    with served.remote(WRITE) as client:
        assert client.get("/api/v1/status", headers={"Host": "evil.example.org"}).status_code == 421
        origin = {"Origin": "https://evil.example.org"}
        answer = client.get("/api/v1/status", headers=origin)
        assert answer.status_code == 403
        preflight = client.options("/api/v1/ai/query", headers={**origin, "Access-Control-Request-Method": "POST"})
        assert preflight.status_code == 403
        assert not any(name.startswith("access-control") for name in (*answer.headers, *preflight.headers))
        form = client.post("/api/v1/ai/query", content='{"prompt": "x"}', headers={"Content-Type": "text/plain"})
        assert form.status_code == 415


def test_the_socket_is_its_owners(served: Served) -> None:
    assert stat.S_IMODE(Path(served.socket).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"prompt": ""}', 422),
        (b'{"prompt": "  "}', 422),
        (b'{"prompt": 5}', 422),
        (b'{"prompt": "x", "max_tokens": 0}', 422),
        (b'{"prompt": "x", "model": "other"}', 422),
        (b'{"prompt": "' + b"x" * 70_000 + b'"}', 413),
        (b'{"prompt": "x"}', 503),
    ],
)
def test_a_body_that_is_wrong_is_explained(served: Served, content: bytes, status: int) -> None:
    with served.local() as client:
        answer = client.post("/api/v1/ai/query", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text
        assert answer.json()["status"] == status
        assert answer.json()["detail"]


def test_an_endless_body_is_cut_short(served: Served) -> None:
    with served.local() as client:
        endless = (b"x" * 65_536 for _ in range(10_000))
        head = {"Content-Type": "application/json"}
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # the answer may be lost behind the body
            assert client.post("/api/v1/ai/query", content=endless, headers=head).status_code == 413
        assert client.get("/healthz").status_code == 200


def test_heads_that_are_wrong_end_only_their_connection(served: Served) -> None:
    for head in (b"\x00\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(served.socket)
            client.sendall(head)
            assert client.recv(4096).startswith((b"HTTP/1.1 400", b"HTTP/1.1 4"))
    with served.local() as client:
        assert client.get("/healthz").status_code == 200


def test_methods_that_do_not_fit_are_named(served: Served) -> None:
    with served.local() as client:
        answer = client.delete("/api/v1/status")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"
        assert client.head("/api/v1/status").status_code == 200
        assert client.request("BREW", "/api/v1/status").status_code in (405, 404)


def test_health_says_that_ai_is_off(served: Served) -> None:
    with served.local() as client:
        health = client.get("/api/v1/ai/health").json()
        assert (health["enabled"], health["loaded"]) == (False, False)


def test_an_anomaly_is_judged_and_never_below_its_level(served: Served) -> None:
    told = {"metric": {"metric": "cpu.percent", "value": 97.0, "baseline": 12.0, "zscore": 9.0}, "level": "high"}
    with served.local() as client:
        answer = client.post("/api/v1/ai/analyze-anomaly", json=told).json()
        assert answer["verdict"]["label"] == "untriaged"
        assert (answer["rule_level"], answer["level"], answer["journald_only"]) == ("high", "high", False)
        assert 0 <= answer["evidence_score"] <= 1
        event = {
            "event": {"category": "process_creation", "fields": {"Image": "/tmp/x", "CommandLine": "/tmp/x\n\x1b[31m"}}
        }
        assert client.post("/api/v1/ai/analyze-anomaly", json=event).status_code == 200
        assert client.post("/api/v1/ai/analyze-anomaly", json={}).status_code == 422
        assert client.post("/api/v1/ai/analyze-anomaly", json=told | event).status_code == 422


def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path) -> None:
    port = free_port()
    with configure(tmp_path, port, limits="  requests_per_minute: 5\n  questions_per_minute: 1\n") as daemon:
        daemon.start()
        served = Served(daemon, f"{tmp_path}/api.sock", f"http://127.0.0.1:{port}")
        with served.remote(READ) as client, served.local() as other:
            codes = [client.get("/api/v1/status").status_code for _ in range(7)]
            assert codes == [200] * 5 + [429] * 2
            assert int(client.get("/api/v1/status").headers["retry-after"]) >= 1
            assert other.get("/api/v1/status").status_code == 200
        assert daemon.stop() == 0


def test_a_start_after_sigkill_serves_again_and_a_stop_leaves_nothing(tmp_path: Path) -> None:
    with configure(tmp_path, free_port()) as daemon:
        daemon.log.touch()
        daemon.start()
        daemon.kill()
        assert (tmp_path / "api.sock").exists()
        daemon.start()
        served = Served(daemon, f"{tmp_path}/api.sock", "")
        with served.local() as client:
            assert client.get("/readyz").status_code == 200
            assert daemon.stop() == 0
        assert not (tmp_path / "api.sock").exists()


def test_a_port_that_is_taken_is_said_and_nothing_else_suffers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, configure(tmp_path, taken.getsockname()[1]) as daemon:
        daemon.start()
        assert "no API at 127.0.0.1:" in daemon.said
        with Served(daemon, f"{tmp_path}/api.sock", "").local() as client:
            assert client.get("/healthz").status_code == 200
        assert daemon.stop() == 0


def test_slow_clients_delay_nobody(served: Served) -> None:
    slow = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for client in slow:
            client.connect(served.socket)
            client.sendall(b"POST /api/v1/ai/query HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n")
        with served.local() as quick:
            began_s = time.monotonic()
            assert quick.get("/api/v1/alerts").status_code == 200
            assert time.monotonic() - began_s < 30
    finally:
        for client in slow:
            client.close()


@pytest.mark.slow
def test_a_real_model_answers_at_once_and_piece_by_piece(tmp_path: Path, ollama: Ollama) -> None:
    port = free_port()
    more = f"triage:\n  enabled: true\n  ollama_url: {ollama.url}\n  model: {ollama.model}\n  timeout_s: 240\n"
    with configure(tmp_path, port, more=more) as daemon:
        daemon.start()
        served = Served(daemon, f"{tmp_path}/api.sock", f"http://127.0.0.1:{port}")
        with served.local() as client:
            client.timeout = 280
            question = {"prompt": "Say hello.", "max_tokens": 8}
            answer: dict[str, Any] = client.post("/api/v1/ai/query", json=question).json()
            assert answer["response"], answer
            assert answer["model"] == ollama.model
            assert 0 < answer["answer_tokens"] <= 8
            assert answer["prompt_tokens"] > 10
            events = []
            with client.stream("POST", "/api/v1/ai/query", json=question | {"stream": True}) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                events = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
            assert events[0] == "token"
            assert events[-1] == "done"
            health = client.get("/api/v1/ai/health").json()
            assert (health["reachable"], health["installed"], health["loaded"]) == (True, True, True)
            told = {"metric": {"metric": "cpu.percent", "value": 97.0, "baseline": 12.0}, "level": "medium"}
            judged = client.post("/api/v1/ai/analyze-anomaly", json=told).json()
            assert judged["verdict"]["model"] == ollama.model
            assert judged["verdict"]["by"] in ("scorer", "none")
            daemon.append(make_exec_lines(1))
            wait_until(lambda: bool(list_ids(client)), daemon)
        assert daemon.stop(60) == 0
        assert "Traceback" not in daemon.said


def test_tls_shows_the_certificate_that_is_configured(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "api.key", "-out", "api.crt"]
    subprocess.run([*command, *names], cwd=tmp_path, check=True, capture_output=True)
    port = free_port()
    with configure(tmp_path, port, limits="  tls_certificate: api.crt\n  tls_key: api.key\n") as daemon:
        daemon.log.touch()
        daemon.start()
        context = ssl.create_default_context(cafile=str(tmp_path / "api.crt"))
        with httpx.Client(verify=context) as client:
            assert client.get(f"https://127.0.0.1:{port}/readyz").status_code == 200
            assert client.get(f"https://127.0.0.1:{port}/api/v1/status").status_code == 401
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said
