"""What is wrong with a case, said in one sentence: where, what came, what was expected."""

import dataclasses
import datetime
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any


KeyPath = tuple[str | int, ...]
"""Where a value stands in a case: names of tables and positions in lists."""

_LONGEST_TEXT = 60
_LONGEST_PART = 400
_LONGEST_NAME = 100
_MOST_NAMES = 12
_MOST_COMPARED = 1000


class CaseError(ValueError):
    """A case, its data or an override that cannot be used as it stands.

    The text is one sentence without a line break: file, key, what came, what was
    expected. The parts are kept apart for programs:

    - `source`: the file as the user named it, with the override that is to blame.
    - `key`: the full dotted key, or the line and column.
    - `came`: what was found there.
    - `expected`: what would have been right, with the nearest known name.
    """

    def __init__(self, source: str, key: str, came: str, expected: str):
        self.source = source
        self.key = key
        self.came = came
        self.expected = expected
        parts = [part for part in (source, key) if part]
        where, came, expected = map(_shortened, (": ".join(parts), came, expected))
        super().__init__(one_line(f"{where} {came}, expected {expected}."))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.key, self.came, self.expected)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """What is wrong at one place of a case, before it is known who gave the value."""

    path: KeyPath
    came: str
    expected: str


def one_line(text: str) -> str:
    """The text with line breaks and control characters made visible."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def dotted(path: KeyPath) -> str:
    """A key as TOML writes it, positions in lists in brackets: `times.save_at[3]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.replace("_", "").replace("-", "")
            plain = bare.isascii() and bare.isalnum() and len(part) <= _LONGEST_TEXT
            name = part if plain else quoted(part)
            text += f".{name}" if text else name
    return text


def quoted(text: str) -> str:
    """A text in quotes, shortened if long."""
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 3] + "..."
    return '"' + text.replace('"', '\\"') + '"'


def number(value: float) -> str:
    """A number as people write it: `1900` rather than `1900.0`."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value)):
        digits = str(int(value)) if abs(value) < 1e16 else f"{float_or_infinity(value):g}"
        return digits
    return repr(value)


def float_or_infinity(value: float) -> float:
    """A number as a float; infinite if it is a whole number too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def described(value: Any) -> str:
    """A value and its type in the words of the case file: `"many" (text)`."""
    if isinstance(value, list | tuple | dict):
        return shown(value)
    return f"{shown(value)} ({_type_name(value)})"


def shown(value: Any) -> str:
    """A value alone; lists and tables are too long to show."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "more than 30 digits"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} value{'' if len(value) == 1 else 's'}"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return "a table"


def _type_name(value: Any) -> str:
    words = {bool: "a truth value", int: "a whole number", float: "a number", str: "text"}
    return words.get(type(value), "a date or time")


def _shortened(text: str) -> str:
    """A part of a sentence; the middle of one that would fill the screen is left out."""
    if len(text) <= _LONGEST_PART:
        return text
    return f"{text[: _LONGEST_PART // 2]}...{text[-_LONGEST_PART // 2 :]}"


def names(known: Iterable[str]) -> str:
    """Known names as a list for a sentence, shortened if there are many."""
    known = list(known)
    if not known:
        return "none"
    if len(known) > _MOST_NAMES:
        return f"{', '.join(known[:_MOST_NAMES])}, ... ({len(known)} in all)"
    if len(known) == 1:
        return known[0]
    return f"{', '.join(known[:-1])} or {known[-1]}"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is most like the one given, upper and lower case alike."""
    # The time of a comparison grows with the square of the lengths.
    if len(name) > _LONGEST_NAME:
        return None
    folded = {
        candidate.lower(): candidate
        for candidate in known[:_MOST_COMPARED]
        if len(candidate) <= _LONGEST_NAME
    }
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def choice(name: str, known: Sequence[str], what: str = "one of") -> str:
    """What was expected instead of an unknown name, with the nearest one that is known."""
    if len(known) == 1 and what == "one of":
        return known[0]
    close = nearest(name, known)
    return f"{what} {names(known)}" + (f" (nearest is {quoted(close)})" if close else "")
