"""Single values on their way into a file: arrays, attributes, dimension scales."""

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np

from simkit.store.schema import BOOLEAN, Form, marker_name
from simkit.stored import StoredArray, chunk_shape


CHUNKED_FROM = 2048
"""Bytes from which an array is compressed; below, chunks cost more than they save."""
_WORTH = 0.5
"""A large array is compressed where that saves half of its bytes. States of solves in double
precision come to 0.75 to 0.85, at a twentieth of the speed of writing; those that rest, or
failed, to less (measured: docs/result_files.md)."""

_TEXT = h5py.string_dtype("utf-8")
_STORABLE = frozenset(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])


def path_of(group: h5py.Group, link: str) -> str:
    """The path within the file of what a group has under a name."""
    return f"{str(group.name).rstrip('/')}/{link}"


def write_array(
    group: h5py.Group,
    link: str,
    array: np.ndarray,
    scales: tuple[h5py.Dataset, ...],
    attributes: Mapping[str, str],
) -> h5py.Dataset:
    """Write an array of numbers, booleans or text with a scale on each axis.

    Numbers of `CHUNKED_FROM` bytes and more are compressed and carry a checksum.
    Raises `TypeError` for another type of array and `ValueError` for a text that HDF5
    cannot hold.
    """
    where = path_of(group, _checked_text(link, f"a name in {group.name}"))
    values, extra = _encode(array, where)
    filters: dict[str, Any] = {}
    if values.dtype.kind == "O":
        filters["dtype"] = _TEXT
    elif values.ndim and values.nbytes >= CHUNKED_FROM:
        filters = {
            "chunks": True,
            "compression": "gzip",
            "compression_opts": 4,
            "shuffle": True,
            "fletcher32": True,
        }
    dataset = group.create_dataset(link, data=values, **filters)
    for axis, scale in enumerate(scales):
        dataset.dims[axis].attach_scale(scale)
    for name, text in {**attributes, **extra}.items():
        write_attribute(dataset, name, Form.TEXT, text)
    return dataset


def make_dataset(
    group: h5py.Group,
    link: str,
    values: StoredArray,
    scales: tuple[h5py.Dataset, ...],
    attributes: Mapping[str, str],
) -> h5py.Dataset:
    """A dataset for an array of shape `(member, time)`, to be filled block by block.

    It carries a checksum, and is compressed where a sample says that it is worth it.
    """
    _checked_text(link, f"a name in {group.name}")
    if f"{values.dtype.kind}{values.dtype.itemsize}" not in _STORABLE:
        raise TypeError(f"{path_of(group, link)} has the type {values.dtype}.")
    chunks = chunk_shape(*values.shape)
    filters: dict[str, Any] = {"fletcher32": True}
    if _shrinks(values, chunks):
        filters |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    dataset = group.create_dataset(
        link, shape=values.shape, dtype=values.dtype, chunks=chunks, **filters
    )
    for axis, scale in enumerate(scales):
        dataset.dims[axis].attach_scale(scale)
    for name, text in attributes.items():
        write_attribute(dataset, name, Form.TEXT, text)
    return dataset


def _shrinks(values: StoredArray, chunks: tuple[int, int]) -> bool:
    # A chunk of the first members late in time: at the start members are often alike.
    members, times = values.shape
    sample = values.part(slice(0, min(chunks[0], members)), slice(times - chunks[1], times))
    # Bytes of one significance side by side, as the filter shuffle of HDF5 puts them.
    shuffled = np.ascontiguousarray(sample).view(np.uint8)
    shuffled = shuffled.reshape(-1, values.dtype.itemsize).T.tobytes()
    return len(zlib.compress(shuffled, 1)) <= _WORTH * len(shuffled)


def write_scale(
    group: h5py.Group,
    axis: str,
    size: int,
    labels: np.ndarray | None,
    attributes: Mapping[str, str],
) -> h5py.Dataset:
    """Write a dimension scale: labels, or a netCDF dimension without values."""
    if labels is None:
        # Never written, so it takes no room; netCDF gives such scales this type.
        scale = group.create_dataset(axis, shape=(size,), dtype=">f4")
        scale.make_scale(marker_name(size))
    else:
        scale = write_array(group, axis, labels, (), attributes)
        scale.make_scale(axis)
    return scale


def write_attribute(target: h5py.HLObject, name: str, form: Form, value: Any) -> None:
    """Write one text, number, or collection of texts (as JSON) as an attribute."""
    where = f"attribute {name!r} of {target.name}"
    if form is Form.INTEGER:
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{where} is {value}; a result file holds integers of 64 bits.")
        target.attrs.create(name, np.int64(value))
    elif form is Form.NUMBER:
        target.attrs.create(name, np.float64(value))
    else:
        text = value if form is Form.TEXT else _json(value, where)
        target.attrs.create(name, _checked_text(text, where), dtype=_TEXT)


def _encode(array: np.ndarray, where: str) -> tuple[np.ndarray, dict[str, str]]:
    # What is stored for an array, and the attribute that tells a reader how to undo it.
    if array.dtype.kind == "b":
        return array.astype(np.int8), {"dtype": BOOLEAN}
    if array.dtype.kind == "U":
        for text in array.flat:
            _checked_text(str(text), where)
        return array.astype(object), {}
    if f"{array.dtype.kind}{array.dtype.itemsize}" in _STORABLE:
        return array, {}
    raise TypeError(
        f"{where} has the type {array.dtype}; a result file holds real numbers of at most "
        "64 bits, booleans and text."
    )


def _json(texts: Mapping[str, str] | Iterable[str], where: str) -> str:
    by_name = isinstance(texts, Mapping)
    for text in texts.values() if by_name else texts:
        _checked_type(text, where)
    return json.dumps(dict(texts) if by_name else list(texts), ensure_ascii=False)


def _checked_type(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{where} has a {type(text).__name__}, expected a text.")


def _checked_text(text: str, where: str) -> str:
    _checked_type(text, where)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {text!r} is no valid Unicode.") from error
    if "\x00" in text:
        raise ValueError(f"{where}: {text!r} has a NUL character, which ends texts in HDF5.")
    return text
