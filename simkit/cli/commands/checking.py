"""`simkit check`: all that is wrong with a case, before a long run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.cli.options import (
    case_argument,
    json_option,
    override_option,
    traceback_option,
)
from simkit.cli.outcomes import BAD_INPUT
from simkit.config.errors import CaseError


if TYPE_CHECKING:
    from simkit.config.reader import LoadedCase
    from simkit.config.table import MeasurementTable


@click.command()
@case_argument
@override_option
@json_option
@traceback_option
def check(case: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say all that is wrong with a CASE and its data, and compute nothing.

    Every mistake is one line on stderr, and the exit code is 2 if there is one. With
    --json there is one object: {"errors": [{"file", "key", "came", "expected",
    "message"}], "system", "method", "measurements", "groups"}.
    """
    from simkit.config.reader import find_case_errors, read_case
    from simkit.config.table import read_measurements

    errors = find_case_errors(case, overrides)
    loaded = measured = None
    if not errors:
        loaded = read_case(case, overrides)
        try:
            measured = read_measurements(loaded) if loaded.case.data else None
            if ":" in loaded.case.system.type:
                _check_live(loaded)
        except CaseError as error:
            errors = [error]
    if as_json:
        _print_json(errors, loaded, measured)
    else:
        for error in errors:
            click.echo(f"Error: {error}", err=True)
        if loaded is not None and not errors:
            click.echo(_good_news(loaded, measured))
    if errors:
        click.get_current_context().exit(BAD_INPUT)


def _check_live(loaded: "LoadedCase") -> None:
    """Make the user's own system, about which the catalogue knows nothing."""
    if loaded.case.fit is not None:
        from simkit.fitting.assembly import posterior_from_case

        posterior_from_case(loaded)
    else:
        from simkit.experiment import experiment_from_case

        experiment_from_case(loaded)


def _good_news(loaded: "LoadedCase", measured: "MeasurementTable | None") -> str:
    case = loaded.case
    words = [f"{case.system.type} by {case.method.type}"]
    if measured is not None:
        groups = f" of {len(measured.groups)} groups" if len(measured.groups) > 1 else ""
        words.append(f"{len(measured)} measurements{groups}")
    if case.fit is not None:
        words.append(f"a fit from {case.fit.starts} starts")
    return f"{loaded.source} is well: {', '.join(words)}."


def _print_json(
    errors: list[CaseError], loaded: "LoadedCase | None", measured: "MeasurementTable | None"
) -> None:
    import json

    values: dict[str, Any] = {
        "errors": [
            {
                "file": error.source,
                "key": error.key,
                "came": error.came,
                "expected": error.expected,
                "message": str(error),
            }
            for error in errors
        ],
        "system": loaded.case.system.type if loaded else None,
        "method": loaded.case.method.type if loaded else None,
        "measurements": len(measured) if measured else None,
        "groups": list(measured.groups) if measured else None,
    }
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))
