"""Completions for bash and zsh, made from the command line's own parsers."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.cli.grammar import Option, Words

_BASH_FILES = '        compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur")'


def write_bash(grammar: Words) -> str:
    """A script for /usr/share/bash-completion/completions."""
    nodes = list(grammar.walk())
    known = "|".join(shlex.quote(" ".join(("", *node.path))) for node in nodes if node.path)
    values = "".join(_write_bash_values(node) for node in nodes)
    words = "".join(_write_bash_words(node) for node in nodes)
    return f"""\
# bash completion for watchdogd; made from its command line.
_watchdogd() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} path= options= words= files= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path ${{COMP_WORDS[i]}}" in
            {known}) path="$path ${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$path $prev" in
{values}    esac
    case "$path" in
{words}    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    elif [[ $words ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    elif [[ $files ]]; then
{_BASH_FILES}
    fi
}}
complete -F _watchdogd watchdogd
"""


def _write_bash_values(node: Words) -> str:
    """What follows an option that takes a value."""
    parts = []
    for option in node.options:
        if not option.flags or not option.value:
            continue
        names = "|".join(shlex.quote(" ".join(("", *node.path, flag))) for flag in option.flags)
        if option.choices:
            listed = shlex.quote(" ".join(option.choices))
            parts.append(f'    {names}) mapfile -t COMPREPLY < <(compgen -W {listed} -- "$cur"); return ;;\n')
        elif option.is_file:
            parts.append(f"    {names})\n{_BASH_FILES}\n        return ;;\n")
        else:
            parts.append(f"    {names}) return ;;\n")
    return "".join(parts)


def _write_bash_words(node: Words) -> str:
    """What a command takes: options, commands below it or the choices of its arguments, files."""
    flags = " ".join(flag for option in node.options for flag in option.flags)
    words = [command.path[-1] for command in node.commands]
    places = [option for option in node.options if not option.flags]
    words.extend(choice for option in places for choice in option.choices)
    files = "yes" if any(option.is_file for option in places) else ""
    path = shlex.quote(" ".join(("", *node.path)) if node.path else "")
    return f"    {path}) options={shlex.quote(flags)} words={shlex.quote(' '.join(words))} files={files} ;;\n"


def write_zsh(grammar: Words) -> str:
    """A function for zsh's site-functions."""
    functions = "\n".join(_write_zsh_function(node) for node in grammar.walk())
    head = "#compdef watchdogd\n# zsh completion for watchdogd; made from its command line.\n"
    return f'{head}\n{functions}\n_watchdogd "$@"\n'


def _write_zsh_function(node: Words) -> str:
    specs = [spec for option in node.options for spec in _write_zsh_specs(option)]
    if not node.commands:
        body = " \\\n        ".join(["_arguments", *specs])
        return f"{_name_zsh(node)}() {{\n    {body}\n}}\n"
    body = " \\\n        ".join(["_arguments -C", *specs, "'1:command:->command'", "'*::argument:->argument'"])
    listed = " ".join(shlex.quote(f"{command.path[-1]}:{command.help.replace(':', ' -')}") for command in node.commands)
    calls = "".join(f"                {command.path[-1]}) {_name_zsh(command)} ;;\n" for command in node.commands)
    return f"""\
{_name_zsh(node)}() {{
    local context state line
    typeset -A opt_args
    {body}
    case $state in
        command)
            local -a commands=({listed})
            _describe command commands
            ;;
        argument)
            case $words[1] in
{calls}            esac
            ;;
    esac
}}
"""


def _name_zsh(node: Words) -> str:
    return "_".join(("_watchdogd", *(re.sub(r"\W", "_", word) for word in node.path)))


def _write_zsh_specs(option: Option) -> Iterator[str]:
    said = re.sub(r"([\[\]:\\])", r"\\\1", " ".join(option.help.split()))
    value = re.sub(r"[:\[\]\\]", " ", option.value) if not option.choices else "one of"
    action = f"({' '.join(option.choices)})" if option.choices else "_files" if option.is_file else " "
    if not option.flags:
        yield shlex.quote(f"{'*' if option.many else ''}:{value}:{action}")
        return
    for flag in option.flags:
        yield shlex.quote(f"{flag}[{said}]" + (f":{value}:{action}" if option.value else ""))
