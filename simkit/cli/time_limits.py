"""A time limit for what cannot be stopped from within."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from simkit.cli.outcomes import STOPPED, Failure


Result = TypeVar("Result")


def within(time_limit: float, function: Callable[[], Result]) -> Result:
    """What a function returns. Ends the command with exit code 4 if it takes too long.

    Compiled code cannot be stopped, so it is left to run in a thread that ends with the
    process.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="trial", daemon=True)
    thread.start()
    thread.join(time_limit)
    if not outcome:
        raise Failure(
            f"the trial took more than {time_limit:g} s and was given up; nothing that was "
            "looked at is wrong. --time-limit allows more, --static leaves the trial out.",
            STOPPED,
        )
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
