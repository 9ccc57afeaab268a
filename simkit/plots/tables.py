"""Tables of a report, and how they become HTML."""

import dataclasses
import html
from collections.abc import Mapping, Sequence

import numpy as np

from simkit.plots.words import number


Cell = str | int | float
MOST_ROWS = 200
"""Rows that a table of a report shows at most; the result file holds all."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text and numbers under headings; the first column names the row.

    - `caption`: what the table shows, one line.
    - `note`: what it leaves out, or `""`.
    - `digits`: how many significant digits a column shows, where four are too few.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    digits: Mapping[str, int] = dataclasses.field(default_factory=dict)


def escaped(text: object) -> str:
    """Text of any origin as HTML text; characters that HTML forbids are replaced."""
    allowed = (
        letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in str(text)
    )
    return html.escape("".join(allowed))


def as_html(table: Table) -> str:
    """A table that scrolls by itself on a narrow screen.

    A number is shown rounded and carries its full value in `<data value>`.
    """
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in table.columns)
    digits = [table.digits.get(column, 4) for column in table.columns]
    body = "\n".join(_row(row, digits) for row in table.rows)
    note = f'<p class="note">{escaped(table.note)}</p>\n' if table.note else ""
    # A region that scrolls must be reachable with the keyboard.
    title = escaped(table.caption)
    return (
        f'<div class="table" tabindex="0" role="group" aria-label="{title}">\n'
        f"<table>\n<caption>{title}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n{note}"
    )


def _row(cells: Sequence[Cell], digits: Sequence[int]) -> str:
    first, *others = [_content(*pair) for pair in zip(cells, digits, strict=True)]
    body = "".join(
        f"<td{_kind(cell)}>{content}</td>"
        for cell, content in zip(cells[1:], others, strict=True)
    )
    return f'<tr><th scope="row">{first}</th>{body}</tr>'


def _kind(cell: Cell) -> str:
    return "" if isinstance(cell, str) else ' class="number"'


def _content(value: Cell, digits: int) -> str:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, int | np.integer):
        return str(value)
    if not np.isfinite(value):
        return number(value)
    return f'<data value="{float(value)!r}">{number(value, digits)}</data>'
