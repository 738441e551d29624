"""YAML with places: plain data, and where each part of it stands in the file that a person edits."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from typing import TYPE_CHECKING, Any

import yaml

from watchdogd.errors import Place, Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

MAX_FILE_BYTES = 8 << 20
"""Larger files are refused unread: no rule or configuration comes near."""
MAX_DEPTH = 64
MAX_NODES = 200_000
"""Of one file, aliases counted as if written out (an alias bomb is small only until it is read)."""

_SHOWN_COLUMNS = 100
_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# YAML 1.1, production c-printable: everything else must be written as an escape.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WORDING = (
    ("mapping values are not allowed", "a ':' where no key can stand", "quote text that holds ': '"),
    ("could not find expected ':'", "a key without its ':'", ""),
    ("did not find expected key", "neither a key nor the end of the block", "check quotes and indentation"),
    ("did not find expected '-' indicator", "a list goes on without its '-'", "check the indentation"),
    ("block sequence entries are not allowed", "a list cannot begin here", "begin it on a line of its own"),
    ("did not find expected ',' or ']'", "a list in [brackets] is not closed", "or a comma is missing"),
    ("did not find expected ',' or '}'", "a map in {braces} is not closed", "or a comma is missing"),
    ("found unhashable key", "a list or map as a key", "quote text that holds braces or brackets"),
    ("did not find expected node content", "no value where one must stand", "check commas, brackets and braces"),
    ("found undefined alias", "an alias to an anchor that does not exist", "quote text that begins with '*'"),
    (
        "expected alphabetic or numeric character",
        "an anchor or alias without a name",
        "quote text that begins with '*'",
    ),
    ("found unknown escape character", "an unknown escape", "use 'single quotes' where \\ is meant literally"),
    ("found a tab character", "a tab in the indentation", "indent with spaces"),
)

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _BadNodeError(Exception):
    """A value that its tag does not allow: a thirteenth month, `!!int x`."""

    def __init__(self, node: yaml.Node) -> None:
        super().__init__()
        self.node = node


class _Loader(_BaseLoader):  # type: ignore[misc]  # the C loader where libyaml is there, else the Python one
    """SafeLoader whose every failure knows its node."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:  # noqa: FBT001, FBT002 - PyYAML's own
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            raise _BadNodeError(node) from error


class MarkedDocument:
    """One YAML document: `data` as PyYAML's SafeLoader builds it, and the place of every part."""

    def __init__(self, path: str, data: Any, node: yaml.Node | None) -> None:  # noqa: ANN401 - YAML holds anything
        self.path = path
        self.data = data
        self._node = node

    def place(self, *keys: str | int) -> Place:
        """Where the key at the end of `keys` stands (of a list: its item), or the nearest part that exists."""
        return self._find(keys)[0]

    def place_value(self, *keys: str | int) -> Place:
        """As `place`, of the value instead of its key."""
        return self._find(keys)[1]

    def _find(self, keys: tuple[str | int, ...]) -> tuple[Place, Place]:
        if self._node is None:
            return Place(self.path, 1, 1), Place(self.path, 1, 1)
        key_node = value_node = self._node
        for key in keys:
            found = _child(value_node, key)
            if found is None:
                break
            key_node, value_node = found
        return _place(self.path, key_node.start_mark), _place(self.path, value_node.start_mark)


def read_text(path: Path) -> str:
    """Read a file that a person edits; a byte order mark at its head is dropped.

    Raises ProblemsError with one problem: missing, unreadable, no file, too large, or not UTF-8 (with the offset).
    """
    return decode_text(read_bytes(path), _show(path))


def read_bytes(path: Path) -> bytes:
    """As `read_text`, before it is taken for text. Raises ProblemsError likewise."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _refusal(path, "is a directory, not a file")
        if not (stat.S_ISREG(mode) or path.is_relative_to("/dev") or path.is_relative_to("/proc")):
            raise _refusal(path, "is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _refusal(path, "does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(path, f"cannot be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise _refusal(path, f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data


def decode_text(data: bytes, path: str) -> str:
    """Take bytes for UTF-8 text, a byte order mark dropped. Raises ProblemsError that places the byte that is not."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = _line_column(before, len(before))
        byte = data[error.start]
        problem = Problem(
            Place(path, line, column),
            f"byte {error.start} (0x{byte:02x}) is not UTF-8",
            hint="save the file as UTF-8",
        )
        raise ProblemsError((problem,)) from None


def _show(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _refusal(path: Path, message: str) -> ProblemsError:
    return ProblemsError((Problem(Place(_show(path)), message),))


def load_documents(text: str, path: str) -> tuple[list[MarkedDocument], list[Problem]]:
    """Parse every document of a YAML text, with the places of all parts.

    Data is built as PyYAML's SafeLoader does (YAML 1.1). Never raises for bad text: syntax errors, duplicate keys,
    unprintable characters, nesting beyond MAX_DEPTH and more than MAX_NODES nodes are problems. Documents before
    a syntax error are returned; one with a duplicate key is returned too (its last value counts).
    """
    problem = _find_unprintable(text, path) or _check_size(text, path)
    if problem is not None:
        return [], [problem]
    documents: list[MarkedDocument] = []
    problems: list[Problem] = []
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            _find_duplicates(node, path, problems)
            documents.append(MarkedDocument(path, loader.construct_document(node), node))
    except _BadNodeError as error:
        problems.append(_explain_node(error.node, path))
    except yaml.MarkedYAMLError as error:
        problems.append(_explain(error, text, path))
    except yaml.YAMLError as error:
        problems.append(Problem(Place(path), f"not valid YAML: {error}"))
    finally:
        loader.dispose()
    return documents, problems


def caret_lines(problem: Problem, text: str) -> str:
    """Return the source line of a problem and a caret below its column; empty where the problem has no line.

    What a terminal would obey is replaced, and a long line is cut to what stands around the caret.
    """
    lines = _BREAKS.split(text)
    if problem.place.line is None or not 1 <= problem.place.line <= len(lines):
        return ""
    line = "".join(
        char if char.isprintable() else " " if char == "\t" else "\ufffd" for char in lines[problem.place.line - 1]
    )
    column = min(problem.place.column or 1, len(line) + 1) - 1
    start = max(0, column - _SHOWN_COLUMNS * 2 // 3) if len(line) > _SHOWN_COLUMNS else 0
    shown = line[start : start + _SHOWN_COLUMNS]
    return f"    {shown}\n    {' ' * _measure(line[start:column])}^"


def _measure(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _place(path: str, mark: Any) -> Place:  # noqa: ANN401 - the C parser's marks are a type of their own
    return Place(path, mark.line + 1, mark.column + 1)


def _line_column(text: str, offset: int) -> tuple[int, int]:
    line, start = 1, 0
    for found in _BREAKS.finditer(text, 0, offset):
        line, start = line + 1, found.end()
    return line, offset - start + 1


def _find_unprintable(text: str, path: str) -> Problem | None:
    found = _UNPRINTABLE.search(text)
    if found is None:
        return None
    char = found.group()
    name = "NUL byte" if char == "\0" else f"control character U+{ord(char):04X}"
    hint = f'write "{char.encode("unicode_escape").decode()}" in double quotes'
    return Problem(Place(path, *_line_column(text, found.start())), f"a {name}: YAML is text", hint=hint)


def _check_size(text: str, path: str) -> Problem | None:  # noqa: C901 - one pass over one flat stream of events
    """Depth, size with aliases written out, and aliases into themselves, before any of it is built."""
    sizes: dict[str, int] = {}
    stack: list[tuple[str | None, int]] = []
    total = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            place = _place(path, event.start_mark)
            if isinstance(event, yaml.DocumentStartEvent):
                sizes.clear()
            elif isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in stack):
                    return Problem(place, f"the alias *{event.anchor} stands inside what it names")
                total += sizes.get(event.anchor or "", 1)
            elif isinstance(event, yaml.ScalarEvent):
                total += 1
                if event.anchor:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                stack.append((event.anchor, total))
                total += 1
                if len(stack) > MAX_DEPTH:
                    return Problem(place, f"nested more than {MAX_DEPTH} levels deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = stack.pop()
                if anchor:
                    sizes[anchor] = total - before
            if total > MAX_NODES:
                return Problem(place, f"more than {MAX_NODES} values, aliases counted as written out")
    except yaml.YAMLError:
        return None  # reported, with the documents before it, when the nodes are composed
    return None


def _find_duplicates(root: yaml.Node, path: str, problems: list[Problem]) -> None:
    pending, visited = [root], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            pending.extend(value for _, value in node.value)
            _find_duplicates_in(node, path, problems)
    problems.sort(key=lambda problem: (problem.place.line or 0, problem.place.column or 0))


def _find_duplicates_in(node: yaml.MappingNode, path: str, problems: list[Problem]) -> None:
    first: dict[tuple[str, str], yaml.Node] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        earlier = first.setdefault((key.tag, key.value), key)
        if earlier is not key:
            mark = earlier.start_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}"
            problems.append(
                Problem(_place(path, key.start_mark), f"duplicate key {key.value!r}: it stands at {where} already")
            )


def _child(node: yaml.Node, key: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode):
        if isinstance(key, int) and 0 <= key < len(node.value):
            return node.value[key], node.value[key]
        return None
    if not isinstance(node, yaml.MappingNode):
        return None
    # Backwards: of a repeated key the last counts, and merged keys (`<<`) stand before the map's own.
    for key_node, value_node in reversed(node.value):
        if _build_key(key_node) == key:
            return key_node, value_node
    return None


def _build_key(node: yaml.Node) -> Hashable:
    if not isinstance(node, yaml.ScalarNode):
        return None
    if node.tag == "tag:yaml.org,2002:str":
        return str(node.value)
    built: Hashable = yaml.constructor.SafeConstructor().construct_object(node)
    return built


def _explain_node(node: yaml.Node, path: str) -> Problem:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    shown = f" {node.value!r}" if isinstance(node, yaml.ScalarNode) else ""
    kind = {"int": "number", "float": "number", "timestamp": "date", "bool": "boolean"}.get(kind, kind)
    return Problem(_place(path, node.start_mark), f"not a valid {kind}:{shown[:80]}", hint="quote it if it is text")


def _explain(error: yaml.MarkedYAMLError, text: str, path: str) -> Problem:
    """Say what a parser's error means to the person who wrote the file."""
    mark = error.problem_mark or error.context_mark
    place = Place(path) if mark is None else _place(path, mark)
    lines = _BREAKS.split(text)
    if place.line is not None and place.line > len(lines):  # the parser's end lies behind the last line
        place = Place(path, len(lines), len(lines[-1]) + 1)
    said = error.problem or error.context or "not valid YAML"
    if error.context_mark is not None and "end of stream" in said and "quoted" in (error.context or ""):
        return Problem(_place(path, error.context_mark), "a quote that is opened here is never closed")
    if "cannot start any token" in said and mark is not None:
        char = lines[mark.line][mark.column : mark.column + 1]
        if char == "\t":
            return Problem(place, "a tab where only spaces may stand", hint="indent with spaces")
        return Problem(place, f"nothing can begin with {char!r} here", hint="quote it")
    if "could not determine a constructor for the tag" in said:
        return Problem(place, f"an unknown tag: {said.split('tag ', 1)[1]}", hint="quote text that begins with '!'")
    for known, message, hint in _WORDING:
        if known in said:
            opened = error.context_mark if "not closed" in message else None
            where = f": it begins at line {opened.line + 1}, column {opened.column + 1}" if opened else ""
            return Problem(place, message + where, hint=hint)
    return Problem(place, f"not valid YAML: {said}")
