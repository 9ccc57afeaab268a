"""`simkit export`: a result for programs that know no HDF5."""

from pathlib import Path

import click

from simkit.cli.commands.files import opened_result, tell_written
from simkit.cli.commands.molecular_files import exported, is_molecular_file
from simkit.cli.options import (
    json_option,
    max_bytes_option,
    overwrite_option,
    result_argument,
    traceback_option,
)
from simkit.cli.outcomes import bad_input
from simkit.cli.outputs import already_there, make_folder, refuse_existing


@click.command()
@result_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "netcdf"]),
    default="csv",
    show_default=True,
    help="csv: a folder with a file for each table; netcdf: one file with a group for each.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder or file; beside FILE and named like it if left out.",
)
@max_bytes_option
@overwrite_option
@json_option
@traceback_option
def export(
    file: Path,
    form: str,
    output: Path | None,
    max_bytes: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write all tables of a result FILE as CSV or netCDF.

    Of a molecular trajectory these are the quantities of each frame, and the box.
    """
    from simkit.progress import terminal_progress
    from simkit.store import export as exporting
    from simkit.store.schema import StoreError

    folder = form == "csv"
    target = output or (
        file.with_name(f"{file.stem}_csv") if folder else file.with_suffix(".nc")
    )
    if target.exists() and target.is_dir() != folder:
        what, wanted = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise bad_input(f"{target} is a {what}, expected a {wanted} for {form}.")
    if target.exists() and target.samefile(file):
        raise bad_input(f"{target} is the result itself, expected another file.")
    if not folder:
        refuse_existing(target, overwrite)
    try:
        if not folder:
            exporting.require_netcdf()
        molecular = is_molecular_file(file)
        result = None if molecular else opened_result(file, max_bytes, survey=False)
        make_folder(target if folder else target.parent)
        with terminal_progress() as progress:
            if result is None:
                written = exported(file, max_bytes, target, overwrite)
            elif folder:
                written = exporting.export_csv(
                    result, target, overwrite=overwrite, progress=progress
                )
            else:
                whole = exporting.export_netcdf(
                    result, target, overwrite=overwrite, progress=progress
                )
                written = [whole]
    except FileExistsError as error:
        raise already_there(error) from None
    except (exporting.MissingPackage, StoreError) as error:
        raise bad_input(str(error)) from None
    tell_written("files", [str(path) for path in written], as_json)
