"""Segments of a long run: closed files, each of which is whole and unharmed or does not count.

A segment file is HDF5 with one dataset for each array, followed by a checksum of all its
bytes: HDF5 itself notices neither a flipped bit nor every lost end.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from simkit.store.atomic import write_whole
from simkit.store.chunks import memory_of
from simkit.store.guard import opened
from simkit.store.schema import StoreError, from_link_name, to_link_name


_SEAL = b"simkit-sha256:"
_DIGEST = hashlib.sha256().digest_size
_NAME = re.compile(r"segment_(\d{5,})\.h5")


def segment_path(folder: Path, index: int) -> Path:
    """The file of a segment."""
    return folder / f"segment_{index:05d}.h5"


def segment_indices(folder: Path) -> list[int]:
    """Which segments have a file, in order, whole or not."""
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def write_segment(folder: Path, index: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a segment, so that it is there whole even if the machine stops at once.

    **Arguments:**

    - `arrays`: by name, numbers or truth values of any shape.

    **Raises:** `OSError` with the name of the file; `TypeError` for other arrays.
    """
    image = _image(arrays)
    write_whole(segment_path(folder, index), image, _SEAL, hashlib.sha256(image).digest())


def read_segment(folder: Path, index: int) -> dict[str, np.ndarray]:
    """The arrays of a segment, bit for bit as they were written.

    **Raises:** `OSError` if there is no such file, `StoreError` if it is damaged.
    """
    path = segment_path(folder, index)
    size = check_segment(path)
    with opened(path, size) as guard:
        found, left = {}, size
        for link in map(str, guard.file):
            dataset = guard.item(guard.file, link)
            # Segments are not compressed, so their arrays are not larger than the file.
            if (
                not isinstance(dataset, h5py.Dataset)
                or dataset.shape is None
                or dataset.chunks is not None
                or memory_of(dataset) > left
            ):
                raise StoreError(f"{path} is no segment of a run.")
            left -= memory_of(dataset)
            found[from_link_name(link)] = np.asarray(dataset[()])
        return found


def check_segment(path: Path) -> int:
    """The size of a segment file whose checksum is right.

    **Raises:** `OSError` if there is no such file, `StoreError` if it is damaged.
    """
    end = len(_SEAL) + _DIGEST
    digest, size = hashlib.sha256(), path.stat().st_size
    if size > end:
        with open(path, "rb") as stream:
            left = size - end
            while left > 0 and (part := stream.read(min(left, 2**20))):
                digest.update(part)
                left -= len(part)
            if stream.read() == _SEAL + digest.digest():
                return size
    raise StoreError(f"{path} is damaged: its checksum is wrong.")


def _image(arrays: Mapping[str, np.ndarray]) -> bytes:
    # Built in memory, as in the writer of results.
    with h5py.File("segment", "w", driver="core", backing_store=False) as file:
        for name, array in arrays.items():
            if np.asarray(array).dtype.kind not in "fiub":
                raise TypeError(
                    f"{name} has the type {np.asarray(array).dtype}, expected numbers."
                )
            file.create_dataset(to_link_name(name), data=array)
        file.flush()
        return file.id.get_file_image()
