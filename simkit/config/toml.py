"""TOML as Python's own reader has it, without the texts that keep it busy for hours."""

import re
import tomllib
from typing import Any


_DEEPEST = 50
# A key of so many parts, as far as a pattern can tell it: `a.a.a. ...`, or parts in quotes.
# The groups are atomic, so that no text is looked at more than once from each place.
_DEEP_KEY = re.compile(
    r"""(?<![\w-])(?>(?>[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*)"""
    f"{{{_DEEPEST}}}"
)


def loads(text: str) -> dict[str, Any]:
    """The values of a TOML document.

    The time of Python's reader grows with the square of the parts of a dotted key: one of
    400 kB takes ten minutes. Such a key is refused like tables that are nested too deeply.

    Raises `RecursionError` for either, `tomllib.TOMLDecodeError` for other faults of the
    text and another `ValueError` for a whole number of thousands of digits.
    """
    if _DEEP_KEY.search(text):
        raise RecursionError(f"a key of more than {_DEEPEST} parts")
    return tomllib.loads(text)
