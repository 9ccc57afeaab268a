"""Results for programs that know no HDF5: CSV files in a folder, or one netCDF file."""

import csv
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.progress import Progress, silent
from simkit.results import Fit, Trajectory
from simkit.store.atomic import refuse_existing, written_whole
from simkit.store.flat import attributes, flat_tables
from simkit.store.schema import CONVENTIONS, to_link_name
from simkit.store.streaming import file_under_hdf5
from simkit.stored import StoredArray, member_blocks
from simkit.tabular import Column, FlatTable


COLUMNS_FILE = "columns.csv"
ATTRIBUTES_FILE = "attributes.csv"


class MissingPackage(ImportError):
    """A format needs a package that is not installed."""


def export_csv(
    result: Trajectory | Fit,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """Write each table of a result as a CSV file (RFC 4180, UTF-8) and return the files.

    The first columns are the axes: there is a line for each combination of their labels.
    Numbers are written so that they are read back bit for bit; what is not finite is
    `nan`, `inf` or `-inf`. Beside the tables there are `columns.csv`, with the unit and
    the meaning of every column, and `attributes.csv`, with texts and single numbers.

    **Arguments:**

    - `folder`: made where it is missing.
    - `overwrite`: whether files of these names that are there are replaced.
    - `progress`: told the members of a large ensemble that are written.

    Raises `FileExistsError` before anything is written, and `OSError`.
    """
    tables = flat_tables(result)
    return export_tables_csv(
        tables, attributes(result), folder, overwrite=overwrite, progress=progress
    )


def export_tables_csv(
    tables: Sequence[FlatTable],
    texts: Mapping[str, Mapping[str, Any]],
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """Like `export_csv`, for tables, and texts and single numbers by table and name."""
    folder = Path(folder)
    files = {folder / f"{table.name}.csv": table_lines(table, progress) for table in tables}
    files[folder / COLUMNS_FILE] = _column_lines(tables)
    files[folder / ATTRIBUTES_FILE] = _attribute_lines(texts)
    for path in files:
        refuse_existing(path, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for path, lines in files.items():
        write_csv(path, lines, overwrite=overwrite)
    return list(files)


def export_netcdf(
    result: Trajectory | Fit,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write a result as one netCDF-4 file with a group for each table; return the path.

    Axes are dimensions with their labels as coordinates, units and meanings attributes.
    Truth values are bytes marked by `dtype = "bool"`, as xarray has them.

    **Arguments:**

    - `path`: the file; its folder must exist.
    - `overwrite`: whether a file that is there is replaced, when the new one is complete.
    - `progress`: told the members of a large ensemble that are written.

    Raises `FileExistsError`, `OSError`, and `MissingPackage` without h5netcdf.
    """
    tables = flat_tables(result)
    return export_tables_netcdf(
        tables, attributes(result), path, overwrite=overwrite, progress=progress
    )


def export_tables_netcdf(
    tables: Sequence[FlatTable],
    texts: Mapping[str, Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Like `export_netcdf`, for tables, and texts and single numbers by table and name."""
    require_netcdf()
    import h5netcdf

    target = Path(os.path.realpath(path))
    refuse_existing(target, overwrite)
    with file_under_hdf5(target, overwrite) as (sink, check), h5netcdf.File(sink, "w") as file:
        file.attrs["Conventions"] = CONVENTIONS
        for table in tables:
            for done, size in _write_group(file.create_group(table.name), table):
                check()
                progress(done, size, f"writing {table.name}")
        for name, values in texts.items():
            _write_attributes(file, name, values)
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


def table_lines(table: FlatTable, progress: Progress = silent) -> Iterator[list[Any]]:
    """The lines of a table as CSV: a heading, then one for each combination of labels."""
    yield [column.name for column in (*table.axes, *table.columns)]
    labels = [axis.values.tolist() for axis in table.axes]
    for rows in _blocks(table):
        parts = [_part(column.values, rows) for column in table.columns]
        columns = [part.ravel().tolist() for part in parts]
        some = [labels[0][rows], *labels[1:]] if labels else []
        for place, *values in zip(itertools.product(*some), *columns, strict=True):
            yield [*place, *values]
        if labels:
            progress(rows.stop, len(labels[0]), f"writing {table.name}")


def _blocks(table: FlatTable) -> Iterator[slice]:
    """Rows of the first axis that fit into memory together."""
    stored = [c.values for c in table.columns if isinstance(c.values, StoredArray)]
    if stored:
        yield from member_blocks(stored[0], len(stored))
    else:
        yield slice(0, table.axes[0].values.size if table.axes else None)


def _part(values: Any, rows: slice) -> np.ndarray:
    if isinstance(values, StoredArray):
        return values.part(rows, slice(None))
    return values[rows] if values.ndim else values


def _column_lines(tables: Sequence[FlatTable]) -> Iterator[list[Any]]:
    yield ["table", "column", "unit", "description"]
    for table in tables:
        for column in (*table.axes, *table.columns):
            yield [table.name, column.name, column.unit, column.description]


def _attribute_lines(texts: Mapping[str, Mapping[str, Any]]) -> Iterator[list[Any]]:
    yield ["table", "name", "value"]
    for table, values in texts.items():
        for name, value in values.items():
            yield [table, name, value]


def write_csv(target: Path, lines: Iterator[list[Any]], *, overwrite: bool = False) -> None:
    """Write lines as a CSV file (RFC 4180) in UTF-8, which is whole or not there.

    Raises `FileExistsError` and `OSError`.
    """
    with written_whole(target, overwrite) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        # Python writes a float with as many digits as it takes to read it back.
        csv.writer(text).writerows(lines)
        text.detach()  # the text goes to the stream, which stays open


def _write_group(group: Any, table: FlatTable) -> Iterator[tuple[int, int]]:
    """Yields how many rows of how many are written."""
    group.dimensions = {axis.name: axis.values.size for axis in table.axes}
    names = tuple(group.dimensions)
    for axis in table.axes:
        _write_variable(group, axis.name, (axis.name,), axis)
    variables: list[tuple[Any, StoredArray]] = []
    for column in table.columns:
        made = _write_variable(group, _variable_name(column.name, names), names, column)
        if isinstance(column.values, StoredArray):
            variables.append((made, column.values))
    if not variables:
        return
    for rows in _blocks(table):
        for variable, values in variables:
            variable[rows] = values.part(rows, slice(None))
        yield rows.stop, table.axes[0].values.size


def _variable_name(name: str, axes: tuple[str, ...]) -> str:
    # A name without "/", which parts groups, and that is not taken for an axis.
    link = to_link_name(f".{name}")[1:]
    return link if link and link not in axes else to_link_name(name)


def _write_variable(group: Any, name: str, axes: tuple[str, ...], column: Column) -> Any:
    """A variable with its values, but for those that stay in a file."""
    values = column.values
    marked = {}
    if values.dtype.kind == "U":
        variable = group.create_variable(name, axes, dtype=h5py.string_dtype())
        if values.size:
            variable[...] = values.astype(object) if axes else str(values)
    else:
        if values.dtype.kind == "b":
            values, marked = values.astype(np.int8), {"dtype": "bool"}
        chunks = values.chunks if isinstance(values, StoredArray) else None
        variable = group.create_variable(name, axes, dtype=values.dtype, chunks=chunks)
        if not isinstance(values, StoredArray) and values.size:
            variable[...] = values
    for key, text in {"long_name": column.description, "units": column.unit, **marked}.items():
        if text:
            variable.attrs[key] = text
    return variable


def _write_attributes(file: Any, table: str, values: Mapping[str, Any]) -> None:
    if not values:
        return
    group = file
    if table:
        group = file.groups[table] if table in file.groups else file.create_group(table)
    for name, value in values.items():
        group.attrs[name] = np.int64(value) if isinstance(value, int) else value
