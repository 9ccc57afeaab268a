"""`simkit show`, `simkit plot` and `simkit report`: what can be done with a result file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.cli.commands.molecular_files import drawn, is_molecular_file, reported, summarised
from simkit.cli.options import (
    json_option,
    max_bytes_option,
    overwrite_option,
    result_argument,
    traceback_option,
)
from simkit.cli.outcomes import bad_input
from simkit.cli.outputs import make_folder, refuse_existing


if TYPE_CHECKING:
    from simkit.results import Fit, Trajectory
    from simkit.store.describe import Description


@click.command()
@result_argument
@max_bytes_option
@json_option
@traceback_option
def show(file: Path, max_bytes: int | None, as_json: bool) -> None:
    """Tell what is in a result FILE, or in another HDF5 file."""
    from simkit.cli.molecular_summaries import print_molecules
    from simkit.cli.summaries import as_json as encoded, summary
    from simkit.cli.tables import print_summary, print_table

    description = _described(file)
    is_result = "/simkit" in description.attributes
    values, molecular = None, is_molecular_file(file)
    if molecular:
        values = summarised(file, max_bytes)
    elif is_result:
        values = summary(opened_result(file, max_bytes), {"result": str(file)})
    variables = _variables(description)
    if as_json:
        click.echo(encoded({"result": values, "variables": variables}))
        return
    if values is not None:
        (print_molecules if molecular else print_summary)(values)
    rows = [
        [
            item["path"],
            item["type"],
            " x ".join(
                f"{name} {size}" if name else str(size)
                for name, size in zip(item["dimensions"], item["shape"], strict=True)
            ),
            item["units"],
            item["description"],
        ]
        for item in variables
    ]
    print_table(f"Contents of {file}", ["variable", "type", "axes", "unit", "meaning"], rows)


@click.command()
@result_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the figures; figures beside FILE if left out.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(["png", "svg", "pdf"]),
    multiple=True,
    default=("png", "svg"),
    show_default=True,
    help="File format; repeatable.",
)
@max_bytes_option
@overwrite_option
@json_option
@traceback_option
def plot(
    file: Path,
    output: Path | None,
    formats: tuple[str, ...],
    max_bytes: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw the figures of a result FILE."""
    folder = output or file.parent / "figures"
    molecular = is_molecular_file(file)
    result = None if molecular else opened_result(file, max_bytes)
    for suffix in formats:
        for path in folder.glob(f"*.{suffix}"):
            refuse_existing(path, overwrite)
    if result is None:
        paths = drawn(file, max_bytes, folder, formats)
    else:
        from simkit.plots.collection import save_figures

        make_folder(folder)
        paths = save_figures(result, folder, formats)
    tell_written("figures", [str(path) for path in paths], as_json)


@click.command()
@result_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The report; report.html beside FILE if left out.",
)
@max_bytes_option
@overwrite_option
@json_option
@traceback_option
def report(
    file: Path, output: Path | None, max_bytes: int | None, overwrite: bool, as_json: bool
) -> None:
    """Write a self-contained HTML report of a result FILE."""
    target = output or file.parent / "report.html"
    refuse_existing(target, overwrite)
    if is_molecular_file(file):
        reported(file, max_bytes, target)
    else:
        result = opened_result(file, max_bytes)
        from simkit.plots.report import write_report

        make_folder(target.parent)
        write_report(result, target)
    tell_written("report", str(target), as_json)


def tell_written(kind: str, written: Any, as_json: bool) -> None:
    """Print the paths of what was written, or one JSON object with them."""
    if as_json:
        import json

        click.echo(json.dumps({kind: written}, indent=2, ensure_ascii=False))
        return
    for path in [written] if isinstance(written, str) else written:
        click.echo(path)


def opened_result(
    file: Path, max_bytes: int | None = None, *, survey: bool = True
) -> "Trajectory | Fit":
    """The result of a file, of which a large ensemble stays there until the command ends.

    Its statistics are found out here, with a bar on the terminal, unless `survey` is false.
    Ends with exit code 2 where it cannot be read.
    """
    from simkit.progress import terminal_progress
    from simkit.store.reader import open_result

    with _readable(file):
        opened = open_result(file, max_bytes=max_bytes)
        result = click.get_current_context().with_resource(opened)
        from simkit.results import Trajectory

        if survey and isinstance(result, Trajectory):
            from simkit.member_statistics import survey as find_out

            with terminal_progress() as progress:
                find_out(result, progress)
    return result


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Errors of a file as bad input."""
    from simkit.store.schema import StoreError

    try:
        yield
    except StoreError as error:
        # The same limit has another name on the command line.
        message = str(error).replace("max_bytes of simkit.store.load", "--max-bytes")
        raise bad_input(message) from None
    except OSError as error:
        raise bad_input(_unreadable(file, error)) from None


def _described(file: Path) -> "Description":
    from simkit.store.describe import describe
    from simkit.store.schema import StoreError

    try:
        return describe(file)
    except StoreError as error:
        raise bad_input(str(error)) from None
    except OSError as error:
        raise bad_input(_unreadable(file, error)) from None


def _unreadable(file: Path, error: OSError) -> str:
    return f"{file} cannot be read ({error.strerror or error}), expected a result file."


def _variables(description: "Description") -> list[dict[str, Any]]:
    return [
        {
            "path": f"{item.group.rstrip('/')}/{item.name}",
            "dimensions": list(item.dimensions),
            "shape": [int(size) for size in item.shape],
            "type": item.type,
            "units": "" if item.units == "1" else item.units,
            "description": item.long_name,
        }
        for item in description.variables
    ]
