"""Files that are whole on the disk, or not there at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO


_PREFIX, _ENDING = ".simkit-", ".partial"


def write_whole(target: Path, *content: bytes, overwrite: bool = True) -> None:
    """Write a file under a temporary name, bring it to the disk and move it into place.

    **Arguments:**

    - `target`: the file; its folder must exist.
    - `content`: the bytes, in one or several pieces.
    - `overwrite`: whether a file that is there is replaced. It stays as it was until the
      new one is complete on the disk.

    **Raises:** `FileExistsError`; `OSError` with the name of the file, as for a full disk.
    """
    with written_whole(target, overwrite) as stream:
        for piece in content:
            stream.write(piece)


@contextlib.contextmanager
def written_whole(target: Path, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A stream to write and read; what is in it at the end is moved into place.

    As [`write_whole`][simkit.store.atomic.write_whole], for content that is not there at
    once. After an error within the block nothing is left.
    """
    temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_ENDING}")
    try:
        with open(temporary, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        refuse_existing(target, overwrite)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            error.filename = str(target)  # a full disk comes without one
            error.filename2 = None  # and a move with both
        raise
    sync_folder(target.parent)


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise `FileExistsError` where the file is there and may not be replaced."""
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; nothing was written.")


def partial_files(folder: Path) -> Iterator[Path]:
    """What processes that were killed while they wrote have left in a folder."""
    return folder.glob(f"{_PREFIX}*{_ENDING}")


def sync_folder(folder: Path) -> None:
    """Bring new names in a folder to the disk."""
    # Windows has no such call.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
