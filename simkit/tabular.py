"""Flat tables: columns of equal shape with labels on each axis."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Column:
    """Values of one quantity.

    - `name`: unique within its table.
    - `values`: numbers, truth values or text, with the axes of the table.
    - `unit`: `""` where there is none, or where it differs from row to row.
    - `description`: one line for people.
    """

    name: str
    values: np.ndarray
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
