"""A result as flat tables: columns of equal shape with labels on each axis.

This is what is exported to programs that know no HDF5. Arrays of one table of a result
that have the same axes become columns of one flat table.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from simkit.results import Fit, Trajectory
from simkit.store.schema import FieldSchema, Form, axes_of, schema_of
from simkit.stored import StoredArray, as_array
from simkit.tabular import Column, FlatTable


Value = str | int | float


@dataclasses.dataclass(frozen=True)
class _Place:
    """A table of a result, how it is called, and what is around it."""

    value: Any
    path: tuple[str, ...]
    outer: "_Place | None"

    def find(self, name: str) -> Any:
        """The field of that name, here or in the nearest place around."""
        if any(field.name == name for field in schema_of(type(self.value))):
            return getattr(self.value, name)
        return None if self.outer is None else self.outer.find(name)

    def labels_of(self, axis: str) -> tuple[FieldSchema, np.ndarray] | None:
        """The field that labels an axis: here, directly within, or around."""
        axis = axis.removesuffix("_2")
        inner = [
            getattr(self.value, field.name)
            for field in schema_of(type(self.value))
            if field.form is Form.TABLE
        ]
        for table in (self.value, *inner):
            for field in schema_of(type(table)) if table is not None else ():
                if field.coordinate and field.dimensions == (axis,):
                    return field, np.asarray(getattr(table, field.name))
        return None if self.outer is None else self.outer.labels_of(axis)


def flat_tables(result: Trajectory | Fit) -> list[FlatTable]:
    """All arrays of a result as flat tables with different names."""
    return [
        _flat_table(place, axes, entries)
        for place in _places(_Place(result, (), None))
        for axes, entries in _by_axes(place).items()
    ]


def attributes(result: Trajectory | Fit) -> dict[str, dict[str, Value]]:
    """Texts and single numbers of each table of a result, which is `""` for itself.

    Collections of texts come as JSON.
    """
    return {
        "_".join(place.path): {
            field.name: _plain(getattr(place.value, field.name))
            for field in schema_of(type(place.value))
            if field.form in _PLAIN
        }
        for place in _places(_Place(result, (), None))
    }


_PLAIN = (Form.TEXT, Form.INTEGER, Form.NUMBER, Form.TEXTS, Form.TEXTS_BY_NAME)


def _plain(value: Any) -> Value:
    if isinstance(value, dict | tuple):
        return json.dumps(value, ensure_ascii=False)
    return value


def _places(place: _Place) -> Iterator[_Place]:
    yield place
    for field in schema_of(type(place.value)):
        inner = getattr(place.value, field.name)
        if field.table is not None and inner is not None:
            yield from _places(_Place(inner, (*place.path, field.name), place))


_FOR_EACH_SOLVE = {(): "solve", ("member",): "members"}
"""Tables of a trajectory that gather what there is once, or once for each member."""

_Entry = tuple[FieldSchema, str | None, np.ndarray | StoredArray]
"""A field, the name within it or `None`, and the values."""


def _by_axes(place: _Place) -> dict[tuple[str, ...], list[_Entry]]:
    found: dict[tuple[str, ...], list[_Entry]] = {}
    for field in schema_of(type(place.value)):
        value = getattr(place.value, field.name)
        entries: list[_Entry] = []
        if field.form is Form.ARRAY and not field.coordinate:
            entries = [(field, None, np.asarray(value))]
        elif field.form is Form.ARRAYS_BY_NAME:
            entries = [(field, name, as_array(array)) for name, array in value.items()]
        elif field.form is Form.DRAWS:
            # As ArviZ has them: one chain, a column for each parameter.
            names = place.value.name.tolist()
            draws = np.asarray(value).T[:, np.newaxis, :]
            key = ("chain", "draw")
            found[key] = [(field, name, each) for name, each in zip(names, draws, strict=True)]
        for entry in entries:
            axes = axes_of(field.dimensions, entry[2].ndim)
            assert axes is not None, "a result is looked at when it is read"
            found.setdefault(axes, []).append(entry)
    return found


def _flat_table(place: _Place, axes: tuple[str, ...], entries: list[_Entry]) -> FlatTable:
    shape = entries[0][2].shape
    names = [name if name is not None else field.name for field, name, _ in entries]
    if (
        set(names) & set(axes)
        or len({field.name for field, _, _ in entries}) > 1
        or not _is_own(place, axes)
    ):
        names = [_full_name(field, name) for field, name, _ in entries]
    columns = [
        Column(
            column,
            values,
            _unit(place, field, name),
            field.long_name if name is None else f"{field.long_name}: {name}",
        )
        for column, (field, name, values) in zip(names, entries, strict=True)
    ]
    labels = [_labels(place, axis, size) for axis, size in zip(axes, shape, strict=True)]
    fields = list(dict.fromkeys(field.name for field, _, _ in entries))
    return FlatTable(_table_name(place, axes, fields), tuple(labels), tuple(columns))


def _is_own(place: _Place, axes: tuple[str, ...]) -> bool:
    # Whether a single field has a table of its own: not what is told once for each solve.
    return bool(place.path) or axes not in _FOR_EACH_SOLVE


def _table_name(place: _Place, axes: tuple[str, ...], fields: list[str]) -> str:
    if not _is_own(place, axes):
        return _FOR_EACH_SOLVE[axes]
    if "draws" in fields:
        return "posterior"
    if len(fields) == 1:
        return "_".join((*place.path, fields[0]))
    shortest = min(map(len, _by_axes(place)))
    return "_".join((*place.path, *axes[shortest:]))


def _full_name(field: FieldSchema, name: str | None) -> str:
    return field.name if name is None else f"{field.name}.{name}"


def _labels(place: _Place, axis: str, size: int) -> Column:
    found = place.labels_of(axis)
    if found is not None and found[1].size == size:
        field, labels = found
        return Column(axis, labels, _unit(place, field, None), field.long_name)
    return Column(axis, np.arange(size), "", f"number of the {axis}")


def _unit(place: _Place, field: FieldSchema, name: str | None) -> str:
    if field.form is Form.DRAWS:
        table = place.find("parameters")
        units = dict(zip(table.name.tolist(), table.unit.tolist(), strict=True))
        return units.get(name, "")
    if field.holds != "numbers":
        return ""
    unit = field.unit
    if field.unit_from:
        unit = place.find(field.unit_from)
        if isinstance(unit, dict):
            unit = unit.get(name)
    return unit or ""
