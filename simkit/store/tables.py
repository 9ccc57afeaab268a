"""Results and their tables on their way into a file: groups, scales, units."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from simkit.store import posterior
from simkit.store.datasets import make_dataset, write_array, write_attribute, write_scale
from simkit.store.schema import (
    NUMBERED_AXES,
    RUN_GROUP,
    FieldSchema,
    Form,
    axes_of,
    schema_of,
    to_link_name,
)
from simkit.stored import StoredArray, as_array


Waiting = list[tuple[h5py.Dataset, StoredArray]]
"""Datasets that are there but not yet filled, and what comes into them."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A result or table, its group, the place around it and the scales of its axes.

    - `waiting`: gets the datasets that the caller has to fill.
    """

    value: Any
    group: h5py.Group
    outer: "Place | None"
    scales: dict[str, h5py.Dataset]
    waiting: Waiting = dataclasses.field(default_factory=list)

    @property
    def schema(self) -> tuple[FieldSchema, ...]:
        """The fields of the value."""
        return schema_of(type(self.value))

    def find(self, name: str) -> Any:
        """The field of that name, here or in the nearest place around."""
        if any(field.name == name for field in self.schema):
            return getattr(self.value, name)
        return None if self.outer is None else self.outer.find(name)

    def labels_of(self, axis: str) -> tuple[FieldSchema, np.ndarray] | None:
        """The field that labels an axis, here or in a table directly within."""
        axis = axis.removesuffix("_2")
        for field in self.schema:
            if field.coordinate and field.dimensions == (axis,):
                return field, np.asarray(getattr(self.value, field.name))
        for field in self.schema:
            inner = getattr(self.value, field.name)
            if field.form is Form.TABLE and inner is not None:
                for label in schema_of(type(inner)):
                    if label.coordinate and label.dimensions == (axis,):
                        return label, np.asarray(getattr(inner, label.name))
        return None


def write_table(place: Place) -> None:
    """Write every field of a result or table, and the tables within it.

    Raises `ValueError` for arrays whose shapes do not fit together.
    """
    for axis, size in _axis_sizes(place).items():
        if axis not in posterior.AXES:  # the draws bring their own
            place.scales[axis] = _scale(place, axis, size)
    for field in place.schema:
        writer = _WRITERS.get(field.form, _write_scalar)
        writer(place, field, getattr(place.value, field.name))


def _write_inner(place: Place, field: FieldSchema, value: Any) -> None:
    if value is not None:
        group = _group(place.group, field.name, field.long_name)
        write_table(Place(value, group, place, {}, place.waiting))


def _write_scalar(place: Place, field: FieldSchema, value: Any) -> None:
    write_attribute(place.group, field.name, field.form, value)


def _write_provenance(place: Place, field: FieldSchema, value: Any) -> None:
    del field
    run = place.group.file.require_group(RUN_GROUP)
    for entry in schema_of(type(value)):
        write_attribute(run, entry.name, entry.form, getattr(value, entry.name))


def _write_array(place: Place, field: FieldSchema, value: Any) -> None:
    if not field.coordinate:  # those are the scales
        _write_values(place, place.group, field, field.name, np.asarray(value))


def _write_arrays_by_name(place: Place, field: FieldSchema, value: Any) -> None:
    group = _group(place.group, field.name, field.long_name)
    for name, array in value.items():
        link = to_link_name(name)
        _write_values(place, group, field, link, as_array(array), name)


def _write_values(
    place: Place,
    group: h5py.Group,
    field: FieldSchema,
    link: str,
    array: np.ndarray | StoredArray,
    name: str | None = None,
) -> None:
    axes = axes_of(field.dimensions, array.ndim) or ()
    for axis in axes:
        if axis not in group:
            group[axis] = place.scales[axis]
    scales = tuple(place.scales[axis] for axis in axes)
    attributes = _attributes(place, field, array, name)
    if isinstance(array, StoredArray):
        place.waiting.append((make_dataset(group, link, array, scales, attributes), array))
    else:
        write_array(group, link, array, scales, attributes)


def _write_draws(place: Place, field: FieldSchema, value: Any) -> None:
    del field
    table = place.find("parameters")
    units = dict(zip(table.name.tolist(), table.unit.tolist(), strict=True))
    posterior.write(
        place.group.file,
        place.value.name.tolist(),
        units,
        np.asarray(value),
        place.find("provenance"),
    )


_WRITERS: dict[Form, Callable[[Place, FieldSchema, Any], None]] = {
    Form.TABLE: _write_inner,
    Form.PROVENANCE: _write_provenance,
    Form.ARRAY: _write_array,
    Form.ARRAYS_BY_NAME: _write_arrays_by_name,
    Form.DRAWS: _write_draws,
}


def _attributes(
    place: Place, field: FieldSchema, array: np.ndarray | StoredArray, name: str | None
) -> dict[str, str]:
    attributes = {"long_name": field.long_name if name is None else name}
    unit = field.unit
    if field.unit_from:
        unit = place.find(field.unit_from)
        if isinstance(unit, dict):
            unit = unit.get(name)
    if unit is not None and array.dtype.kind in "fiu":
        attributes["units"] = unit
    return attributes


def _scale(place: Place, axis: str, size: int) -> h5py.Dataset:
    # The scale of an axis: that of the place around where it has the same labels, so that
    # the labels stand in the file once.
    label = place.labels_of(axis)
    around = place.outer.scales.get(axis) if place.outer is not None else None
    if around is not None and (label is None or _holds(around, label[1])):
        place.group[axis] = around
        return around
    if label is not None:
        field, labels = label
        attributes = _attributes(place, field, labels, None)
    else:
        labels = np.arange(size) if axis in NUMBERED_AXES else None
        attributes = {"long_name": f"number of the {axis}"}
    return write_scale(place.group, axis, size, labels, attributes)


def _holds(scale: h5py.Dataset, labels: np.ndarray) -> bool:
    if labels.dtype.kind == "U":
        return h5py.check_string_dtype(scale.dtype) is not None and np.array_equal(
            scale.asstr()[()], labels.astype(object)
        )
    return scale.dtype == labels.dtype and scale[()].tobytes() == labels.tobytes()


def _axis_sizes(place: Place) -> dict[str, int]:
    # The size of each axis that the arrays of a table have, in order of appearance.
    kind = type(place.value).__name__
    found: dict[str, tuple[int, str]] = {}
    for field, where, array in _arrays(place):
        axes = axes_of(field.dimensions, array.ndim)
        if axes is None:
            raise ValueError(
                f"{kind}.{where} has the shape {array.shape}, expected one size for each of "
                f"{field.dimensions}."
            )
        for axis, size in zip(axes, array.shape, strict=True):
            expected, other = found.setdefault(axis, (size, where))
            if size != expected:
                raise ValueError(
                    f"{kind}.{where} has the size {size} along {axis}, but {other} has "
                    f"{expected}."
                )
    for axis, (size, where) in found.items():
        _check_labels(place, axis, size, f"{kind}.{where}")
    return {axis: size for axis, (size, _) in found.items()}


def _check_labels(place: Place, axis: str, size: int, where: str) -> None:
    label = place.labels_of(axis)
    if label is not None:
        expected = label[1].size
    elif place.outer is not None and axis in place.outer.scales:
        expected = place.outer.scales[axis].size
    else:
        return
    if size != expected:
        raise ValueError(
            f"{where} has the size {size} along {axis}, which has {expected} labels."
        )


def _arrays(place: Place) -> Iterator[tuple[FieldSchema, str, Any]]:
    for field in place.schema:
        value = getattr(place.value, field.name)
        if field.form in (Form.ARRAY, Form.DRAWS):
            yield field, field.name, np.asarray(value)
        elif field.form is Form.ARRAYS_BY_NAME:
            for name, array in value.items():
                yield field, f"{field.name}[{name!r}]", as_array(array)


def _group(outer: h5py.Group, name: str, long_name: str) -> h5py.Group:
    group = outer.create_group(name, track_order=True)
    write_attribute(group, "long_name", Form.TEXT, long_name)
    return group
