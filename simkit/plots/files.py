"""Write a file whole or not at all."""

import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content` beside `path` and move it into place, so no reader sees half a file.

    Raises OSError where the folder does not exist or cannot be written; a file that was
    there before is then untouched.
    """
    path = Path(path)
    # The process number keeps two runs that write the same file apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
