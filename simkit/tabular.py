"""Flat tables: columns of equal shape with labels on each axis."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Column:
    """Values of one quantity.

    - `name`: unique within its table.
    - `values`: an array of numbers, truth values or text, with the axes of the table; that
      of a large ensemble may be a [`StoredArray`][simkit.stored.StoredArray].
    - `unit`: `""` where there is none, or where it differs from row to row.
    - `description`: one line for people.
    """

    name: str
    values: Any
    unit: str
    description: str


@dataclasses.dataclass(frozen=True)
class FlatTable:
    """Columns that share their axes.

    - `name`: fit to be the name of a file.
    - `axes`: for each axis a column of its labels, of shape `(size,)`.
    - `columns`: each of the shape that the axes have.
    """

    name: str
    axes: tuple[Column, ...]
    columns: tuple[Column, ...]
