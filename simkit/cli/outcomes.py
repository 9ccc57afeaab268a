"""How a command ends: exit codes, and errors that carry one."""

import click


FAULT = 1
BAD_INPUT = 2
FAILED = 3
STOPPED = 4
INTERRUPTED = 130


class Failure(click.ClickException):
    """An end of a command with a sentence on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code  # pyright: ignore[reportAttributeAccessIssue]


def bad_input(message: str) -> Failure:
    """An end because of what the user gave."""
    return Failure(message, BAD_INPUT)
