"""The doctor on graphics cards: is there one, does its driver run, and does Ollama use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.cli.doctor_findings import ok, unknown, warning
from watchdogd.cli.doctor_ports import list_servers
from watchdogd.quantities import show_size

if TYPE_CHECKING:
    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site
    from watchdogd.triage.ollama import LoadedModel

CHECK: Final = "GPU"
_VENDORS: Final = {"0x10de": "NVIDIA", "0x1002": "AMD"}
_DISPLAY_CLASS: Final = "0x03"
_LOOK: Final = "systemctl restart ollama && journalctl -u ollama -b | grep -iE 'gpu|cuda|rocm|vram'"


def find_vendor(site: Site) -> str:
    """`NVIDIA` or `AMD` where such a card is in this host, driver or not (PCI class 03); else empty."""
    vendors = set()
    for device in site.path("/sys/bus/pci/devices").glob("*"):
        try:
            if (device / "class").read_text().startswith(_DISPLAY_CLASS):
                vendors.add((device / "vendor").read_text().strip())
        except OSError:
            continue
    return next((name for vendor, name in _VENDORS.items() if vendor in vendors), "")


def judge_gpu(site: Site, loaded: LoadedModel | None, *, is_here: bool) -> Finding:
    """Whether a loaded model lies in the GPU's memory. `is_here`: Ollama runs on this host."""
    if loaded is None:
        return unknown(
            CHECK,
            "Where the model runs can be seen while it is loaded.",
            "watchdogd ask hello && watchdogd doctor ollama",
        )
    if loaded.size_bytes and loaded.vram_bytes >= loaded.size_bytes:
        return ok(CHECK, f"{loaded.name} lies wholly in the GPU's memory ({show_size(loaded.vram_bytes)}).")
    if loaded.vram_bytes > 0:
        share = 100 * loaded.vram_bytes // max(loaded.size_bytes, 1)
        return warning(
            CHECK,
            f"Only {share} % of {loaded.name} fits into the GPU's memory ({show_size(loaded.vram_bytes)} of "
            f"{show_size(loaded.size_bytes)}): each question waits for the CPU.",
            "watchdogd models    # names what fits; or lower triage.num_ctx, and end what else takes the GPU's memory",
        )
    vendor = find_vendor(site) if is_here else ""
    if not vendor:
        where = "this host has no GPU that Ollama could use" if is_here else "its host has none that it uses"
        return ok(CHECK, f"{loaded.name} runs on the CPU: {where}.")
    return warning(CHECK, *_explain_unused(site, vendor, loaded.name))


def _explain_unused(site: Site, vendor: str, model: str) -> tuple[str, str]:
    """Why a card that is there may not be used, and what helps."""
    begins = f"{model} runs on the CPU although an {vendor} GPU is in this host"
    if vendor == "NVIDIA" and not site.exists("/proc/driver/nvidia/version"):
        return f"{begins}: its driver is not loaded.", "modprobe nvidia && nvidia-smi    # else install the driver"
    if vendor == "AMD" and not site.exists("/dev/kfd"):
        return f"{begins}: the compute part of its driver is missing (/dev/kfd).", "modprobe amdgpu && ls -l /dev/kfd"
    if any(server.container for server in list_servers(site)):
        if vendor == "NVIDIA":
            return (
                f"{begins}: Ollama runs in a container that was not given it.",
                "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker    # docker run --gpus=all",
            )
        return (
            f"{begins}: Ollama runs in a container that was not given it.",
            "docker run --device /dev/kfd --device /dev/dri -d -p 127.0.0.1:11434:11434 ollama/ollama:rocm",
        )
    if vendor == "AMD":
        return f"{begins}: may Ollama open /dev/kfd?", f"usermod -aG render,video ollama && {_LOOK}"
    return f"{begins}: Ollama did not find it when it started.", _LOOK
