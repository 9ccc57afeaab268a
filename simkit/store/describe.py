"""What is in a result file, told without reading its arrays."""

import dataclasses
import os
from collections import deque
from typing import Any

import h5py
import numpy as np

from simkit.store.datasets import path_of
from simkit.store.guard import opened
from simkit.store.schema import NOT_A_VARIABLE


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
    with opened(path, 0) as guard:
        seen = {guard.file.id}  # a file may hold a group within itself
        waiting: deque[tuple[str, h5py.Group]] = deque([("/", guard.file)])
        while waiting:
            path_in_file, group = waiting.popleft()
            attributes[path_in_file] = _attributes(group)
            for name in map(str, group):
                item = guard.item(group, name)
                if item.id in seen:
                    continue
                seen.add(item.id)
                if isinstance(item, h5py.Group):
                    waiting.append((path_of(group, name), item))
                elif not _is_marker(item):
                    variables.append(_variable(path_in_file, name, item))
    return Description(tuple(variables), attributes)


def _variable(group: str, name: str, dataset: h5py.Dataset) -> Variable:
    attributes = _attributes(dataset)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        kind = "text"
    else:
        kind = str(attributes.get("dtype", dataset.dtype))
    if dataset.is_scale:
        dimensions = (name,) * dataset.ndim
    else:
        dimensions = tuple(_axis_name(dataset, axis) for axis in range(dataset.ndim))
    return Variable(
        group,
        name,
        dimensions,
        dataset.shape,
        kind,
        str(attributes.get("units", "")),
        str(attributes.get("long_name", "")),
    )


def _axis_name(dataset: h5py.Dataset, axis: int) -> str:
    scales = dataset.dims[axis]
    return str(scales[0].name).rpartition("/")[2] if len(scales) else f"axis {axis}"


def _is_marker(dataset: h5py.Dataset) -> bool:
    return str(_attribute(dataset, "NAME")).startswith(NOT_A_VARIABLE)


def _attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    found = {name: _attribute(item, name) for name in item.attrs if name not in _OF_HDF5}
    return {name: value for name, value in found.items() if value is not None}


def _attribute(item: h5py.Group | h5py.Dataset, name: str) -> Any:
    # Texts and numbers, or short rows of them; `None` for anything else.
    if name not in item.attrs:
        return None
    stored = item.attrs.get_id(name)
    if stored.shape is None or np.prod(stored.shape) > _LONGEST_ATTRIBUTE:
        return None
    value = item.attrs[name]
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float | list) else None
