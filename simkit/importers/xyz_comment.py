"""The second line of an extended XYZ file: keys and values, to and fro.

Values are numbers, booleans (`T`, `F`), text, and arrays of numbers or booleans; what is
written reads back as the same value, or is refused.

Source of the format: the reference of the extxyz project, and J. Frenzel, N. Bernstein,
G. Csanyi, J. R. Kermode, *Extended XYZ specification and parsing tools*.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np


_SPACE = re.compile(r"\s*")
_KEY = re.compile(r"[^\s=\"'{}\[\]]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BRACES = re.compile(r"\{([^{}]*)\}")
_BARE = re.compile(r"[^\s=\"{}\[\]]+")
_INTEGER = re.compile(r"[+-]?\d+\Z")
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_LOGICAL = {"T": True, "F": False, "true": True, "false": False, "True": True, "False": False}


def parse_comment(text: str) -> dict[str, Any]:
    """The keys and values of a line; a key by itself is true.

    Raises `ValueError` with the place in the line for anything that is no such list, and
    for a key that stands twice.
    """
    found: dict[str, Any] = {}
    place = _skip(text, 0)
    while place < len(text):
        key = _KEY.match(text, place)
        if key is None:
            raise ValueError(f"column {place + 1}: expected a key, found {text[place]!r}")
        name, place = key.group(), _skip(text, key.end())
        if name in found:
            raise ValueError(f"column {key.start() + 1}: the key {name!r} stands twice")
        if text[place : place + 1] != "=":
            found[name] = True
            continue
        found[name], place = _parse_value(text, _skip(text, place + 1), name)
        place = _skip(text, place)
    return found


def format_comment(values: Mapping[str, Any]) -> str:
    """The line of these keys and values.

    Raises `ValueError` for a key or a value that would not read back as it is.
    """
    return " ".join(f"{_format_key(key)}={_format_value(key, values[key])}" for key in values)


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return place if match is None else match.end()


def _parse_value(text: str, place: int, key: str) -> tuple[Any, int]:
    for pattern in (_QUOTED, _BRACES):
        match = pattern.match(text, place)
        if match is not None:
            inner = match.group(1)
            return _array(inner.split(), inner), match.end()
    if text[place : place + 1] == "[":
        return _parse_brackets(text, place, key)
    match = _BARE.match(text, place)
    if match is None:
        raise ValueError(f"column {place + 1}: the key {key!r} has no value that can be read")
    return _scalar(match.group()), match.end()


def _parse_brackets(text: str, place: int, key: str) -> tuple[Any, int]:
    end = place
    depth = 0
    while end < len(text):
        depth += {"[": 1, "]": -1}.get(text[end], 0)
        end += 1
        if depth == 0:
            break
    inner = re.sub(r"\bT\b", "true", re.sub(r"\bF\b", "false", text[place:end]))
    try:
        array = np.asarray(json.loads(inner))
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(
            f"column {place + 1}: the value of {key!r} is no list of numbers"
        ) from error
    if array.dtype.kind not in "iufb" or not np.all(np.isfinite(array)):
        raise ValueError(f"column {place + 1}: the value of {key!r} is no list of numbers")
    return array, end


def _scalar(word: str) -> Any:
    if word in _LOGICAL:
        return _LOGICAL[word]
    # Python reads at most some thousands of digits, and no integer needs more than 19.
    if _INTEGER.match(word) and len(word) <= 19:
        return int(word)
    return float(word) if _REAL.match(word) else word


def _array(words: list[str], text: str) -> Any:
    """Two or more numbers or booleans in quotes are an array; all else is text."""
    if len(words) > 1:
        values = [_scalar(word) for word in words]
        for kind in (bool, int):
            if all(type(value) is kind for value in values):
                return np.asarray(values)
        if all(type(value) in (int, float) for value in values):
            return np.asarray(values, dtype=np.float64)
    return re.sub(r"\\(.)", r"\1", text)


def _format_key(key: str) -> str:
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"{key!r} cannot be a key: it has spaces, quotes, brackets or '='")
    return key


def _format_value(key: str, value: Any) -> str:
    text = _text_of(value)
    if not text.isprintable() or not _same(_parse_value(text, 0, key)[0], value):
        raise ValueError(f"the value of {key!r} cannot be written so that it reads back")
    return text


def _text_of(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "T" if value else "F"
    if isinstance(value, int | float | np.number):
        return repr(value.item() if isinstance(value, np.number) else value)
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        # A single word in quotes is text, also where it looks like a number or a boolean.
        bare = _BARE.fullmatch(value) and isinstance(_scalar(value), str)
        return value if bare else f'"{quoted}"'
    array = np.asarray(value)
    if array.ndim == 1 and array.size > 1:
        return '"' + " ".join(_text_of(item) for item in array) + '"'
    return json.dumps(array.tolist())


def _same(read: Any, value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return (
            isinstance(read, np.ndarray)
            and read.dtype.kind == value.dtype.kind
            and np.array_equal(read, value)
        )
    return not isinstance(read, np.ndarray) and type(read) is type(value) and read == value
