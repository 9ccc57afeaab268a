"""Results for programs that know no HDF5: CSV files in a folder, or one netCDF file."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.results import Fit, Trajectory
from simkit.store.atomic import refuse_existing, write_whole
from simkit.store.flat import attributes, flat_tables
from simkit.store.schema import CONVENTIONS, to_link_name
from simkit.tabular import Column, FlatTable


COLUMNS_FILE = "columns.csv"
ATTRIBUTES_FILE = "attributes.csv"


class MissingPackage(ImportError):
    """A format needs a package that is not installed."""


def export_csv(
    result: Trajectory | Fit, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> list[Path]:
    """Write each table of a result as a CSV file (RFC 4180, UTF-8) and return the files.

    The first columns are the axes: there is a line for each combination of their labels.
    Numbers are written so that they are read back bit for bit; what is not finite is
    `nan`, `inf` or `-inf`. Beside the tables there are `columns.csv`, with the unit and
    the meaning of every column, and `attributes.csv`, with texts and single numbers.

    **Arguments:**

    - `folder`: made where it is missing.
    - `overwrite`: whether files of these names that are there are replaced.

    Raises `FileExistsError` before anything is written, and `OSError`.
    """
    folder = Path(folder)
    tables = flat_tables(result)
    files = {folder / f"{table.name}.csv": table_lines(table) for table in tables}
    files[folder / COLUMNS_FILE] = _column_lines(tables)
    files[folder / ATTRIBUTES_FILE] = _attribute_lines(result)
    for path in files:
        refuse_existing(path, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for path, lines in files.items():
        write_whole(path, as_csv(lines), overwrite=overwrite)
    return list(files)


def export_netcdf(
    result: Trajectory | Fit, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a result as one netCDF-4 file with a group for each table; return the path.

    Axes are dimensions with their labels as coordinates, units and meanings attributes.
    Truth values are bytes marked by `dtype = "bool"`, as xarray has them.

    **Arguments:**

    - `path`: the file; its folder must exist.
    - `overwrite`: whether a file that is there is replaced, when the new one is complete.

    Raises `FileExistsError`, `OSError`, and `MissingPackage` without h5netcdf.
    """
    require_netcdf()
    import h5netcdf

    target = Path(os.path.realpath(path))
    refuse_existing(target, overwrite)
    image = io.BytesIO()
    with h5netcdf.File(image, "w") as file:
        file.attrs["Conventions"] = CONVENTIONS
        for table in flat_tables(result):
            _write_group(file.create_group(table.name), table)
        for name, values in attributes(result).items():
            _write_attributes(file, name, values)
    write_whole(target, image.getvalue(), overwrite=overwrite)
    return Path(path)


def require_netcdf() -> None:
    """Raise `MissingPackage` where netCDF cannot be written."""
    try:
        import h5netcdf  # noqa: F401
    except ImportError:
        raise MissingPackage(
            "netCDF needs h5netcdf, which is not installed; "
            "`pip install simkit-jax[netcdf]` brings it."
        ) from None


def table_lines(table: FlatTable) -> Iterator[list[Any]]:
    """The lines of a table as CSV: a heading, then one for each combination of labels."""
    yield [column.name for column in (*table.axes, *table.columns)]
    columns = [column.values.ravel().tolist() for column in table.columns]
    shape = table.columns[0].values.shape
    labels = [axis.values.tolist() for axis in table.axes]
    for row, place in enumerate(np.ndindex(shape)):
        axes = (known[index] for known, index in zip(labels, place, strict=True))
        yield [*axes, *(values[row] for values in columns)]


def _column_lines(tables: list[FlatTable]) -> Iterator[list[Any]]:
    yield ["table", "column", "unit", "description"]
    for table in tables:
        for column in (*table.axes, *table.columns):
            yield [table.name, column.name, column.unit, column.description]


def _attribute_lines(result: Trajectory | Fit) -> Iterator[list[Any]]:
    yield ["table", "name", "value"]
    for table, values in attributes(result).items():
        for name, value in values.items():
            yield [table, name, value]


def as_csv(lines: Iterator[list[Any]]) -> bytes:
    """Lines as CSV (RFC 4180) in UTF-8."""
    text = io.StringIO(newline="")
    # Python writes a float with as many digits as it takes to read it back.
    csv.writer(text).writerows(lines)
    return text.getvalue().encode("utf-8")


def _write_group(group: Any, table: FlatTable) -> None:
    group.dimensions = {axis.name: axis.values.size for axis in table.axes}
    names = tuple(group.dimensions)
    for axis in table.axes:
        _write_variable(group, axis.name, (axis.name,), axis)
    for column in table.columns:
        _write_variable(group, _variable_name(column.name, names), names, column)


def _variable_name(name: str, axes: tuple[str, ...]) -> str:
    # A name without "/", which parts groups, and that is not taken for an axis.
    link = to_link_name(f".{name}")[1:]
    return link if link and link not in axes else to_link_name(name)


def _write_variable(group: Any, name: str, axes: tuple[str, ...], column: Column) -> None:
    values = column.values
    marked = {}
    if values.dtype.kind == "U":
        variable = group.create_variable(name, axes, dtype=h5py.string_dtype())
        if values.size:
            variable[...] = values.astype(object) if axes else str(values)
    else:
        if values.dtype.kind == "b":
            values, marked = values.astype(np.int8), {"dtype": "bool"}
        variable = group.create_variable(name, axes, dtype=values.dtype)
        if values.size:
            variable[...] = values
    for key, text in {"long_name": column.description, "units": column.unit, **marked}.items():
        if text:
            variable.attrs[key] = text


def _write_attributes(file: Any, table: str, values: dict[str, Any]) -> None:
    if not values:
        return
    group = file
    if table:
        group = file.groups[table] if table in file.groups else file.create_group(table)
    for name, value in values.items():
        group.attrs[name] = np.int64(value) if isinstance(value, int) else value
