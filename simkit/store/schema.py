"""How results map onto HDF5: the one place that writer and reader share.

A result is a dataclass, and each of its fields has one of the forms below, which
follows from its type. The result itself is the root group; a table within it is a group
of its own, named like the field.

| form of the field | in the file |
| --- | --- |
| array | dataset of that name; one that labels an axis is named like the axis |
| arrays by name | group of that name, a dataset for each |
| text, integer, number | attribute of the group |
| texts, texts by name | attribute of the group, as JSON |
| table | group; absent for `None` |
| provenance | attributes of the group `/simkit` |
| draws | group `/posterior`, a dataset for each parameter, axes `chain` and `draw` |

Each group has a dimension scale for every axis of its datasets: labels where there are
some, numbers for the axes in `NUMBERED_AXES`, else a netCDF dimension without values. A
scale that a group shares with the group around it is one object under two names.
"""

import dataclasses
import enum
import functools
import re
import types
import typing
from typing import Any

import numpy as np

from simkit.results import Fit, Provenance, Trajectory


SCHEMA_VERSION = 2
"""Of the files that are written. Those of older versions are read: what they lack has its
default. Version 2 added the engine."""
CONVENTIONS = "CF-1.11"
ROOT_KINDS: dict[str, type] = {"Trajectory": Trajectory, "Fit": Fit}
RUN_GROUP = "simkit"
POSTERIOR_GROUP = "posterior"
NUMBERED_AXES = ("member", "start", "draw", "chain")
NOT_A_VARIABLE = "This is a netCDF dimension but not a netCDF variable."
BOOLEAN = "bool"
"""Value of the attribute `dtype` of int8 datasets that hold booleans, as xarray has it."""

_LONGEST_SENTENCE = 1000
_DRAWS = {("Uncertainty", "draws")}
_UNSAFE_IN_NAMES = re.compile(r"[%/\x00-\x1f\x7f]")
_ESCAPED = re.compile("%([0-9A-F]{2})")


class StoreError(ValueError):
    """A file that is no sound result file, or one that must not be read.

    The text is one sentence without a line break, whatever names stand in the file.
    """

    def __init__(self, message: str):
        line = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in message
        )
        if len(line) > _LONGEST_SENTENCE:
            line = f"{line[: _LONGEST_SENTENCE // 2]}...{line[-_LONGEST_SENTENCE // 2 :]}"
        super().__init__(line)


class Form(enum.Enum):
    """What a field holds, and with that how it is stored; see the module."""

    ARRAY = enum.auto()
    ARRAYS_BY_NAME = enum.auto()
    TEXT = enum.auto()
    INTEGER = enum.auto()
    NUMBER = enum.auto()
    TEXTS = enum.auto()
    TEXTS_BY_NAME = enum.auto()
    TABLE = enum.auto()
    PROVENANCE = enum.auto()
    DRAWS = enum.auto()


_FORM_OF_TYPE: dict[Any, Form] = {
    np.ndarray: Form.ARRAY,
    dict[str, np.ndarray]: Form.ARRAYS_BY_NAME,
    str: Form.TEXT,
    int: Form.INTEGER,
    float: Form.NUMBER,
    tuple[str, ...]: Form.TEXTS,
    dict[str, str]: Form.TEXTS_BY_NAME,
}


@dataclasses.dataclass(frozen=True)
class FieldSchema:
    """One field of a result.

    - `dimensions`: its axes; a name that ends in `?` may be absent.
    - `unit`, `unit_from`, `coordinate`, `holds`: see `simkit.results`.
    - `long_name`: one line for people.
    - `table`: the dataclass of a table; `optional`: whether it may be `None`.
    - `since`: the first version of the file that has it; `default`: its value before.
    """

    name: str
    form: Form
    dimensions: tuple[str, ...] = ()
    unit: str | None = None
    unit_from: str = ""
    coordinate: bool = False
    holds: str = "numbers"
    long_name: str = ""
    table: type | None = None
    optional: bool = False
    since: int = 1
    default: Any = None


@functools.cache
def schema_of(table: type) -> tuple[FieldSchema, ...]:
    """The fields of a result class, in order."""
    hints = typing.get_type_hints(table)
    return tuple(
        _field_schema(table, field, hints[field.name])
        for field in dataclasses.fields(table)
        if field.metadata.get("stored", True)
    )


def axes_of(dimensions: tuple[str, ...], rank: int) -> tuple[str, ...] | None:
    """The axes of an array of that rank, or `None` if it cannot have them.

    >>> axes_of(("member?", "time"), 1)
    ('time',)
    """
    every = tuple(axis.removesuffix("?") for axis in dimensions)
    needed = tuple(axis for axis in dimensions if not axis.endswith("?"))
    if rank == len(every):
        return every
    return needed if rank == len(needed) else None


@functools.cache
def axis_names() -> frozenset[str]:
    """The names of all axes that a result can have."""
    waiting, found = list(ROOT_KINDS.values()), {"chain"}
    while waiting:
        for field in schema_of(waiting.pop()):
            found.update(axis.removesuffix("?") for axis in field.dimensions)
            if field.table is not None:
                waiting.append(field.table)
    return frozenset(found)


def to_link_name(name: str) -> str:
    """The name in the file of a thing that people call `name`.

    HDF5 reads "/" and "." as paths, so such characters are written as in URLs. So is the
    first character of the name of an axis, as a dataset of that name would be taken for
    its scale.

    >>> to_link_name("dose/weight"), to_link_name("time"), to_link_name("noise.prey")
    ('dose%2Fweight', '%74ime', 'noise.prey')
    """
    if name == "":
        return "%"
    link = _UNSAFE_IN_NAMES.sub(lambda match: f"%{ord(match[0]):02X}", name)
    if link == "." or link in axis_names():
        link = f"%{ord(link[0]):02X}{link[1:]}"
    return link


def from_link_name(link: str) -> str:
    """The inverse of `to_link_name`."""
    if link == "%":
        return ""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), link)


def marker_name(size: int) -> str:
    """What netCDF calls a dimension scale without values."""
    return f"{NOT_A_VARIABLE} {size:9d}"


def _field_schema(table: type, field: dataclasses.Field, hint: Any) -> FieldSchema:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    optional = type(None) in parts
    kind = next(part for part in parts if part is not type(None))
    long_name = field.metadata.get("description") or field.name.replace("_", " ")
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        form = Form.PROVENANCE if kind is Provenance else Form.TABLE
        return FieldSchema(field.name, form, long_name=long_name, table=kind, optional=optional)
    form = Form.DRAWS if (table.__name__, field.name) in _DRAWS else _FORM_OF_TYPE[kind]
    return FieldSchema(
        field.name,
        form,
        dimensions=field.metadata.get("dimensions", ()),
        unit=field.metadata.get("unit"),
        unit_from=field.metadata.get("unit_from", ""),
        coordinate=field.metadata.get("coordinate", False),
        holds=field.metadata.get("holds", "numbers"),
        long_name=long_name,
        since=field.metadata.get("since", 1),
        default=field.default,
    )
