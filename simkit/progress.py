"""Progress of a long computation, told to whoever wants to know; nothing here prints."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol


class Progress(Protocol):
    """What a long computation calls between its segments."""

    def __call__(self, done: int, total: int, message: str) -> None:
        """Say that `done` of `total` parts are finished.

        `total` is 0 while nobody knows how many there will be; `message` says in a few
        words what is being done.
        """


def silent(done: int, total: int, message: str) -> None:
    """Progress that nobody wants to know."""
    del done, total, message


@contextlib.contextmanager
def terminal_progress(enabled: bool = True) -> Iterator[Progress]:
    """A bar with the time that is left on stderr, taken away at the end.

    There is none where stderr is no terminal or `enabled` is false.
    """
    if not enabled or not sys.stderr.isatty():
        yield silent
        return
    with _bar() as bar:
        task = bar.add_task("", total=None)

        def tick(done: int, total: int, message: str) -> None:
            bar.update(task, completed=done, total=total or None, description=message)

        yield tick


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress as Bar,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Bar(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False, highlight=False, emoji=False),
        transient=True,
    )
