"""The folder of a run that is not finished: what it computes, and the segments it has.

It is there from the beginning of a run to its end. `run.json` says which run it is; the
files of segments say how far it came; `lock` is held by the one process that may write.
"""

import contextlib
import errno
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from simkit.store.atomic import partial_files, write_whole
from simkit.store.schema import StoreError
from simkit.store.segments import (
    check_segment,
    read_segment,
    segment_indices,
    segment_path,
    write_segment,
)


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = 1
"""Version of what is in such a folder."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, 524)
"""What file systems answer that know no locks (524 is Lustre's and DVS')."""


class RunRefused(ValueError):
    """A run that must not use a folder, because of another run that is there."""


class RunFolder:
    """The segments of one run; made by `begin` or `join`.

    - `path`: the folder.
    - `token`: a text by which processes of one run know that they see the same folder.
    - `went_on`: whether an earlier run was there to go on from.
    """

    def __init__(self, path: Path, token: str, went_on: bool, lock: IO[str] | None):
        self.path = path
        self.token = token
        self.went_on = went_on
        self._lock = lock

    def confirm(self, facts: Mapping[str, Any]) -> None:
        """Add facts that are known only now, or compare them with those that are there.

        **Raises:** `RunRefused` with a sentence that names what differs.
        """
        there = _read_facts(self.path) or {"facts": {}}
        known, new = there["facts"], _plain(facts)
        for name in new:
            if name in known:
                _compare(self.path, {name: known[name]}, {name: new[name]})
        if not set(new) <= set(known) and self.is_owned:
            there["facts"] = {**known, **new}
            write_whole(self.path / "run.json", json.dumps(there, indent=1).encode())

    def fact(self, name: str) -> Any | None:
        """A fact that was confirmed; `None` for one that nobody knew yet."""
        there = _read_facts(self.path)
        return None if there is None else there["facts"].get(name)

    def finished(self, notify: Callable[[str], None] | None = None) -> set[int]:
        """The segments that are there.

        **Arguments:**

        - `notify`: told of each damaged segment, which is then taken away; without it
          the segments are not looked into.
        """
        found = set(segment_indices(self.path))
        for index in sorted(found) if notify is not None else ():
            path = segment_path(self.path, index)
            try:
                check_segment(path)
            except StoreError as error:
                found.discard(index)
                path.unlink(missing_ok=True)
                if notify is not None:
                    notify(f"{error} It is computed again.")
        return found

    def write(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished segment."""
        write_segment(self.path, index, arrays)

    def read(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of a segment. Raises `StoreError` if it is damaged."""
        return read_segment(self.path, index)

    def remove(self) -> None:
        """Take the folder away, when the result is in a safe place."""
        _clear(self.path)
        (self.path / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what others have put there stays
            self.path.rmdir()
        self.close()

    @property
    def is_owned(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock is not None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another run have the folder; the segments stay."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def begin(
    path: str | os.PathLike[str],
    facts: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool = False,
    notify: Callable[[str], None] = lambda sentence: None,
) -> RunFolder:
    """Take a folder for a run: a new one, or that of a run that was stopped.

    **Arguments:**

    - `path`: the folder; made if need be.
    - `facts`: what makes two runs the same, as plain values by name, tables within tables.
    - `resume`: whether to go on from the segments that are there.
    - `overwrite`: without `resume`, whether those of another run are given up.
    - `notify`: told a sentence where the file system knows no locks.

    **Raises:** `RunRefused` in one sentence if another run is writing there, is unfinished
    there and not to be resumed, or is not the same; `OSError`.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path, notify)
    try:
        if is_unfinished(path) and not (resume or overwrite):
            raise RunRefused(
                f"{path} holds an unfinished run; --resume goes on with it, --overwrite "
                "begins anew."
            )
        there = _read_facts(path) if resume and is_unfinished(path) else None
        if there is not None:
            _compare(path, {k: there["facts"].get(k) for k in facts}, _plain(facts))
            _clear_partial(path)
            return RunFolder(path, there["token"], True, lock)
        _clear(path)
        token = secrets.token_hex(8)
        text = json.dumps({"format": FORMAT, "token": token, "facts": _plain(facts)}, indent=1)
        write_whole(path / "run.json", text.encode())
        return RunFolder(path, token, False, lock)
    except BaseException:
        lock.close()
        raise


def join(path: str | os.PathLike[str], token: str) -> RunFolder:
    """The folder that another process of the same run has taken.

    **Raises:** `RunRefused` if this process does not see it.
    """
    path = Path(path)
    there = _read_facts(path) if path.is_dir() else None
    if there is None or there["token"] != token:
        raise RunRefused(
            f"{path} of process 0 is not seen by every process: they need one folder on a "
            "file system that all of them share."
        )
    return RunFolder(path, token, True, None)


def is_unfinished(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds segments of a run that was not finished."""
    path = Path(path)
    return (path / "run.json").exists() and bool(segment_indices(path))


def first_difference(there: Any, here: Any) -> str | None:
    """Where two tables of plain values differ first, in words; `None` if they are equal.

    >>> first_difference({"fit": {"seed": 1}}, {"fit": {"seed": 2}})
    'fit.seed is 1 there and 2 here'
    """
    one, other = dict(_flat(there)), dict(_flat(here))
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            words = [_shown(values[name]) if name in values else "not given"
                     for values in (one, other)]  # fmt: skip
            return f"{name} is {words[0]} there and {words[1]} here"
    return None


def _compare(path: Path, there: Any, here: Any) -> None:
    difference = first_difference(there, here)
    if difference is not None:
        raise RunRefused(
            f"{path} holds another run ({difference}); --resume needs the same one, and "
            "--overwrite without it begins anew."
        )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    elif value is not None:  # a key that was left out
        yield name, value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they come back from the file."""
    return json.loads(json.dumps(dict(facts)))


def _read_facts(path: Path) -> dict[str, Any] | None:
    """What `run.json` says; `None` where there is none.

    Raises `RunRefused` for one that makes no sense: it is written whole, so that is damage,
    and its segments cannot be told from those of another run.
    """
    try:
        there = json.loads((path / "run.json").read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        there = {}
    if not isinstance(there, dict):
        there = {}
    sound = isinstance(there.get("facts"), dict) and isinstance(there.get("token"), str)
    if not sound or there.get("format") != FORMAT:
        raise RunRefused(
            f"{path / 'run.json'} is damaged or of another version of simkit; --overwrite "
            "without --resume begins anew."
        )
    return there


def _clear(path: Path) -> None:
    # What makes it a run goes first, so that one that is cut short here is no run.
    (path / "run.json").unlink(missing_ok=True)
    for index in segment_indices(path):
        segment_path(path, index).unlink(missing_ok=True)
    _clear_partial(path)


def _clear_partial(path: Path) -> None:
    for file in partial_files(path):
        file.unlink(missing_ok=True)


def _take_lock(path: Path, notify: Callable[[str], None]) -> IO[str]:
    """Hold the lock of a folder; the system lets it go when the process ends."""
    while True:
        file = open(path / "lock", "a+", encoding="utf-8")  # noqa: SIM115
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                notify(
                    f"The file system of {path} knows no locks: a second run into this "
                    "folder would not be noticed."
                )
                return file
            holder = _holder(file)
            file.close()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise RunRefused(
                f"{path.parent} is being written to by another run of simkit{holder}; wait "
                "for its end, or choose another folder."
            ) from None
        if _is_in_place(file, path / "lock"):
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            return file
        file.close()  # the run that held it has just taken it away


def _holder(file: IO[str]) -> str:
    file.seek(0)
    words = file.read(200).strip()
    return f" ({words})" if words else ""


def _is_in_place(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
