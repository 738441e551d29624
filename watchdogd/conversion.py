"""Plain data from a file becomes frozen Structs; every mistake gets its own place, none hides another.

The Struct types are the only table: their annotations say what is allowed (`msgspec.Meta` constraints), and the
`extra` of a Meta what msgspec has no word for:

- `check`: a function from the value to a complaint (`"must ..."`) or None
- `mask`: a function from the value to what may be shown of it; such values are never quoted in a message
- `form`: what a text must look like, in words (goes with `pattern`)
- `path`: a relative path counts from the file's folder
- `internal`: set by the program, unknown in files
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import inspect

from watchdogd.errors import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from watchdogd.marks import MarkedDocument

Keys = tuple[str | int, ...]
StructT = TypeVar("StructT", bound=msgspec.Struct)

_FAILED = object()
_SHOWN_CHARACTERS = 60
_CONTAINERS = (inspect.StructType, inspect.DictType, inspect.VarTupleType)


def convert_document(kind: type[StructT], document: MarkedDocument, base: Path | None) -> tuple[StructT, list[Problem]]:
    """Convert a document to a Struct. Where a part is wrong, the Struct holds its default and a problem is returned.

    An empty document, and an empty map or list in it, stand for the defaults; a map adds to its default's entries.
    `base` is the folder that relative paths count from.
    """
    places: Callable[[Keys, bool], Place] = lambda keys, of_key: (  # noqa: E731 - named for its type
        document.place(*keys) if of_key else document.place_value(*keys)
    )
    converter = _Converter(kind, places, base)
    struct = converter.convert(inspect.type_info(kind), document.data, ())
    if struct is _FAILED or struct is None:
        struct = kind()
    return struct, converter.problems


def convert_value(kind: type[msgspec.Struct], name: str, value: object, place: Place) -> tuple[Any, list[Problem]]:
    """Convert what the environment or a flag says of one setting (dotted `name`) of a Struct.

    Raises KeyError where the Struct has no such setting.
    """
    keys = tuple(name.split("."))
    info: inspect.Type = inspect.type_info(kind)
    for key in keys:
        info = _fields(_unwrap(info)[0])[key].type
    converter = _Converter(kind, lambda _keys, _of_key: place, None)
    return converter.convert(info, value, keys), converter.problems


def replace_value(struct: StructT, name: str, value: object) -> StructT:
    """Copy a Struct with one setting (dotted `name`) replaced."""
    head, _, rest = name.partition(".")
    return msgspec.structs.replace(
        struct, **{head: replace_value(getattr(struct, head), rest, value) if rest else value}
    )


def list_settings(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Every key that a file may hold, as dotted names (`webhooks[].url`), in the types' order."""
    return tuple(_walk_names(inspect.type_info(kind), ""))


def describe(struct: msgspec.Struct) -> dict[str, Any]:
    """Return a Struct as plain data that may be shown: masked where its type says so, without internal fields."""
    shown = {}
    for name, field in _fields(inspect.type_info(type(struct))).items():
        _, extra = _unwrap(field.type)
        if extra.get("internal") and "mask" not in extra:
            continue
        shown[name] = _describe_value(getattr(struct, name), extra)
    return shown


def name_of(keys: Keys) -> str:
    """Dotted name of a place in the data: `webhooks[0].url`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{_shorten(str(key))}" for key in keys)
    return text.removeprefix(".")


class _Converter:
    def __init__(self, kind: type[msgspec.Struct], place: Callable[[Keys, bool], Place], base: Path | None) -> None:
        self.kind = kind
        self.place = place
        self.base = base
        self.problems: list[Problem] = []

    def convert(self, info: inspect.Type, value: object, keys: Keys) -> Any:  # noqa: ANN401 - any setting's type
        """Value of the type, or _FAILED with at least one more problem."""
        info, extra = _unwrap(info)
        if isinstance(info, inspect.UnionType):
            if value is None:
                return None
            info, inner = _unwrap(next(kind for kind in info.types if not isinstance(kind, inspect.NoneType)))
            extra = {**extra, **inner}
        if isinstance(info, _CONTAINERS):
            return self._convert_container(info, value, keys)
        complaint, hint = _complain(info, value, extra)
        if complaint is None and (check := extra.get("check")) is not None:
            complaint = check(value)
        if complaint is not None:
            shown = "" if "mask" in extra or value in (None, "") else f", not {_show(value)}"
            if value is None and isinstance(keys[-1], int):
                hint = "remove the item"
            return self._fail(keys, f"{complaint}{shown}", hint or _hint(info, value, keys))
        if extra.get("path") and self.base is not None:
            return str(self.base / str(value))
        if isinstance(info, inspect.EnumType):
            return info.cls(value)
        return float(value) if isinstance(info, inspect.FloatType) else value  # type: ignore[arg-type]  # _complain saw to it

    def _convert_container(self, info: inspect.Type, value: object, keys: Keys) -> Any:  # noqa: ANN401 - as `convert`
        if value is None:
            return None
        if isinstance(info, inspect.VarTupleType):
            if not isinstance(value, list | tuple):
                return self._fail(keys, f"must be a list, not {_show(value)}", "begin each item with '- '")
            return tuple(self._convert_item(info, item, (*keys, index)) for index, item in enumerate(value))
        if not isinstance(value, dict):
            return self._fail(keys, f"must be a map of keys, not {_show(value)}")
        if isinstance(info, inspect.DictType):
            pairs = [self._convert_pair(info, key, item, keys) for key, item in value.items()]
            return _FAILED if any(_FAILED in pair for pair in pairs) else dict(pairs)
        return self._convert_struct(info, value, keys)  # type: ignore[arg-type]  # the only container left

    def _convert_item(self, info: inspect.VarTupleType, item: object, keys: Keys) -> Any:  # noqa: ANN401 - as `convert`
        """Item of a list; None where anything in it is wrong, so that the others keep their index."""
        before = len(self.problems)
        converted = self.convert(info.item_type, item, keys)
        return converted if len(self.problems) == before else None

    def _convert_pair(self, info: inspect.DictType, key: object, item: object, keys: Keys) -> tuple[Any, Any]:
        here = (*keys, key if isinstance(key, str | int) else str(key))
        kind, extra = _unwrap(info.key_type)
        complaint, hint = _complain(kind, key, extra)
        if complaint is not None:
            message = f"{name_of(keys)}: the key {_show(key)} {complaint}"
            self.problems.append(Problem(self.place(here, True), message, hint=hint))  # noqa: FBT003 - a Callable has no keywords
            return _FAILED, None
        built = kind.cls(key) if isinstance(kind, inspect.EnumType) else key
        converted = self.convert(info.value_type, item, here)
        return built, converted

    def _convert_struct(self, info: inspect.StructType, data: dict[object, object], keys: Keys) -> Any:  # noqa: ANN401 - as `convert`
        fields = _fields(info)
        known = {name: field for name, field in fields.items() if not _unwrap(field.type)[1].get("internal")}
        values: dict[str, Any] = {}
        failed = False
        for key, value in data.items():
            if key not in known:
                self._refuse_key(key, known, keys)
                continue
            name = str(key)
            converted = self.convert(known[name].type, value, (*keys, name))
            if converted is _FAILED:
                failed = failed or known[name].required
            elif converted is not None:
                values[name] = _merge(known[name], converted)
        for name, field in known.items():
            if field.required and name not in data:
                self._fail(keys, f"lacks its key {name!r}")
                failed = True
        return _FAILED if failed else info.cls(**values)

    def _refuse_key(self, key: object, known: dict[str, inspect.Field], keys: Keys) -> None:
        place = self.place((*keys, key if isinstance(key, str | int) else str(key)), True)  # noqa: FBT003 - a Callable has no keywords
        near = difflib.get_close_matches(str(key), known, n=1)
        elsewhere = [name for name in list_settings(self.kind) if re.split(r"[.\]]", name)[-1] == key]
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif elsewhere:
            hint = f"did you mean {' or '.join(elsewhere)}?"
        else:
            hint = f"known here: {', '.join(known)}"
        where = f" in {name_of(keys)}" if keys else ""
        self.problems.append(Problem(place, f"unknown key {_show(key)}{where}", hint=hint))

    def _fail(self, keys: Keys, message: str, hint: str = "") -> object:
        name = name_of(keys) or "the file"
        self.problems.append(Problem(self.place(keys, False), f"{name} {message}", hint=hint))  # noqa: FBT003 - as above
        return _FAILED


def _complain(info: inspect.Type, value: object, extra: dict[str, Any]) -> tuple[str | None, str]:
    if value is None:
        return "has no value", "remove the line for its default"
    if isinstance(info, inspect.EnumType | inspect.LiteralType):
        allowed = [str(v) for v in (info.cls if isinstance(info, inspect.EnumType) else info.values)]
        near = difflib.get_close_matches(str(value).lower(), allowed, n=1)
        wrong = not isinstance(value, str) or value not in allowed
        return (f"must be one of {', '.join(allowed)}" if wrong else None), (f"did you mean {near[0]}?" if near else "")
    if isinstance(info, inspect.BoolType):
        return (None if isinstance(value, bool) else "must be true or false"), ""
    if isinstance(info, inspect.StrType):
        return _complain_text(info, value, extra), ""
    number = (int,) if isinstance(info, inspect.IntType) else (int, float)
    wanted = "a whole number" if isinstance(info, inspect.IntType) else "a number"
    bounds = _name_bounds(info)
    if isinstance(value, bool) or not isinstance(value, number) or not math.isfinite(value):
        return f"must be {wanted}{bounds}", ""
    return (None if _is_within(info, value) else f"must be {wanted}{bounds}"), ""


def _complain_text(info: inspect.StrType, value: object, extra: dict[str, Any]) -> str | None:
    if not isinstance(value, str):
        return f"must be {extra.get('form', 'text')}"
    if info.min_length and len(value) < info.min_length:
        return "must not be empty"
    if info.max_length and len(value) > info.max_length:
        return f"must not be longer than {info.max_length} characters"
    if info.pattern and not re.search(info.pattern, value):
        return f"must be {extra['form']}" if "form" in extra else f"must match {info.pattern}"
    return None


def _hint(info: inspect.Type, value: object, keys: Keys) -> str:
    """How to mend the commonest slips."""
    if isinstance(info, inspect.StrType) and not isinstance(value, str | list | dict):
        return "put it in quotes"
    if isinstance(info, inspect.FloatType | inspect.IntType) and isinstance(value, str):
        return "a plain number of seconds, without a unit" if str(keys[-1]).endswith("_s") else "a plain number"
    if isinstance(info, inspect.BoolType) and str(value).lower() in ("true", "false", "yes", "no", "on", "off"):
        return "without quotes"
    return ""


def _name_bounds(info: Any) -> str:  # noqa: ANN401 - IntType or FloatType
    if info.ge is not None and info.le is not None:
        return f" from {info.ge} to {info.le}"
    words = (("at least", info.ge), ("greater than", info.gt), ("at most", info.le), ("less than", info.lt))
    said = [f"{word} {bound}" for word, bound in words if bound is not None]
    return " " + " and ".join(said) if said else ""


def _is_within(info: Any, value: float) -> bool:  # noqa: ANN401 - IntType or FloatType
    return (
        (info.ge is None or value >= info.ge)
        and (info.gt is None or value > info.gt)
        and (info.le is None or value <= info.le)
        and (info.lt is None or value < info.lt)
    )


def _merge(field: inspect.Field, value: Any) -> Any:  # noqa: ANN401 - any setting's type
    """Maps add to their default's entries; everything else replaces."""
    if isinstance(value, dict) and callable(field.default_factory):
        return {**field.default_factory(), **value}
    return value


def _describe_value(value: object, extra: dict[str, Any]) -> Any:  # noqa: ANN401 - plain data
    if "mask" in extra and value:
        return extra["mask"](value)
    if isinstance(value, msgspec.Struct):
        return describe(value)
    if isinstance(value, tuple):
        return [_describe_value(item, {}) for item in value]
    return msgspec.to_builtins(value)


def _walk_names(info: inspect.Type, prefix: str) -> Iterator[str]:
    for name, field in _fields(info).items():
        kind, extra = _unwrap(field.type)
        if extra.get("internal"):
            continue
        dotted = f"{prefix}{name}"
        yield dotted
        if isinstance(kind, inspect.StructType):
            yield from _walk_names(kind, f"{dotted}.")
        elif isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.StructType):
            yield from _walk_names(kind.item_type, f"{dotted}[].")


def _unwrap(info: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    if isinstance(info, inspect.Metadata):
        return info.type, dict(info.extra or {})
    return info, {}


@functools.lru_cache(maxsize=64)
def _fields_of(cls: type[msgspec.Struct]) -> dict[str, inspect.Field]:
    info = inspect.type_info(cls)
    return {field.name: field for field in info.fields} if isinstance(info, inspect.StructType) else {}


def _fields(info: inspect.Type) -> dict[str, inspect.Field]:
    return _fields_of(info.cls) if isinstance(info, inspect.StructType) else {}


def _show(value: object) -> str:
    """Name a value as YAML would write it, short and printable."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(_shorten(value)) if isinstance(value, str) else _shorten(str(value))


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
