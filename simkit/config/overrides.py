"""Overrides of single keys of a case: `--set fit.starts=64`."""

import tomllib
from typing import Any

from simkit.config.errors import CaseError, KeyPath, described, dotted, quoted
from simkit.config.toml import loads


def parse_override(text: str) -> tuple[KeyPath, Any]:
    """Split `KEY=VALUE` into the path of the key and the value.

    The key is written as in TOML, `fit.parameters."a key".lower`. The value is a TOML
    value; what is none is taken as text, so `method.type=Dopri8` needs no quotes.

    Raises `CaseError` for a text that is not of that form.
    """
    source = f"--set {quoted(text)}"
    key, equals, value = text.partition("=")
    if not equals:
        raise CaseError(source, "", "has no =", "KEY=VALUE such as fit.starts=64")
    try:
        # A line break would let further keys in.
        nested = loads(f"{key} = 0") if key.isprintable() else {}
    except (tomllib.TOMLDecodeError, RecursionError):
        nested = {}
    path: list[str] = []
    while isinstance(nested, dict) and len(nested) == 1:
        name, nested = next(iter(nested.items()))
        path.append(name)
    if not path or nested != 0:
        raise CaseError(source, "", f"has the key {quoted(key)}", "a key such as fit.starts")
    return tuple(path), _parse_value(value)


def apply_override(values: dict[str, Any], path: KeyPath, value: Any, source: str) -> None:
    """Put a value into the nested tables in place; tables that are missing are made.

    Raises `CaseError` if the path leads through something that is not a table.
    """
    table: Any = values
    for depth, part in enumerate(path[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise CaseError(source, dotted(path[:depth]), f"is {described(table)}", "a table")
    table[path[-1]] = value


def _parse_value(text: str) -> Any:
    try:
        parsed = loads(f"value = {text}") if text.isprintable() else {}
    except (ValueError, RecursionError):
        return text.strip()
    return parsed["value"] if list(parsed) == ["value"] else text.strip()
