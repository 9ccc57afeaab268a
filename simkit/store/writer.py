"""Writing results."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.progress import Progress, silent
from simkit.results import Fit, Trajectory
from simkit.store.atomic import partial_files, refuse_existing, write_whole
from simkit.store.datasets import write_attribute
from simkit.store.schema import CONVENTIONS, ROOT_KINDS, RUN_GROUP, SCHEMA_VERSION, Form
from simkit.store.soundness import find_fault
from simkit.store.streaming import fill, hdf5_on_disk, is_large, with_stored_states
from simkit.store.tables import Place, write_table


# The format of HDF5 1.8 is read by every netCDF-4 library; the older one, the default,
# fails for more than 4096 datasets on one axis.
_LAYOUT: dict[str, Any] = {"track_order": True, "libver": ("v108", "v108")}


def save(
    result: Trajectory | Fit,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> None:
    """Write a result to an HDF5 file, whole or not at all.

    A large ensemble is written block by block, so that memory does not grow with it.

    **Arguments:**

    - `result`: what `simulate` or `fit` returned.
    - `path`: the file; its folder must exist.
    - `overwrite`: whether a file that is already there is replaced. It stays as it was
      until the new one is complete on the disk.
    - `progress`: told the members of a large ensemble that are written.

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
    if isinstance(result, Trajectory) and is_large(result):
        _check(result)
        _stream(with_stored_states(result), target, overwrite, progress)
        return
    image = _image(result)
    _check(result)
    write_whole(target, image, overwrite=overwrite)


def clear_partial(folder: Path) -> None:
    """Take away what processes left in a folder that were killed while they wrote there."""
    for file in partial_files(folder):
        file.unlink(missing_ok=True)


def _check(result: Trajectory | Fit) -> None:
    fault = find_fault(result)
    if fault:
        raise ValueError(f"save: {fault}.")


def _stream(result: Trajectory, target: Path, overwrite: bool, progress: Progress) -> None:
    members = result.status.size
    with hdf5_on_disk(target, overwrite, _LAYOUT) as (file, check):
        place = _written(result, file)
        for done in fill(place.waiting):
            check()
            progress(done, members, "writing members")


def _image(result: Trajectory | Fit) -> bytes:
    # HDF5 builds the file in memory: an error while it writes to a disk (a full one, for
    # instance) leaves the process in a state in which it may crash at its end.
    with h5py.File("result", "w", driver="core", backing_store=False, **_LAYOUT) as file:
        place = _written(result, file)
        for _ in fill(place.waiting):
            pass
        file.flush()
        return file.id.get_file_image()


def _written(result: Trajectory | Fit, file: h5py.File) -> Place:
    write_attribute(file, "Conventions", Form.TEXT, CONVENTIONS)
    run = file.create_group(RUN_GROUP, track_order=True)
    write_attribute(run, "schema_version", Form.INTEGER, SCHEMA_VERSION)
    write_attribute(run, "kind", Form.TEXT, type(result).__name__)
    write_attribute(run, "status", Form.TEXT, _summary(result))
    place = Place(result, file, None, {})
    write_table(place)
    return place


def _summary(result: Trajectory | Fit) -> str:
    if isinstance(result, Fit):
        return result.status
    if not result.is_ensemble:
        return str(result.status)
    failed = int(np.sum(~result.succeeded))
    return f"{failed} of {result.status.size} members failed" if failed else "successful"
