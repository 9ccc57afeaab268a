"""Numbers, units and counts as text, the same in every figure, table and sentence."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def plain(text: object, longest: int = 60) -> str:
    """Text that may come from a file, made fit for a label: one line, printable, not too long.

    matplotlib leaves labels out of legends that start with an underscore; a hair space
    before it keeps them.
    """
    line = " ".join(str(text).split())
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    if len(line) > longest:
        # The end stays too: names of one family often differ there alone.
        tail = longest // 3
        line = f"{line[: longest - 1 - tail]}…{line[-tail:]}"
    return f"\u200a{line}" if line.startswith("_") else line


def with_unit(name: str, unit: str) -> str:
    """`prey (thousand)`, or the bare name of a number without dimension."""
    return plain(name) if unit in ("1", "") else f"{plain(name)} ({plain(unit, 40)})"


def number(value: object, digits: int = 4) -> str:
    """A number with so many significant digits; a dash where there is none."""
    value = float(value)  # pyright: ignore[reportArgumentType]
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{digits}g}"


def percent(level: float) -> str:
    """`90 %` for 0.9."""
    return f"{100 * level:.4g} %"


def listing(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def counted(count: int, noun: str) -> str:
    """`1 start`, `3 starts`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def reasons(statuses: Iterable[str]) -> str:
    """The different reasons with their counts, the most frequent first."""
    counts = Counter(plain(status, 200) for status in statuses)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{count} × {status}" for status, count in ordered)


def failures(status: np.ndarray) -> str:
    """How many members of an ensemble failed, or `""` where none did."""
    failed = int((status != "successful").sum())
    if failed == 0:
        return ""
    verb = "is" if failed == 1 else "are"
    return f"{failed} of {counted(status.size, 'member')} failed and {verb} left out."
