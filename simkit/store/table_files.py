"""Flat tables as files: HDF5 with a group for each, or CSV."""

import os
from collections.abc import Sequence
from pathlib import Path

import h5py

from simkit.store.atomic import refuse_existing, write_whole
from simkit.store.datasets import write_array, write_attribute, write_scale
from simkit.store.export import table_lines, write_csv
from simkit.store.schema import CONVENTIONS, Form, to_link_name
from simkit.tabular import Column, FlatTable


def save_tables(
    tables: Sequence[FlatTable], path: str | os.PathLike[str], *, overwrite: bool = False
) -> list[Path]:
    """Write tables to `path`, in HDF5 or, if it ends in `.csv`, as CSV; return the files.

    In HDF5 each table is a group, its axes dimension scales, as in a result file. A CSV file
    holds the first table, and each other one a file beside it: `NAME.TABLE.csv`.

    **Raises:** `FileExistsError` before anything is written, and `OSError`.
    """
    path = Path(path)
    if path.suffix == ".csv":
        files = {path: tables[0]}
        files |= {path.with_suffix(f".{table.name}.csv"): table for table in tables[1:]}
        for target in files:
            refuse_existing(target, overwrite)
        for target, table in files.items():
            write_csv(target, table_lines(table), overwrite=overwrite)
        return list(files)
    refuse_existing(path, overwrite)
    with h5py.File("tables", "w", driver="core", backing_store=False) as file:
        write_attribute(file, "Conventions", Form.TEXT, CONVENTIONS)
        for table in tables:
            _write(file.create_group(to_link_name(table.name), track_order=True), table)
        file.flush()
        image = file.id.get_file_image()
    write_whole(path, image, overwrite=overwrite)
    return [path]


def _write(group: h5py.Group, table: FlatTable) -> None:
    scales = tuple(
        write_scale(group, axis.name, axis.values.size, axis.values, _attributes(axis))
        for axis in table.axes
    )
    for column in table.columns:
        write_array(group, column.name, column.values, scales, _attributes(column))


def _attributes(column: Column) -> dict[str, str]:
    found = {"long_name": column.description, "units": column.unit}
    return {name: text for name, text in found.items() if text}
