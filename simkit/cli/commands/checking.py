"""`simkit check`: all that is wrong with a case, before a long run."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.cli.options import (
    case_argument,
    json_option,
    override_option,
    traceback_option,
)
from simkit.cli.outcomes import BAD_INPUT, FAILED, mistake_parts
from simkit.cli.time_limits import within
from simkit.config.errors import CaseError


if TYPE_CHECKING:
    from simkit.config.reader import LoadedCase
    from simkit.config.table import MeasurementTable
    from simkit.trial import Trial


@click.command()
@case_argument
@override_option
@click.option("--static", is_flag=True, help="Look at the files alone, and compute nothing.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.0, min_open=True),
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    help="Give the trial up, with exit code 4, when it takes longer.",
)
@json_option
@traceback_option
def check(
    case: Path, overrides: tuple[str, ...], static: bool, time_limit: float, as_json: bool
) -> None:
    """Say all that is wrong with a CASE and its data, and try it once.

    First the files are looked at: every mistake is one line on stderr, and the exit code is
    2 if there is one. Then the case is solved once, a few members of an ensemble, and the
    gradient of a fit is compared with finite differences: if a solve fails or the gradient
    is wrong, that is a line on stderr, and the exit code is 3. Of a molecular case the forces
    are compared with finite differences of the energy, and a few steps are taken.
    """
    from simkit.config.reader import find_case_errors, read_case
    from simkit.config.table import read_measurements

    if _is_molecular(case):
        from simkit.cli.commands.molecules import check_molecules

        check_molecules(case, overrides, None if static else time_limit, as_json)
        return
    errors = find_case_errors(case, overrides)
    loaded = measured = trial = None
    began = time.monotonic()
    if not errors:
        loaded = read_case(case, overrides)
        try:
            measured = read_measurements(loaded) if loaded.case.data else None
            if not static:
                trial = _tried(loaded, time_limit)
        except CaseError as error:
            errors = [error]
    seconds = time.monotonic() - began
    if as_json:
        _print_json(errors, loaded, measured, trial and _trial_values(trial, seconds))
    else:
        for error in errors:
            click.echo(f"Error: {error}", err=True)
        if loaded is not None and not errors:
            _print_words(loaded, measured, trial)
    if errors:
        click.get_current_context().exit(BAD_INPUT)
    if trial is not None and trial.failure:
        click.get_current_context().exit(FAILED)


def _is_molecular(path: Path) -> bool:
    """Whether a case is a molecular one; what cannot be read is told by its own reader."""
    from simkit.config.molecular_reader import is_molecular

    try:
        return is_molecular(path)
    except CaseError:
        return False


def _tried(loaded: "LoadedCase", time_limit: float) -> "Trial":
    """The trial of a case, within a time limit."""
    from simkit.cli.compilation_cache import use_compilation_cache
    from simkit.progress import terminal_progress

    with terminal_progress() as progress:
        progress(0, 0, "starting jax")
        use_compilation_cache()
        if ":" in loaded.case.system.type:
            # The catalogue does not know it; a name that is wrong need not wait for the rest.
            from simkit.experiment import experiment_from_case

            experiment_from_case(loaded)
        from simkit.trial import try_case

        return within(time_limit, lambda: try_case(loaded, progress))


def _print_words(
    loaded: "LoadedCase", measured: "MeasurementTable | None", trial: "Trial | None"
) -> None:
    from simkit.config.errors import one_line

    words = _description(loaded, measured)
    for warning in trial.warnings if trial else ():
        click.echo(f"Warning: {one_line(warning)}", err=True)
    if trial is not None and trial.failure:
        click.echo(one_line(f"Error: {loaded.source}: {trial.failure}."), err=True)
        return
    click.echo(f"{loaded.source} is well: {words}.")
    if trial is None:
        return
    number, engine = sum(trial.solves.values()), trial.engine and f" by {trial.engine}"
    click.echo(f"Tried: {number} solve{'' if number == 1 else 's'}{engine}, successful.")
    if trial.gradient is not None:
        gradient, worst = trial.gradient, trial.gradient.worst
        click.echo(
            f"Gradient of {len(gradient.names)} parameters against finite differences: the "
            f"worst is {gradient.names[worst]}, with a relative difference of "
            f"{gradient.relative_difference[worst]:.1e}."
        )


def _description(loaded: "LoadedCase", measured: "MeasurementTable | None") -> str:
    case = loaded.case
    words = [f"{case.system.type} by {case.method.type}"]
    if measured is not None:
        groups = f" of {len(measured.groups)} groups" if len(measured.groups) > 1 else ""
        words.append(f"{len(measured)} measurements{groups}")
    if case.fit is not None:
        words.append(f"a fit from {case.fit.starts} starts")
    return ", ".join(words)


def _trial_values(trial: "Trial", seconds: float) -> dict[str, Any]:
    gradient = trial.gradient
    return {
        "seconds": seconds,
        "engine": trial.engine or None,
        "solves": trial.solves,
        "gradient": None
        if gradient is None
        else {
            "parameters": len(gradient.names),
            "wrong": [n for n, bad in zip(gradient.names, gradient.wrong, strict=True) if bad],
            "worst": {
                "name": gradient.names[gradient.worst],
                "gradient": float(gradient.gradient[gradient.worst]),
                "finite_difference": float(gradient.differences[gradient.worst]),
                "relative_difference": float(gradient.relative_difference[gradient.worst]),
            },
        },
        "warnings": list(trial.warnings),
        "failure": trial.failure or None,
    }


def _print_json(
    errors: list[CaseError],
    loaded: "LoadedCase | None",
    measured: "MeasurementTable | None",
    trial: dict[str, Any] | None,
) -> None:
    from simkit.cli.summaries import as_json

    values: dict[str, Any] = {
        "errors": [{**mistake_parts(error), "message": str(error)} for error in errors],
        "system": loaded.case.system.type if loaded else None,
        "method": loaded.case.method.type if loaded else None,
        "measurements": len(measured) if measured else None,
        "groups": list(measured.groups) if measured else None,
        "trial": trial,
    }
    click.echo(as_json(values))
