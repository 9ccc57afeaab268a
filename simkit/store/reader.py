"""Reading results back."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from simkit.results import Fit, Trajectory
from simkit.store import posterior
from simkit.store.chunks import memory_of
from simkit.store.datasets import path_of
from simkit.store.guard import Guard, expanded, open_guarded, opened, translated
from simkit.store.schema import (
    ROOT_KINDS,
    RUN_GROUP,
    SCHEMA_VERSION,
    FieldSchema,
    Form,
    StoreError,
    axes_of,
    from_link_name,
    schema_of,
)
from simkit.store.soundness import find_fault, fits_kind
from simkit.stored import IN_MEMORY


MAX_BYTES = 2 * 1024**3
"""How much memory the arrays of one result may take unless a caller allows more."""

_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+]{0,40}")
_SCALARS = {Form.TEXT: str, Form.INTEGER: int, Form.NUMBER: float}


def load(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Trajectory | Fit:
    """Read a result that `save` wrote; it equals the one that was saved bit for bit.

    (Text arrays come back as wide as their longest item.)

    **Arguments:**

    - `path`: the file. It may come from anybody: what leads out of the file, arrays of
      more than `max_bytes` bytes in all, and what does not fit together are refused.
    - `max_bytes`: see above; left out, 2 GiB, and of a file that holds little beside zeros
      a hundred times its size.

    Raises `OSError` if there is no such file or it may not be read, and `StoreError` if
    it is not HDF5, not a result of simkit, written by a newer simkit, or damaged.
    """
    if max_bytes is None:
        max_bytes = _most_bytes(path)
    with opened(path, max_bytes) as guard:
        return _read(guard)


@contextlib.contextmanager
def open_result(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> Iterator[Trajectory | Fit]:
    """Read a result, but leave the states of a large ensemble in the file.

    They are [`StoredArray`][simkit.stored.StoredArray]s, of which parts can be read within
    the `with` block. All else is as from [`load`][simkit.load], whose limits hold for what
    is read at once.
    """
    if max_bytes is None:
        max_bytes = _most_bytes(path)
    with open_guarded(path, max_bytes) as guard:
        guard.stays_from = IN_MEMORY
        with translated(guard.path):
            result = _read(guard)
        yield result


def _most_bytes(path: str | os.PathLike[str]) -> int:
    return min(MAX_BYTES, expanded(os.stat(path).st_size))


def _read(guard: Guard) -> Trajectory | Fit:
    kind, version = _result_kind(guard)
    result = _read_table(guard, guard.file, kind, version)
    fault = find_fault(result)
    if fault:
        raise StoreError(f"{guard.path} does not fit together: {fault}.")
    return result


def _result_kind(guard: Guard) -> tuple[type, int]:
    if RUN_GROUP not in guard.file:
        raise StoreError(f"{guard.path} is HDF5, but not a result file of simkit.")
    run = guard.group(guard.file, RUN_GROUP)
    version = known_version(guard, run)
    kind = guard.attribute(run, "kind", str)
    if kind not in ROOT_KINDS:
        raise StoreError(
            f"{guard.path} holds a result of the kind {kind!r}, expected one of "
            f"{sorted(ROOT_KINDS)}."
        )
    return ROOT_KINDS[kind], version


def known_version(guard: Guard, run: h5py.Group) -> int:
    """The schema version of a file. Raises `StoreError` for one that is not known here."""
    version = guard.attribute(run, "schema_version", int)
    if version < 1:
        raise StoreError(f"{guard.path} has schema version {version}, expected 1 or more.")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{guard.path} has schema version {version}, but this simkit reads versions up "
            f"to {SCHEMA_VERSION}; install {_writer(guard, run)}, which reads it."
        )
    return version


def _writer(guard: Guard, run: h5py.Group) -> str:
    # The simkit that wrote a file of a version that is not known here.
    try:
        version = json.loads(guard.attribute(run, "versions", str))["simkit-jax"]
    except (StoreError, ValueError, LookupError, TypeError, RecursionError):
        version = ""
    if isinstance(version, str) and _RELEASE.fullmatch(version):
        return f"simkit-jax {version} or newer"
    return "a newer simkit-jax"


def _read_table(guard: Guard, group: h5py.Group, table: type, version: int) -> Any:
    values: dict[str, Any] = {}
    draws = ""
    for field in schema_of(table):
        if field.form is Form.DRAWS:
            draws = field.name
        elif field.since > version:
            values[field.name] = field.default
        else:
            values[field.name] = _read_field(guard, group, field, version)
    if draws:
        values[draws] = posterior.read(guard, values["name"].tolist())
    return table(**values)


def _read_field(guard: Guard, group: h5py.Group, field: FieldSchema, version: int) -> Any:
    if field.table is not None:
        if field.form is Form.PROVENANCE:
            run = guard.group(guard.file, RUN_GROUP)
            return _read_table(guard, run, field.table, version)
        if field.optional and field.name not in group:
            return None
        return _read_table(guard, guard.group(group, field.name), field.table, version)
    if field.form is Form.ARRAY:
        link = field.dimensions[0] if field.coordinate else field.name
        return _read_array(guard, group, link, field)
    if field.form is Form.ARRAYS_BY_NAME:
        inner = guard.group(group, field.name)
        axes = [axis.removesuffix("?") for axis in field.dimensions]
        links = [link for link in map(str, inner) if link not in axes]
        read = _read_array
        if guard.stays_from is not None and field.dimensions == ("member?", "time"):
            sizes = (_size_of_ensemble(guard, inner, link) for link in links)
            read = _leave_array if sum(sizes) > guard.stays_from else _read_array
        return {from_link_name(link): read(guard, inner, link, field) for link in links}
    if field.form in _SCALARS:
        return guard.attribute(group, field.name, _SCALARS[field.form])
    return _read_texts(guard, group, field)


def _size_of_ensemble(guard: Guard, group: h5py.Group, link: str) -> int:
    dataset = guard.dataset(group, link)
    return memory_of(dataset) if dataset.ndim == 2 else 0


def _leave_array(guard: Guard, group: h5py.Group, link: str, field: FieldSchema) -> Any:
    if guard.dataset(group, link).ndim == 2:
        return guard.stored(group, link)
    return _read_array(guard, group, link, field)


def _read_array(guard: Guard, group: h5py.Group, link: str, field: FieldSchema) -> np.ndarray:
    array = guard.array(group, link)
    if axes_of(field.dimensions, array.ndim) is None:
        raise StoreError(
            f"{guard.path}: {path_of(group, link)} has {array.ndim} axes, expected "
            f"{field.dimensions}."
        )
    if not fits_kind(field, array):
        raise StoreError(
            f"{guard.path}: {path_of(group, link)} has the type {array.dtype}, expected "
            f"{field.holds}."
        )
    return array


def _read_texts(guard: Guard, group: h5py.Group, field: FieldSchema) -> Any:
    value = json.loads(guard.attribute(group, field.name, str))
    by_name = field.form is Form.TEXTS_BY_NAME
    texts = value.values() if by_name and isinstance(value, dict) else value
    expected = dict if by_name else list
    if not isinstance(value, expected) or not all(isinstance(text, str) for text in texts):
        raise StoreError(
            f"{guard.path}: the attribute {field.name!r} of {group.name} is no "
            f"{'object' if by_name else 'array'} of texts in JSON."
        )
    return value if by_name else tuple(value)
