"""A check that HDF5 leaves out: the lists in which texts are kept.

Texts and references of variable length stand in "global heap collections", lists of
objects that each say their own size. Most of an HDF5 file is guarded by checksums, these
lists are not, and one wrong bit in a size can make the library search them for ever. No
exception comes and no signal is heard, so the lists are walked here before HDF5 is asked.

Source: HDF5 File Format Specification, version 3.0, section III.E.
"""

import os
from pathlib import Path


_COLLECTION = b"GCOL\x01\x00\x00\x00"  # signature, version, reserved
_OBJECT_HEADER = 16
_SMALLEST_FILE = 48  # the smallest superblock
_WIDTH_AT = {0: 14, 1: 14, 2: 10, 3: 10}  # where the size of lengths stands
_WINDOW = 4 * 1024**2


def find_broken_heap(path: Path) -> int | None:
    """The place of a list that cannot be walked to its end, or `None` if all can."""
    with open(path, "rb") as stream:
        file = _Bytes(stream.fileno())
        if file.size < _SMALLEST_FILE:
            return None  # HDF5 refuses such a file by itself
        return _find(file)


class _Bytes:
    """The bytes of a file through one window, so that a large file takes no memory."""

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._start, self._window = 0, b""

    def read(self, place: int, length: int) -> bytes:
        """So many bytes; fewer at the end of the file."""
        inside = place - self._start
        if inside < 0 or inside + length > len(self._window):
            self._start, inside = place, 0
            self._window = os.pread(self._descriptor, max(_WINDOW, length), place)
        return self._window[inside : inside + length]

    def number(self, place: int, length: int) -> int:
        """An unsigned integer."""
        return int.from_bytes(self.read(place, length), "little")

    def find(self, what: bytes, start: int) -> int:
        """The first place of some bytes from `start` on, or -1."""
        while start < self.size:
            window = os.pread(self._descriptor, _WINDOW, start)
            found = window.find(what)
            if found >= 0:
                return start + found
            if len(window) < len(what):
                return -1
            start += len(window) - len(what) + 1
        return -1


def _find(file: _Bytes) -> int | None:
    width_at = _WIDTH_AT.get(file.number(8, 1))
    if width_at is None:
        return None
    width = file.number(width_at, 1)
    start = file.find(_COLLECTION, 0)
    while start >= 0:
        if not _ends(file, start, width):
            return start
        start = file.find(_COLLECTION, start + len(_COLLECTION))
    return None


def _ends(file: _Bytes, start: int, width: int) -> bool:
    size = file.number(start + 8, width)
    end = start + size
    if end > file.size:
        return False
    place = start + _OBJECT_HEADER
    while place + _OBJECT_HEADER <= end:
        number = file.number(place, 2)
        length = file.number(place + 8, width)
        # Number 0 is the free room, whose length counts its own header.
        step = _OBJECT_HEADER + -(-length // 8) * 8 if number else length
        if step < _OBJECT_HEADER or place + step > end:
            return False
        place += step
    return True
