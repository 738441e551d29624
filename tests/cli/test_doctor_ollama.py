"""The doctor on Ollama: a real model behind its protocol, scripted servers for what that cannot be made to show."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
import pytest

from tests.cli.hosts import Host, levels, look
from tests.ollama.scripted import Answer, Scripted, reply
from tests.ollama.server import free_port
from watchdogd.cli import doctor_ollama
from watchdogd.cli.doctor_gpu import find_vendor, judge_gpu
from watchdogd.cli.doctor_ollama import check_ollama, check_port, judge_context
from watchdogd.cli.doctor_ports import Listener, list_listeners, list_servers, parse_listeners
from watchdogd.config import Config, TriageSettings
from watchdogd.triage.ollama import LoadedModel, ModelFacts

if TYPE_CHECKING:
    from tests.ollama.fixtures import Ollama
    from watchdogd.cli.doctor_findings import Finding

GIB = 1 << 30
TAGS = reply({"models": [{"name": "m:1b", "digest": "d1", "size": GIB}]})
SHOWN = reply({"model_info": {"llama.context_length": 8192}})
DOCKER = "0::/system.slice/docker-" + "ab" * 32 + ".scope"


def ps(vram: int = GIB, context: int = 4096, name: str = "m:1b") -> Answer:
    return reply({"models": [{"name": name, "size": GIB, "size_vram": vram, "context_length": context}]})


def settings(url: str, **changes: object) -> Config:
    return Config(triage=TriageSettings(ollama_url=url, model="m:1b", **changes))  # type: ignore[arg-type]


async def ask(host: Host, server: Scripted, **changes: object) -> dict[str, Finding]:
    async with server:
        return await asyncio.to_thread(look, check_ollama, host.site(settings(server.url, **changes)))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_real_model_is_found(host: Host, ollama: Ollama) -> None:
    config = Config(triage=TriageSettings(ollama_url=ollama.url, model=ollama.model))
    found = look(check_ollama, host.site(config))
    assert levels(found) | {"loaded": "ok", "GPU": "ok"} == dict.fromkeys(
        ("Ollama", "model", "loaded", "GPU", "context"), "ok"
    )
    other = look(check_ollama, host.site(settings(ollama.url)))
    assert other["model"].level == "error"
    assert other["model"].mend == "watchdogd models pull m:1b"
    assert ollama.model in other["model"].text


async def test_a_server_where_all_is_well(host: Host) -> None:
    found = await ask(host, Scripted(tags=TAGS, ps=ps(), show=SHOWN))
    assert levels(found) == dict.fromkeys(("Ollama", "model", "loaded", "GPU", "context"), "ok")
    assert "wholly in the GPU's memory" in found["GPU"].text


async def test_an_old_server(host: Host) -> None:
    found = await ask(host, Scripted(tags=TAGS, ps=ps(), show=SHOWN, version=reply({"version": "0.9.1"})))
    assert found["Ollama"].level == "warning"
    assert "0.9.1" in found["Ollama"].text


async def test_words_of_the_server_move_no_cursor(host: Host) -> None:
    names = reply({"models": [{"name": "x\x1b[2J\u202e:1b", "digest": "d"}]})
    found = await ask(host, Scripted(tags=names, ps=ps(), show=SHOWN))
    assert "\x1b" not in found["model"].text
    assert "\u202e" not in found["model"].text


async def test_something_else_on_the_port(host: Host) -> None:
    found = await ask(host, Scripted(version=reply({"error": "no such page"}, 404)))
    assert found["Ollama"].level == "error"
    assert "does not answer as it should" in found["Ollama"].text


async def test_another_model_in_memory(host: Host) -> None:
    found = await ask(host, Scripted(tags=TAGS, ps=ps(name="other:7b"), show=SHOWN))
    assert levels(found)["loaded"] == "warning"
    assert levels(found)["GPU"] == "unknown"
    idle = await ask(host, Scripted(tags=TAGS, ps=reply({"models": []}), show=SHOWN))
    assert levels(idle)["loaded"] == "ok"


def test_nobody_listens(host: Host) -> None:
    site = host.site(settings(f"http://127.0.0.1:{free_port()}"))
    assert "ollama.com/install.sh" in look(check_ollama, site)["Ollama"].mend
    host.tool("ollama", "")
    assert look(check_ollama, site)["Ollama"].mend == "ollama serve"
    host.systemd(LoadState="loaded", ActiveState="inactive")
    assert look(check_ollama, site)["Ollama"].mend == "systemctl enable --now ollama"
    host.systemd(LoadState="loaded", ActiveState="activating", Result="exit-code")
    found = look(check_ollama, site)["Ollama"]
    assert found.mend == "journalctl -u ollama -n 30 --no-pager"
    assert "activating (exit-code)" in found.text


def test_in_a_container_or_on_another_host(host: Host) -> None:
    host.file("/.dockerenv")
    here = look(check_ollama, host.site(settings(f"http://127.0.0.1:{free_port()}")))["Ollama"]
    assert "is the container itself" in here.text
    assert "host.docker.internal" in here.mend
    there = look(check_ollama, host.site(settings("http://nowhere.invalid:11434")))["Ollama"]
    assert "OLLAMA_HOST=0.0.0.0" in there.mend


def test_ollama_that_listens_elsewhere(host: Host) -> None:
    port = free_port()
    host.file("/proc/net/tcp", "head\n" + tcp_line("0100007F", port + 1, 77))
    host.process(50, "ollama", "/usr/bin/ollama", "serve")
    link = host.folder("/proc/50/fd") / "3"
    link.symlink_to("socket:[77]")
    found = look(check_ollama, host.site(settings(f"http://127.0.0.1:{port}")))["Ollama"]
    assert f"An Ollama listens at 127.0.0.1:{port + 1}." in found.text
    assert f"http://127.0.0.1:{port + 1}" in found.mend


def test_triage_that_is_switched_off(host: Host) -> None:
    site = host.site(Config(triage=TriageSettings(enabled=False)))
    assert levels(look(check_ollama, site) | look(check_port, site)) == {"Ollama": "unknown", "port": "unknown"}


async def test_why_a_model_does_not_download(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    server = Scripted(ps=reply({"models": []}), show=reply({"error": "model 'm:1b' not found"}, 404))
    async with server:
        site = host.site(settings(server.url))
        monkeypatch.setattr(doctor_ollama, "MODEL_BYTES", 1 << 60)
        found = list(await asyncio.to_thread(lambda: list(doctor_ollama._explain_missing(site, doctor_ollama.Told()))))
        host.folder("/usr/share/ollama/.ollama")
        with_folder = await asyncio.to_thread(lambda: list(doctor_ollama._explain_missing(site, doctor_ollama.Told())))
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        unresolved = await asyncio.to_thread(lambda: list(doctor_ollama._explain_missing(site, doctor_ollama.Told())))
        host.systemd(Environment="HTTPS_PROXY=http://p:3128")
        proxied = await asyncio.to_thread(lambda: list(doctor_ollama._explain_missing(site, doctor_ollama.Told())))
    assert found[0].text.endswith("Ollama has no model at all.")
    assert any("too little" in finding.text for finding in with_folder)
    assert "does not resolve" in unresolved[-1].text
    assert "HTTPS_PROXY" in unresolved[-1].mend
    assert proxied[-1].level == "ok"


# --- GPU -----------------------------------------------------------------------------------------------------------


def card(host: Host, vendor: str) -> None:
    host.file("/sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    host.file("/sys/bus/pci/devices/0000:01:00.0/vendor", f"{vendor}\n")
    host.file("/sys/bus/pci/devices/0000:02:00.0/class", "0x020000\n")
    host.file("/sys/bus/pci/devices/0000:02:00.0/vendor", "0x10de\n")


def loaded(vram: int, context: int = 4096) -> LoadedModel:
    return LoadedModel("m:1b", "d1", GIB, vram, context)


def test_a_model_on_the_cpu_of_a_host_without_a_gpu(host: Host) -> None:
    assert find_vendor(host.site()) == ""
    assert judge_gpu(host.site(), loaded(0), is_here=True).level == "ok"


def test_a_model_that_fits_in_part(host: Host) -> None:
    found = judge_gpu(host.site(), loaded(GIB // 2), is_here=True)
    assert (found.level, found.text.startswith("Only 50 %")) == ("warning", True)


def test_a_gpu_that_is_not_used(host: Host) -> None:
    card(host, "0x10de")
    assert "driver is not loaded" in judge_gpu(host.site(), loaded(0), is_here=True).text
    host.file("/proc/driver/nvidia/version")
    assert "did not find it" in judge_gpu(host.site(), loaded(0), is_here=True).text
    host.process(60, "ollama", "ollama", "serve", cgroup=DOCKER)
    assert "--gpus=all" in judge_gpu(host.site(), loaded(0), is_here=True).mend
    card(host, "0x1002")
    assert "/dev/kfd" in judge_gpu(host.site(), loaded(0), is_here=True).text
    host.file("/dev/kfd")
    assert "docker run --device /dev/kfd" in judge_gpu(host.site(), loaded(0), is_here=True).mend
    assert judge_gpu(host.site(), loaded(0), is_here=False).level == "ok"


# --- context -------------------------------------------------------------------------------------------------------


def test_a_question_that_fits_or_not() -> None:
    def judge(model: LoadedModel | None, facts: ModelFacts | None, **changes: object) -> str:
        chosen = msgspec.structs.replace(TriageSettings(model="m:1b"), **changes)
        (finding,) = judge_context(chosen, model, facts)
        return finding.level

    facts = ModelFacts("", "", 8192, ())
    assert judge(loaded(0), facts) == "ok"
    assert judge(None, None) == "ok"
    assert judge(None, None, num_ctx=512, num_predict=256) == "error"
    assert judge(loaded(0, context=2048), facts) == "warning"
    assert judge(None, ModelFacts("", "", 2048, ())) == "warning"


# --- who listens ---------------------------------------------------------------------------------------------------


def tcp_line(address: str, port: int, inode: int, state: str = "0A") -> str:
    return (
        f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 0\n"
    )


def test_addresses_are_read_as_the_kernel_writes_them() -> None:
    lines = "head\n" + tcp_line("0100007F", 11434, 5) + tcp_line("0100007F", 11434, 6, "01")
    assert list(parse_listeners(lines)) == [Listener("127.0.0.1", 11434, 5)]
    assert list(parse_listeners("head\n" + tcp_line("00000000000000000000000001000000", 1, 5))) == [
        Listener("::1", 1, 5)
    ]


def test_our_own_listener_is_found_with_its_owner() -> None:
    from watchdogd.cli.doctor_site import Site  # noqa: PLC0415 - the real host

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = list_listeners(Site(Config()), port)
    assert (found.address, found.port, found.program) == (
        "127.0.0.1",
        port,
        Path("/proc/self/comm").read_text().strip(),
    )


class BothFamilies(Scripted):
    """Answers on [::1], on the port of another."""

    def __init__(self, port: int, **answers: Answer) -> None:
        super().__init__(**answers)
        self._port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "::1", self._port)
        return self


async def look_at_both(host: Host, tags: Answer) -> dict[str, Finding]:
    idle = reply({"models": []})
    async with Scripted(tags=TAGS, ps=idle) as four:
        port = int(four.url.rpartition(":")[2])
        try:
            async with BothFamilies(port, tags=tags, ps=idle):
                return await asyncio.to_thread(look, check_port, host.site(settings(f"http://127.0.0.1:{port}")))
        except OSError:
            pytest.skip("no IPv6 on the loopback")


async def test_two_ollamas_on_one_port_have_different_models(host: Host) -> None:
    found = (await look_at_both(host, reply({"models": [{"name": "other:7b", "digest": "d2"}]})))["port"]
    assert found.level == "error"
    assert "127.0.0.1 has m:1b, [::1] has other:7b" in found.text
    same = (await look_at_both(host, TAGS))["port"]
    assert same.level != "error"


def test_one_on_the_host_and_one_in_a_container(host: Host) -> None:
    port = free_port()
    host.file("/proc/net/tcp", "head\n" + tcp_line("0100007F", port, 77))
    host.process(50, "ollama", "ollama", "serve")
    (host.folder("/proc/50/fd") / "3").symlink_to("socket:[77]")
    site = host.site(settings(f"http://127.0.0.1:{port}"))
    assert look(check_port, site)["port"].text == f"One server listens on port {port}: ollama (pid 50)."
    host.process(60, "ollama", "ollama", "serve", cgroup=DOCKER)
    host.process(61, "ollama", "ollama", "runner", "--model", "x", cgroup=DOCKER)
    assert [server.container[:4] for server in list_servers(site)] == ["", "abab"]
    found = look(check_port, site)["port"]
    assert found.level == "warning"
    assert "pid 60 in container abababababab" in found.text
    assert found.mend.startswith("docker stop abababababab")


def test_docker_proxy_beside_an_ollama_of_the_host(host: Host) -> None:
    port = free_port()
    host.file("/proc/net/tcp", "head\n" + tcp_line("0100007F", port, 77))
    host.file("/proc/net/tcp6", "head\n" + tcp_line("0" * 32, port, 78))
    for pid, name, inode in ((50, "ollama", 77), (51, "docker-proxy", 78)):
        host.process(pid, name)
        (host.folder(f"/proc/{pid}/fd") / "3").symlink_to(f"socket:[{inode}]")
    found = look(check_port, host.site(settings(f"http://127.0.0.1:{port}")))["port"]
    assert found.level == "warning"
    assert f"[::]:{port} is docker-proxy (pid 51)" in found.text
