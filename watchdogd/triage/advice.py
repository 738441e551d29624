"""Free questions of the operator's: what the model is told before them."""

from __future__ import annotations

SYSTEM = (
    "You help the administrator of a Linux host with questions about its security, auditd and Sigma rules. Answer "
    "briefly and plainly. You cannot look at the host or do anything on it; where that would be needed, name the "
    "command to run. Say so where you do not know."
)


def ask_freely(question: str) -> list[dict[str, str]]:
    """The messages of a free question, as Ollama's `/api/chat` takes them."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
