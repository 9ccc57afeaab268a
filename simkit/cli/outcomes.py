"""How a command ends: exit codes, errors that carry one, and errors as JSON."""

import json
from pathlib import Path
from typing import Any

import click

from simkit.config.errors import CaseError


SCHEMA_FILE = Path(__file__).with_name("outcome.schema.json")
"""What `--json` prints, as JSON Schema 2020-12; see docs/reference/json.md."""


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


def error_json(message: str, exit_code: int, mistake: CaseError | None = None) -> str:
    """What `--json` prints where a command ends without a result: one JSON object.

    **Arguments:**

    - `message`, `exit_code`: the sentence that goes to stderr too, and the end.
    - `mistake`: what was wrong with a case, where that was why.
    """
    values = {"kind": "error", "exit_code": exit_code, "message": message}
    return json.dumps({**values, **mistake_parts(mistake)}, indent=2, ensure_ascii=False)


def mistake_parts(mistake: CaseError | None) -> dict[str, Any]:
    """Where a mistake of a case stands, what came and what was expected; else nulls."""
    names = {"file": "source", "key": "key", "came": "came", "expected": "expected"}
    return {name: getattr(mistake, field, None) for name, field in names.items()}


def bad_input(message: str) -> Failure:
    """An end because of what the user gave."""
    return Failure(message, BAD_INPUT)
