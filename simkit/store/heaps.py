"""A check that HDF5 leaves out: the lists in which texts are kept.

Texts and references of variable length stand in "global heap collections", lists of
objects that each say their own size. Most of an HDF5 file is guarded by checksums, these
lists are not, and one wrong bit in a size can make the library search them for ever. No
exception comes and no signal is heard, so the lists are walked here before HDF5 is asked.

Source: HDF5 File Format Specification, version 3.0, section III.E.
"""

import mmap
from pathlib import Path


_COLLECTION = b"GCOL\x01\x00\x00\x00"  # signature, version, reserved
_OBJECT_HEADER = 16
_SMALLEST_FILE = 48  # the smallest superblock
_WIDTH_AT = {0: 14, 1: 14, 2: 10, 3: 10}  # where the size of lengths stands


def find_broken_heap(path: Path) -> int | None:
    """The place of a list that cannot be walked to its end, or `None` if all can."""
    if path.stat().st_size < _SMALLEST_FILE:
        return None  # HDF5 refuses such a file by itself
    with open(path, "rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with content:
        return _find(content)


def _find(file: mmap.mmap) -> int | None:
    width_at = _WIDTH_AT.get(file[8])
    if width_at is None:
        return None
    width = file[width_at]
    start = file.find(_COLLECTION)
    while start >= 0:
        if not _ends(file, start, width):
            return start
        start = file.find(_COLLECTION, start + len(_COLLECTION))
    return None


def _ends(file: mmap.mmap, start: int, width: int) -> bool:
    size = int.from_bytes(file[start + 8 : start + 8 + width], "little")
    end = start + size
    if end > len(file):
        return False
    place = start + _OBJECT_HEADER
    while place + _OBJECT_HEADER <= end:
        number = int.from_bytes(file[place : place + 2], "little")
        length = int.from_bytes(file[place + 8 : place + 8 + width], "little")
        # Number 0 is the free room, whose length counts its own header.
        step = _OBJECT_HEADER + -(-length // 8) * 8 if number else length
        if step < _OBJECT_HEADER or place + step > end:
            return False
        place += step
    return True
