"""The doctor on triage: does Ollama answer, has it the model, does the question fit, is there one Ollama or two."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import shlex
import shutil
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from watchdogd.cli.doctor_findings import error, ok, unknown, warning
from watchdogd.cli.doctor_gpu import judge_gpu
from watchdogd.cli.doctor_ports import list_listeners, list_servers
from watchdogd.errors import TriageError
from watchdogd.quantities import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site
    from watchdogd.config import TriageSettings
    from watchdogd.triage.ollama import InstalledModel, LoadedModel, ModelFacts

ANSWER_S: Final = 4.0
LEAST_VERSION: Final = (0, 12, 11)
"""The first with logprobs, from which a label's probability is read."""

MODEL_BYTES: Final = 3_000_000_000
"""What the default model takes on the disk, with room to unpack."""

REGISTRY: Final = "registry.ollama.ai"
_OFF: Final = "Not needed: the configuration switches triage off."
_UNIT: Final = "ollama.service"
_HTTPS: Final = 443
_PROXY_NAMES: Final = ("HTTPS_PROXY", "https_proxy")


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the server said of itself; `trouble` is why it said nothing."""

    version: str = ""
    installed: tuple[InstalledModel, ...] = ()
    loaded: tuple[LoadedModel, ...] = ()
    facts: ModelFacts | None = None
    trouble: str = ""
    is_absent: bool = False


def check_ollama(site: Site) -> Iterator[Finding]:
    """Server, model, memory, GPU and context."""
    settings = site.config.triage
    if not settings.enabled:
        yield unknown("Ollama", _OFF)
        return
    told = asyncio.run(ask_server(settings.ollama_url, settings.model))
    if told.trouble:
        yield _explain_absence(site, told)
        return
    yield _judge_version(settings, told.version)
    from watchdogd.triage.ollama import is_same_model  # noqa: PLC0415 - start-up of other checks

    if not any(is_same_model(model.name, settings.model) for model in told.installed):
        yield from _explain_missing(site, told)
        return
    yield ok("model", f"{settings.model} is installed.")
    loaded = next((model for model in told.loaded if is_same_model(model.name, settings.model)), None)
    yield _judge_loaded(settings, loaded, told)
    yield judge_gpu(site, loaded, is_here=is_here(settings.ollama_url))
    yield from judge_context(settings, loaded, told.facts)


async def ask_server(url: str, model: str = "") -> Told:
    """Ask for all that is wanted, one after the other."""
    from watchdogd.triage.ollama import OllamaAbsentError, OllamaClient  # noqa: PLC0415 - as above

    client = OllamaClient(url, timeout_s=ANSWER_S)
    try:
        version = await client.version()
        installed, loaded = await client.list_installed(), await client.list_loaded()
        facts = None
        if model:
            with contextlib.suppress(TriageError):
                facts = await client.show(model)
    except TriageError as trouble:
        return Told(trouble=_end(str(trouble)), is_absent=isinstance(trouble, OllamaAbsentError))
    finally:
        await client.close()
    return Told(version=version, installed=installed, loaded=loaded, facts=facts)


def _end(text: str) -> str:
    """The text as a sentence."""
    return text if text.endswith((".", "?")) else f"{text}."


def is_here(url: str) -> bool:
    """Whether a URL names this host."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _explain_absence(site: Site, told: Told) -> Finding:
    """Why nobody, or somebody else, answers."""
    settings, check = site.config.triage, "Ollama"
    parts = urlsplit(settings.ollama_url)
    port = parts.port or (_HTTPS if parts.scheme == "https" else 80)
    curl = f"curl -sS {shlex.quote(f'{parts.scheme}://{parts.hostname}:{port}/api/version')}"
    if not told.is_absent:
        owners = (
            ", ".join(sorted({listener.owner for listener in list_listeners(site, port)}))
            if is_here(settings.ollama_url)
            else ""
        )
        whose = f" The port belongs to {owners}." if owners else ""
        return error(check, f"Ollama does not answer as it should: {told.trouble}{whose}", curl)
    if not is_here(settings.ollama_url):
        return error(
            check,
            f"{told.trouble} Ollama listens on 127.0.0.1 only, unless it is told otherwise on its own host.",
            "systemctl edit ollama    # there: [Service] Environment=OLLAMA_HOST=0.0.0.0, then systemctl restart "
            "ollama",
        )
    if site.is_container:
        return error(
            check,
            f"{told.trouble} In a container 127.0.0.1 is the container itself, not the host.",
            "export OLLAMA_URL=http://host.docker.internal:11434    # with "
            "--add-host=host.docker.internal:host-gateway",
        )
    elsewhere = _find_elsewhere(site, port)
    if elsewhere:
        return error(
            check,
            f"{told.trouble} An Ollama listens at {elsewhere}.",
            f"sed -i 's|ollama_url:.*|ollama_url: http://{elsewhere}|' "
            f"{site.config.path or '/etc/watchdogd/config.yaml'} && watchdogd reload",
        )
    return error(check, *_explain_stopped(site, told.trouble))


def _explain_stopped(site: Site, trouble: str) -> tuple[str, str]:
    unit = site.show_unit("LoadState", "ActiveState", "Result", unit=_UNIT)
    if unit.get("LoadState") == "loaded":
        state = unit.get("ActiveState", "inactive")
        if state == "inactive":
            return f"{trouble} Its unit, ollama.service, is installed and not started.", "systemctl enable --now ollama"
        why = f" ({unit['Result']})" if unit.get("Result", "success") != "success" else ""
        return f"{trouble} Its unit, ollama.service, is {state}{why}.", "journalctl -u ollama -n 30 --no-pager"
    if site.has("ollama"):
        return f"{trouble} It is installed and does not run.", "ollama serve"
    return (
        f"{trouble} It is not installed: alerts go out untriaged, with their evidence score.",
        "curl -fsSL https://ollama.com/install.sh | sh    # or triage: {enabled: false}",
    )


def _find_elsewhere(site: Site, port: int) -> str:
    """Where a running Ollama listens instead; empty where that cannot be seen."""
    servers = {server.pid for server in list_servers(site)}
    if not servers:
        return ""
    for other in (11434, port + 1, 11435, 8080):
        for listener in list_listeners(site, other):
            if listener.pid in servers:
                return listener.place.replace("0.0.0.0", "127.0.0.1").replace("[::]", "127.0.0.1")  # noqa: S104 - compared
    return ""


def _judge_version(settings: TriageSettings, version: str) -> Finding:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    where = settings.ollama_url.rpartition("@")[2].removeprefix("http://")
    if numbers and numbers < LEAST_VERSION and numbers != (0, 0, 0):
        wanted = ".".join(map(str, LEAST_VERSION))
        return warning(
            "Ollama",
            f"Ollama {version} answers at {where}; before {wanted} it tells no logprobs, and confidence is a guess.",
            "curl -fsSL https://ollama.com/install.sh | sh",
        )
    return ok("Ollama", f"Ollama {version} answers at {where}.")


def _explain_missing(site: Site, told: Told) -> Iterator[Finding]:
    """The model is not there: what could be taken instead, and what may keep it from being downloaded."""
    model = site.config.triage.model
    others = ", ".join(found.name for found in told.installed[:6])
    text = f"{model} is not installed: alerts go out untriaged."
    pull = f"watchdogd models pull {shlex.quote(model)}"
    yield error("model", f"{text} There are: {others}." if others else f"{text} Ollama has no model at all.", pull)
    if not is_here(site.config.triage.ollama_url):
        return
    folder = _find_model_folder(site)
    free = shutil.disk_usage(folder).free if folder is not None else None
    if free is not None and free < MODEL_BYTES:
        yield error(
            "download",
            f"{show_size(free)} are free where Ollama keeps its models ({folder}): too little for most.",
            f"df -h {shlex.quote(str(folder))}; ollama list",
        )
    environment = site.show_unit("Environment", unit=_UNIT).get("Environment", "")
    if any(f"{name}=" in environment for name in _PROXY_NAMES):
        yield ok("download", "Ollama downloads by way of the proxy that its unit names.")
        return
    try:
        socket.getaddrinfo(REGISTRY, _HTTPS, type=socket.SOCK_STREAM)
    except OSError as problem:
        yield error(
            "download",
            f"{REGISTRY}, from where Ollama downloads, does not resolve ({problem.strerror}). Behind a proxy "
            "Ollama's own "
            "unit must name it.",
            "systemctl edit ollama    # [Service] Environment=HTTPS_PROXY=http://proxy:3128, then systemctl restart "
            "ollama",
        )
    else:
        yield ok("download", f"{REGISTRY}, from where Ollama downloads, resolves.")


def _find_model_folder(site: Site) -> Path | None:
    environment = site.show_unit("Environment", unit=_UNIT).get("Environment", "")
    named = re.search(r"OLLAMA_MODELS=(\S+)", environment)
    names = [named[1]] if named else ["/usr/share/ollama/.ollama", "/root/.ollama", "/var/lib/ollama", "/"]
    return next((site.path(name) for name in names if site.exists(name)), None)


def _judge_loaded(settings: TriageSettings, loaded: LoadedModel | None, told: Told) -> Finding:
    if loaded is not None:
        return ok("loaded", f"{loaded.name} is in memory ({show_size(loaded.size_bytes)}).")
    others = ", ".join(model.name for model in told.loaded[:4])
    if others:
        return warning(
            "loaded",
            f"{settings.model} is not in memory, {others} is: they may push each other out, and each question waits "
            "for loading.",
            "watchdogd ask hello    # or name the other one as triage.model",
        )
    return ok("loaded", f"{settings.model} is not in memory now; the next question loads it.")


def judge_context(settings: TriageSettings, loaded: LoadedModel | None, facts: ModelFacts | None) -> Iterator[Finding]:
    """Whether a question fits what is configured, and that what the model has."""
    from watchdogd.cli.test_alert import make_test_alert  # noqa: PLC0415 - start-up of other checks
    from watchdogd.entities import Level  # noqa: PLC0415
    from watchdogd.ports import SystemClock  # noqa: PLC0415
    from watchdogd.triage.prompt import build_question  # noqa: PLC0415

    check, num_ctx = "context", settings.num_ctx
    try:
        alert = make_test_alert(Level.LOW, SystemClock())
        question = build_question(alert, num_ctx=num_ctx, num_predict=settings.num_predict)
    except TriageError:
        yield error(
            check,
            f"Even the smallest question does not fit num_ctx {num_ctx} with an answer of {settings.num_predict} "
            "tokens.",
            "sed -i 's/num_ctx:.*/num_ctx: 4096/' /etc/watchdogd/config.yaml && watchdogd reload",
        )
        return
    if facts is not None and 0 < facts.context < num_ctx:
        yield warning(
            check,
            f"{settings.model} was made for {facts.context} tokens, num_ctx asks for {num_ctx}.",
            f"sed -i 's/num_ctx:.*/num_ctx: {facts.context}/' /etc/watchdogd/config.yaml && watchdogd reload",
        )
    elif loaded is not None and 0 < loaded.context < num_ctx:
        yield warning(
            check,
            f"{loaded.name} was loaded with a context of {loaded.context} tokens, num_ctx is {num_ctx}: another "
            "program "
            "may have loaded it, and questions may be cut.",
            f"ollama stop {shlex.quote(loaded.name)} && watchdogd ask hello",
        )
    else:
        yield ok(
            check,
            f"A question takes up to {question.most_tokens} of {num_ctx} tokens and more where an alert has more to "
            "tell; it is cut to fit.",
        )


def check_port(site: Site) -> Iterator[Finding]:
    """Whether two Ollamas share the port, on the host and in a container: which one answers is then luck."""
    settings, check = site.config.triage, "port"
    if not settings.enabled or not is_here(settings.ollama_url):
        yield unknown(check, _OFF if not settings.enabled else "Not needed: Ollama runs on another host.")
        return
    parts = urlsplit(settings.ollama_url)
    port = parts.port or 80
    listeners = list_listeners(site, port)
    four, six = asyncio.run(_ask_both(parts.scheme, port))
    servers = list_servers(site)
    places = " and ".join(server.place for server in servers)
    if not four.trouble and not six.trouble and _list_models(four) != _list_models(six):
        yield error(
            check,
            f"Two Ollamas answer on port {port}: 127.0.0.1 has {_name_models(four)}, [::1] has {_name_models(six)}.",
            _name_stopper(site),
        )
    elif len({listener.program for listener in listeners if listener.program}) > 1:
        owners = ", ".join(f"{listener.place} is {listener.owner}" for listener in listeners)
        yield warning(check, f"Several programs listen on port {port}: {owners}.", _name_stopper(site))
    elif len({server.container for server in servers}) > 1:
        yield warning(check, f"Two Ollamas run, {places}: only one of them has port {port}.", _name_stopper(site))
    elif not listeners:
        yield unknown(check, f"Nobody listens on port {port}.")
    else:
        yield ok(check, f"One server listens on port {port}: {listeners[0].owner}.")


async def _ask_both(scheme: str, port: int) -> tuple[Told, Told]:
    four, six = await asyncio.gather(ask_server(f"{scheme}://127.0.0.1:{port}"), ask_server(f"{scheme}://[::1]:{port}"))
    return four, six


def _list_models(told: Told) -> set[tuple[str, str]]:
    return {(model.name, model.digest) for model in told.installed}


def _name_models(told: Told) -> str:
    return ", ".join(sorted(model.name for model in told.installed)[:4]) or "no models"


def _name_stopper(site: Site) -> str:
    """How to have one Ollama only."""
    contained = next((server.container for server in list_servers(site) if server.container), "")
    stop = f"docker stop {shlex.quote(contained[:12])}" if contained else "docker ps --filter publish=11434"
    return f"{stop}    # or: systemctl disable --now ollama"
