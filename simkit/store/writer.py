"""Writing results."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.results import Fit, Trajectory
from simkit.store.atomic import refuse_existing, write_whole
from simkit.store.datasets import write_attribute
from simkit.store.schema import CONVENTIONS, ROOT_KINDS, RUN_GROUP, SCHEMA_VERSION, Form
from simkit.store.soundness import find_fault
from simkit.store.tables import Place, write_table


def save(
    result: Trajectory | Fit, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a result to an HDF5 file, whole or not at all.

    **Arguments:**

    - `result`: what `simulate` or `fit` returned.
    - `path`: the file; its folder must exist.
    - `overwrite`: whether a file that is already there is replaced. It stays as it was
      until the new one is complete on the disk.

    Raises `FileExistsError`, `FileNotFoundError` for the folder, `TypeError` for another
    kind of object and `ValueError` for a result whose arrays do not fit together or
    that holds a text which HDF5 cannot.
    """
    if type(result) not in ROOT_KINDS.values():
        raise TypeError(
            f"save: got a {type(result).__name__}, expected a {' or a '.join(ROOT_KINDS)}."
        )
    # A link stays a link: the file it points to is replaced.
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}.")
    refuse_existing(target, overwrite)
    image = _image(result)
    fault = find_fault(result)
    if fault:
        raise ValueError(f"save: {fault}.")
    write_whole(target, image, overwrite)


def _image(result: Trajectory | Fit) -> bytes:
    # HDF5 builds the file in memory: an error while it writes to a disk (a full one, for
    # instance) leaves the process in a state in which it may crash at its end. The format
    # of HDF5 1.8 is read by every netCDF-4 library; the older one, the default, fails for
    # more than 4096 datasets on one axis.
    options: dict[str, Any] = {
        "driver": "core",
        "backing_store": False,
        "track_order": True,
        "libver": ("v108", "v108"),
    }
    with h5py.File("result", "w", **options) as file:
        write_attribute(file, "Conventions", Form.TEXT, CONVENTIONS)
        run = file.create_group(RUN_GROUP, track_order=True)
        write_attribute(run, "schema_version", Form.INTEGER, SCHEMA_VERSION)
        write_attribute(run, "kind", Form.TEXT, type(result).__name__)
        write_attribute(run, "status", Form.TEXT, _summary(result))
        write_table(Place(result, file, None, {}))
        file.flush()
        return file.id.get_file_image()


def _summary(result: Trajectory | Fit) -> str:
    if isinstance(result, Fit):
        return result.status
    if not result.is_ensemble:
        return str(result.status)
    failed = int(np.sum(~result.succeeded))
    return f"{failed} of {result.status.size} members failed" if failed else "successful"
