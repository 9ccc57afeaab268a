"""What is in a result file, told without reading its arrays."""

import dataclasses
import math
import os
from collections import deque
from typing import Any

import h5py
import numpy as np

from simkit.store.datasets import path_of
from simkit.store.guard import Guard, opened
from simkit.store.schema import NOT_A_VARIABLE, StoreError


_OF_HDF5 = frozenset(
    [
        "CLASS",
        "NAME",
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "DIMENSION_LABELS",
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
        "_NCProperties",
    ]
)
_LONGEST_ATTRIBUTE = 100
_MOST_BYTES = 64 * 1024**2
"""What all attributes together may come to; thousands of them can share one long text."""
_DEEPEST = 50


@dataclasses.dataclass(frozen=True)
class Variable:
    """One dataset of a file.

    - `group`, `name`: where it stands.
    - `dimensions`, `shape`: its axes by name and by size.
    - `type`: `"float64"`, `"int64"`, `"bool"`, `"text"`, ...
    - `units`, `long_name`: what the file says about it, `""` for nothing.
    """

    group: str
    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    type: str
    units: str
    long_name: str


@dataclasses.dataclass(frozen=True)
class Description:
    """The contents of a file.

    - `variables`: each dataset once, in the outermost group that has it.
    - `attributes`: for each group its texts and numbers by name.
    """

    variables: tuple[Variable, ...]
    attributes: dict[str, dict[str, Any]]


def describe(path: str | os.PathLike[str]) -> Description:
    """List what an HDF5 file holds; any netCDF-like file will do, not only simkit's.

    Raises `OSError` if there is no such file or it may not be read, and `StoreError` if
    it is not HDF5, is damaged, or leads out of the file.
    """
    variables: list[Variable] = []
    attributes: dict[str, dict[str, Any]] = {}
    with opened(path, _MOST_BYTES) as guard:
        root: Any = guard.file["/"]  # the file itself has no identity
        seen = {root.id}  # a file may hold a group within itself
        waiting: deque[tuple[str, h5py.Group]] = deque([("/", root)])
        while waiting:
            path_in_file, group = waiting.popleft()
            attributes[path_in_file] = _attributes(guard, group)
            for name in map(str, group):
                item = guard.item(group, name)
                if item.id in seen:
                    continue
                seen.add(item.id)
                if isinstance(item, h5py.Group):
                    if path_in_file.count("/") > _DEEPEST:
                        raise StoreError(f"{path}: groups are nested too deeply to be read.")
                    waiting.append((path_of(group, name), item))
                elif not _is_marker(guard, item):
                    variables.append(_variable(guard, path_in_file, name, item))
    return Description(tuple(variables), attributes)


def _variable(guard: Guard, group: str, name: str, dataset: h5py.Dataset) -> Variable:
    attributes = _attributes(guard, dataset)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        kind = "text"
    else:
        kind = str(attributes.get("dtype", dataset.dtype))
    if _attribute(guard, dataset, "CLASS") == "DIMENSION_SCALE":
        dimensions = (name,) * dataset.ndim
    else:
        dimensions = _axis_names(dataset)
    return Variable(
        group,
        name,
        dimensions,
        dataset.shape,
        kind,
        # H5MD, the format of molecular trajectories, says "unit".
        str(attributes.get("units", attributes.get("unit", ""))),
        str(attributes.get("long_name", "")),
    )


def _axis_names(dataset: h5py.Dataset) -> tuple[str, ...]:
    # The scales are looked up here: the library's own search for them ends the process
    # where the list of scales is of another type or shape than it should be.
    named = [f"axis {axis}" for axis in range(dataset.ndim)]
    if "DIMENSION_LIST" in dataset.attrs:
        stored = dataset.attrs.get_id("DIMENSION_LIST")
        inner = h5py.check_vlen_dtype(stored.dtype)
        if (
            inner is not None
            and h5py.check_ref_dtype(inner) is h5py.Reference
            and stored.shape == (dataset.ndim,)
        ):
            found: Any = dataset.attrs["DIMENSION_LIST"]
            for axis, scales in enumerate(found):
                if len(scales) and scales[0]:
                    scale = dataset.file[scales[0]].name
                    named[axis] = str(scale).rpartition("/")[2]
    return tuple(named)


def _is_marker(guard: Guard, dataset: h5py.Dataset) -> bool:
    return str(_attribute(guard, dataset, "NAME")).startswith(NOT_A_VARIABLE)


def _attributes(guard: Guard, item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    found = {name: _attribute(guard, item, name) for name in item.attrs if name not in _OF_HDF5}
    return {name: value for name, value in found.items() if value is not None}


def _attribute(guard: Guard, item: h5py.Group | h5py.Dataset, name: str) -> Any:
    # Texts and numbers, or short rows of them; `None` for anything else.
    if name not in item.attrs:
        return None
    stored = item.attrs.get_id(name)
    if stored.shape is None or math.prod(map(int, stored.shape)) > _LONGEST_ATTRIBUTE:
        return None
    guard.charge(item, stored.get_storage_size())
    value = item.attrs[name]
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    guard.charge(item, _length(value))
    return value if isinstance(value, str | int | float | list) else None


def _length(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_length, value))
    return 4 * len(value) if isinstance(value, str | bytes) else 0
