"""`simkit analyse`: what a result says in numbers."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.cli.commands.files import opened_result
from simkit.cli.commands.molecular_files import analysed, is_molecular_file, print_analysis
from simkit.cli.options import (
    json_option,
    max_bytes_option,
    overwrite_option,
    result_argument,
    traceback_option,
)
from simkit.cli.outcomes import bad_input
from simkit.cli.outputs import already_there, make_folder, refuse_existing


if TYPE_CHECKING:
    from simkit.analysis.base import Analysis
    from simkit.results import Fit, Trajectory


_TIMES_SHOWN = 11


@click.command()
@result_argument
@click.option(
    "--quantile",
    "levels",
    type=click.FloatRange(0.0, 1.0),
    metavar="P",
    multiple=True,
    default=(0.05, 0.25, 0.5, 0.75, 0.95),
    show_default=True,
    help="Probability of a quantile over the members of an ensemble; repeatable.",
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    metavar="FRAMES",
    help="Frames at the start of a molecular trajectory that count for no average; left out, "
    "those before equilibrium.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all numbers to this file: HDF5, or CSV if it ends in .csv.",
)
@max_bytes_option
@overwrite_option
@json_option
@traceback_option
def analyse(
    file: Path,
    levels: tuple[float, ...],
    skip: int | None,
    output: Path | None,
    max_bytes: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Tell what a result FILE says in numbers.

    Of an ensemble: mean, standard deviation, extremes and quantiles of each state over the
    members at each time, and why members failed; a file of any size is read in parts. Of a
    fit: parameters, correlations, how well the data tell them apart, information criteria,
    residuals. Of a single solve: ends and extremes. Of a molecular trajectory (H5MD): averages
    with errors, radial distribution, displacements, diffusion.

    With --json there is one object: {"kind": "ensemble", "solve", "fit" or "molecules", ...}.
    """
    if output is not None:
        _refuse(output, file, overwrite)
    if is_molecular_file(file):
        found = analysed(file, max_bytes, skip)
    elif skip is not None:
        raise bad_input("--skip was given, expected none for a file that is no trajectory.")
    else:
        found = _analysed(opened_result(file, max_bytes, survey=False), levels)
    files = [] if output is None else _saved(found, output, overwrite)
    if as_json:
        from simkit.cli.summaries import as_json as encoded

        click.echo(encoded({**found.values, "files": files}))
        return
    _PRINTERS[found.values["kind"]](found.values)
    for path in files:
        click.echo(path)


def _refuse(output: Path, file: Path, overwrite: bool) -> None:
    if output.suffix not in (".h5", ".hdf5", ".nc", ".csv"):
        raise bad_input(f"{output} ends in {output.suffix!r}, expected .h5 or .csv.")
    if output.exists() and output.samefile(file):
        raise bad_input(f"{output} is the result itself, expected another file.")
    refuse_existing(output, overwrite)
    make_folder(output.parent)


def _analysed(result: "Trajectory | Fit", levels: tuple[float, ...]) -> "Analysis":
    from simkit.analysis.collection import analyse as analysis_of
    from simkit.progress import terminal_progress
    from simkit.store.schema import StoreError

    try:
        with terminal_progress() as progress:
            return analysis_of(result, levels, progress)
    except StoreError as error:
        raise bad_input(str(error)) from None


def _saved(found: "Analysis", output: Path, overwrite: bool) -> list[str]:
    from simkit.store.table_files import save_tables

    try:
        return [str(path) for path in save_tables(found.tables, output, overwrite=overwrite)]
    except FileExistsError as error:
        raise already_there(error) from None


def _print_ensemble(values: dict[str, Any]) -> None:
    from simkit.cli.tables import print_lines, print_table

    print_lines(
        values["title"],
        f"{values['succeeded']} of {values['members']} members of {values['system']} reached "
        "the end.",
        *(f"{count} failed: {reason}." for reason, count in values["failed"].items()),
    )
    times = values["times"]["values"]
    shown = _evenly(len(times), _TIMES_SHOWN)
    head = ["#time", "#members", "#mean", "#sd", "#lowest"]
    head += [_level_name(level) for level in values["levels"]]
    for name, item in values["states"].items():
        rows = [
            [
                _figure(times[index], 6),
                str(item["count"][index]),
                *(
                    _figure(item[field][index])
                    for field in ("mean", "standard_deviation", "lowest")
                ),
                *(_figure(row[index]) for row in item["quantiles"]),
                _figure(item["highest"][index]),
            ]
            for index in shown
        ]
        print_table(_with_unit(name, item["unit"]), [*head, "#highest"], rows)
    if len(shown) < len(times):
        print_lines(f"{len(shown)} of {len(times)} times shown; -o FILE writes all.")


def _print_solve(values: dict[str, Any]) -> None:
    from simkit.cli.tables import print_lines, print_table

    fields = ("first", "last", "lowest", "time_of_lowest", "highest", "time_of_highest", "mean")
    rows = [
        [name, *(_figure(item[field]) for field in fields), item["unit"]]
        for name, item in values["states"].items()
    ]
    columns = ["state", "#first", "#last", "#lowest", "#at time", "#highest", "#at time",
               "#mean over time", "unit"]  # fmt: skip
    print_lines(values["title"], f"{values['system']}: {values['status']}.")
    print_table("States", columns, rows)


def _print_fit(values: dict[str, Any]) -> None:
    from simkit.cli.tables import print_lines, print_table

    print_lines(values["title"], f"{values['system']}: {values['status']}.")
    rows = [
        [
            item["name"] + (" (at its bound)" if item["at_bound"] else ""),
            _figure(item["estimate"]),
            _figure(item["standard_error"], 2),
            _figure(100 * item["relative_error"], 2),
            _figure(item["inflation"], 2),
            item["unit"],
        ]
        for item in values["parameters"]
    ]
    columns = ["parameter", "#estimate", "#standard error", "#in %", "#inflation", "unit"]
    print_table("Parameters", columns, rows)
    names, matrix = values["correlations"]["names"], values["correlations"]["matrix"]
    rows = [
        [name, *(_figure(each, 2) for each in row[: place + 1])]
        + [""] * (len(names) - place - 1)
        for place, (name, row) in enumerate(zip(names, matrix, strict=True))
    ]
    if len(names) <= _MOST_SHOWN:
        print_table("Correlations", ["parameter", *(f"#{name}" for name in names)], rows)
    told, measures = values["identifiability"], values["measures"]
    print_lines(
        f"Collinearity index {_figure(told['collinearity'], 3)}, condition number of the "
        f"correlations {_figure(told['condition_number'], 3)}.",
        *told["remarks"],
        f"{measures['observations']} measurements, {measures['parameters']} parameters: "
        f"log-likelihood {_figure(measures['log_likelihood'], 6)}, AIC "
        f"{_figure(measures['aic'], 6)}, AICc {_figure(measures['aicc'], 6)}, BIC "
        f"{_figure(measures['bic'], 6)}.",
    )
    rows = [
        [
            name,
            str(item["count"]),
            _figure(item["mean"], 2),
            _figure(item["root_mean_square"], 3),
            _figure(item["largest"], 3),
        ]
        for name, item in values["residuals"].items()
    ]
    columns = ["observable", "#measurements", "#mean", "#root mean square", "#largest"]
    print_table("Standardised residuals", columns, rows)


_MOST_SHOWN = 12
"""Parameters of which correlations are printed; more would not fit a line."""

_PRINTERS = {
    "ensemble": _print_ensemble,
    "solve": _print_solve,
    "fit": _print_fit,
    "molecules": print_analysis,
}


def _figure(value: float, digits: int = 4) -> str:
    from simkit.cli.tables import figure

    return figure(None if math.isnan(value) else value, digits)


def _level_name(level: float) -> str:
    return "#median" if level == 0.5 else f"#{100 * level:.4g} %"


def _with_unit(name: str, unit: str) -> str:
    return name if unit in ("1", "") else f"{name} ({unit})"


def _evenly(count: int, at_most: int) -> list[int]:
    if count <= at_most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (at_most - 1)) for place in range(at_most)})
