"""Templates that the administrator writes for what a webhook is sent: compiled, tried and filled in, within limits.

A template comes from a file that the configuration names. What is alerted about is handed to it as values, never as a
template, so that `{{` in a command line stays `{{`. Each value is escaped for the content type where it is put in:

- JSON (`application/json`, `+json`): as inside a JSON string, or as any JSON value by the filter `tojson`.
- HTML and XML: `<>&'"` as entities.
- forms (`application/x-www-form-urlencoded`): percent-encoded.
- anything else: as it is; values are one line each in any case.

jinja2's sandbox keeps templates from Python's internals and from changing values. The limits here are against slips (a
loop within a loop), not against an administrator who means harm.
"""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import escape as escape_html

from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jinja2.runtime import Context

MAX_BYTES: Final = 262_144
"""Of one message."""
MAX_STEPS: Final = 20_000
"""Rounds of loops and calls in one message."""

_NO_OTHER_FILES: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_MADE_TEXT: Final = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)
"""What jinja2 makes text of and hands on as a value: it would be escaped a second time."""
_LARGEST_POWER: Final = 64
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\*_~`|>#-+[]()<:!"} | {"@": "@\u200b"})


class TemplateFault(WatchdogdError):  # noqa: N818 - TemplateError is jinja2's
    """A template that cannot be read or filled in; `line` counts from 1, None where it is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class TooLongFault(TemplateFault):
    """The message is longer than MAX_BYTES."""


class _Done(str):
    """Text that is escaped already."""

    __slots__ = ()


class MessageTemplate:
    """One template, ready to be filled in."""

    def __init__(self, source: str, path: str, content_type: str) -> None:
        """`path` is what errors name. Raises TemplateFault."""
        self._path = path
        self._kind = choose_escape(content_type)
        self._environment = _Environment(self._kind)
        try:
            tree = self._environment.parse(source, path, path)
            _refuse_parts(tree, self._kind)
            _count_rounds(tree, self._environment)
            code = self._environment.compile(tree, path, path)
        except TemplateError as error:
            raise TemplateFault(_describe(error), getattr(error, "lineno", None)) from None
        except RecursionError:
            raise TemplateFault("nested too deeply") from None
        self._template = Template.from_code(self._environment, code, self._environment.globals)

    def fill(self, values: Mapping[str, object]) -> bytes:
        """The message, UTF-8. Raises TemplateFault, TooLongFault where nothing but its length is wrong."""
        self._environment.steps = 0
        try:
            body = _join_parts(self._template.generate(values))
        except TemplateFault as fault:
            raise type(fault)(str(fault), fault.line or _find_line(fault, self._path)) from None
        except Exception as error:  # noqa: BLE001 - whatever an expression raises is the template's fault
            raise TemplateFault(_describe(error), _find_line(error, self._path)) from None
        if self._kind == "json":
            _check_json(body)
        return body


def choose_escape(content_type: str) -> str:
    """How values are escaped for a content type: `json`, `html`, `form` or `text`."""
    name = content_type.partition(";")[0].strip().lower()
    if name.endswith(("/json", "+json")):
        return "json"
    if name.endswith(("/html", "/xml", "+xml")):
        return "html"
    return "form" if name == "application/x-www-form-urlencoded" else "text"


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2 with our escapes and filters; counts the steps of a message."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, kind: str) -> None:
        finalize = {"json": _finish_json, "form": _finish_form}.get(kind)
        super().__init__(
            undefined=StrictUndefined,
            autoescape=kind == "html",
            finalize=finalize,
            keep_trailing_newline=kind == "text",
            trim_blocks=True,
            lstrip_blocks=True,
            cache_size=0,
        )
        self.steps = 0
        self.globals.pop("lipsum", None)
        self.filters["markdown"] = escape_markdown
        self.filters["html"] = lambda value: str(escape_html(str(value)))
        if kind != "html":
            self.filters["tojson"] = write_json

    def count_step(self) -> str:
        """Called in each round of a loop and for each call. Raises SecurityError for too many."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} rounds of loops and calls")
        return ""

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - jinja2's
        """As jinja2's, counted."""
        self.count_step()
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - jinja2's
        """As jinja2's, but nothing is multiplied beyond the length of a message."""
        numbers = (int, float)
        if operator == "**":
            if not isinstance(left, numbers) or not isinstance(right, numbers) or abs(right) > _LARGEST_POWER:
                raise SecurityError("a power that is too large")
        elif not (isinstance(left, numbers) and isinstance(right, numbers)):
            sized, times = (right, left) if isinstance(left, int) else (left, right)
            if not isinstance(times, int) or len(sized) * times > MAX_BYTES:
                raise SecurityError("a repetition that is too long")
        return super().call_binop(context, operator, left, right)


def write_json(value: object) -> str:
    """The filter `tojson`: any value as JSON, quotes included. Undefined names raise jinja2's UndefinedError."""
    return _Done(json.dumps(value, default=str))


def escape_markdown(value: object) -> str:
    """The filter `markdown`: a backslash before every character that Markdown or a chat acts on, `@` broken."""
    return str(value).translate(_MARKDOWN)


def _finish_json(value: object) -> str:
    if isinstance(value, _Done):
        return value
    if isinstance(value, (list, tuple, dict)):
        raise TemplateFault("a list or map is put in as it is: use the filter tojson, or join")
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return json.dumps(str(value))[1:-1]


def _finish_form(value: object) -> str:
    return value if isinstance(value, _Done) else quote_plus(str(value))


def _join_parts(parts: Iterable[str]) -> bytes:
    body = bytearray()
    for part in parts:
        body += part.encode()
        if len(body) > MAX_BYTES:
            raise TooLongFault(f"the message is longer than {MAX_BYTES} bytes")
    return bytes(body)


def _refuse_parts(tree: nodes.Template, kind: str) -> None:
    for node in tree.find_all(_NO_OTHER_FILES):
        raise TemplateFault("a template cannot use other files", node.lineno)
    for node in tree.find_all(_MADE_TEXT if kind in {"json", "form"} else ()):
        raise TemplateFault("no macro, call, filter or set block here: its text would be escaped twice", node.lineno)


def _count_rounds(tree: nodes.Template, environment: _Environment) -> None:
    for loop in list(tree.find_all(nodes.For)):
        count = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None)
        statement = nodes.ExprStmt(count).set_lineno(loop.lineno)
        statement.set_environment(environment)
        loop.body.insert(0, statement)


def _check_json(body: bytes) -> None:
    try:
        json.loads(body)
    except ValueError as error:
        line = getattr(error, "lineno", None)
        where = f", line {line} of it" if line is not None else ""
        raise TemplateFault(f"what it makes is no JSON{where}: {_describe(error)}") from None
    except RecursionError:
        raise TemplateFault("what it makes is JSON of too many levels") from None


def _find_line(error: BaseException, path: str) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else None


def _describe(error: BaseException) -> str:
    """What is wrong, on one line: values of an alert may be part of it."""
    said = str(error).encode("unicode_escape").decode()[:200]
    return said if isinstance(error, (TemplateError, ValueError)) and said else f"{type(error).__name__}: {said}"
