"""`watchdogd ask`: a free question to the local model."""

from __future__ import annotations

import asyncio
import os
import sys
import unicodedata
from contextlib import aclosing
from typing import TYPE_CHECKING

from watchdogd.cli.options import add_config_option
from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncGenerator

    from watchdogd.config import TriageSettings

HELP = "ask the local model a free question"

ANSWER_TOKENS = 1024
PAUSE_S = 300.0
"""Longest pause before and within the answer: a model that is not loaded may take minutes to come."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_config_option(parser)
    parser.add_argument("--model", metavar="MODEL", help="ask this one (default: the configuration's)")
    parser.add_argument("question", nargs="+", metavar="QUESTION", help="what to ask; `-`: standard input")


def run(args: argparse.Namespace) -> int:
    """Print the answer, as it comes where a person looks. 0 where there is one, 2 where Ollama gives none."""
    from watchdogd.config import load_config  # noqa: PLC0415 - `--help` needs no settings

    question = sys.stdin.read() if args.question == ["-"] else " ".join(args.question)
    if not question.strip():
        raise WatchdogdError("an empty question")
    config = load_config(args.config, environ=os.environ, overrides={"triage.model": args.model})
    asyncio.run(answer(config.triage, question, live=sys.stdout.isatty()))
    return 0


async def answer(settings: TriageSettings, question: str, *, live: bool) -> None:
    """Write the model's answer to standard output: piece by piece (`live`), or whole and only where it is complete.

    Raises TriageError.
    """
    pieces: list[str] = []
    async with aclosing(put_question(settings, question)) as said:
        async for piece in said:
            pieces.append(drop_controls(piece))
            if live:
                sys.stdout.write(pieces[-1])
                sys.stdout.flush()
    text = "".join(pieces)
    if not live:
        sys.stdout.write(text.strip())
    sys.stdout.write("" if live and text.endswith("\n") else "\n")


async def put_question(settings: TriageSettings, question: str) -> AsyncGenerator[str]:
    """The pieces of the answer, as they come. Raises TriageError."""
    from watchdogd.triage.advice import ask_freely  # noqa: PLC0415 - start-up of other commands
    from watchdogd.triage.ollama import ChatOptions, OllamaClient  # noqa: PLC0415 - as above

    client = OllamaClient(settings.ollama_url, timeout_s=PAUSE_S)
    options = ChatOptions.choose(settings, min(ANSWER_TOKENS, settings.num_ctx // 2))
    messages = ask_freely(question)
    try:
        async with aclosing(client.converse(messages, options)) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        await client.close()


def drop_controls(text: str) -> str:
    """The text without what a terminal obeys or does not show; new lines and tabs stay."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in _HIDDEN)
