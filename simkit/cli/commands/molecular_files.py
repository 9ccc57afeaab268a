"""What `show`, `analyse`, `plot`, `report` and `export` do with a molecular trajectory."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.cli.outcomes import bad_input


if TYPE_CHECKING:
    from simkit.analysis.base import Analysis
    from simkit.molecular.findings import MolecularFindings
    from simkit.store.h5md_frames import FrameFile


def is_molecular_file(file: Path) -> bool:
    """Whether a file is H5MD; what cannot be read is told by the reader of results."""
    from simkit.store.h5md_frames import is_trajectory
    from simkit.store.schema import StoreError

    try:
        return is_trajectory(file)
    except (StoreError, OSError):
        return False


def summarised(file: Path, max_bytes: int | None) -> dict[str, Any]:
    """What `show` tells of a trajectory."""
    from simkit.cli.molecular_summaries import molecular_summary

    with _opened(file, max_bytes) as frames:
        return molecular_summary(frames, file)


def analysed(file: Path, max_bytes: int | None, skip: int | None) -> "Analysis":
    """A trajectory in numbers."""
    from simkit.molecular.findings_tables import analysis_of

    return analysis_of(found_in(file, max_bytes, skip))


def found_in(
    file: Path, max_bytes: int | None = None, skip: int | None = None
) -> "MolecularFindings":
    """What a trajectory says. Ends with exit code 2 where it cannot be read."""
    from simkit.progress import terminal_progress

    with _opened(file, max_bytes) as frames, terminal_progress() as progress:
        progress(0, 0, "starting jax")
        from simkit.cli.compilation_cache import use_compilation_cache

        use_compilation_cache()
        from simkit.molecular.trajectory_analysis import analyse_trajectory

        return analyse_trajectory(frames, skip=skip, progress=progress)


def drawn(
    file: Path, max_bytes: int | None, folder: Path, formats: Sequence[str]
) -> list[Path]:
    """The figures of a trajectory, as files in a folder that is made where it is missing."""
    findings = found_in(file, max_bytes)
    from simkit.cli.outputs import make_folder
    from simkit.plots.collection import save_all
    from simkit.plots.molecular_trajectories import molecular_figures

    make_folder(folder)
    return save_all(lambda: molecular_figures(findings), folder, formats)


def reported(file: Path, max_bytes: int | None, target: Path) -> None:
    """The report of a trajectory, written to `target`."""
    findings = found_in(file, max_bytes)
    from simkit.cli.outputs import make_folder
    from simkit.plots.molecular_report import write_molecular_report

    make_folder(target.parent)
    write_molecular_report(findings, target)


def exported(file: Path, max_bytes: int | None, target: Path, overwrite: bool) -> list[Path]:
    """What a trajectory has for each frame, as CSV files in a folder or one netCDF file."""
    from simkit.molecular.findings_tables import file_texts, frame_tables
    from simkit.store.export import export_tables_csv, export_tables_netcdf

    with _opened(file, max_bytes) as frames:
        tables, texts = frame_tables(frames), file_texts(frames)
    if target.is_dir():
        return export_tables_csv(tables, texts, target, overwrite=overwrite)
    return [export_tables_netcdf(tables, texts, target, overwrite=overwrite)]


def print_analysis(values: dict[str, Any]) -> None:
    """Averages, peaks of the structure, and notes, in words."""
    from simkit.cli.tables import figure, print_lines, print_table

    times = values["times"]
    unit = "" if times["unit"] == "1" else f" {times['unit']}"
    skipped = f", of which the first {values['skipped']} count for no average"
    print_lines(
        *([values["title"]] if values["title"] else []),
        f"{values['particles']} particles, {values['frames']} frames from time "
        f"{figure(times['start'], 6)} to {figure(times['stop'], 6)}{unit}"
        + (skipped if values["skipped"] else "")
        + ".",
    )
    rows = [
        [name, figure(item["mean"], 6), figure(item["standard_error"], 2), _unit(item["unit"])]
        for name, item in values["averages"].items()
    ]
    print_table("Averages", ["quantity", "#average", "#standard error", "unit"], rows)
    for name, curve in values["curves"].items():
        if curve["coordinate"]["name"] == "r":
            peak = max(range(len(curve["values"])), key=lambda k: _or_least(curve["values"][k]))
            print_lines(
                f"{name}(r): highest, {figure(curve['values'][peak])}, at "
                f"{figure(curve['coordinate']['values'][peak])}"
                f" {_unit(curve['coordinate']['unit'])}".rstrip()
                + "."
            )
    print_lines(*values["notes"])


def _or_least(value: float) -> float:
    return value if value == value else float("-inf")


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit


@contextlib.contextmanager
def _opened(file: Path, max_bytes: int | None) -> Iterator["FrameFile"]:
    """An open trajectory; what is wrong with it ends the command with exit code 2."""
    from simkit.store.h5md_frames import open_frames
    from simkit.store.schema import StoreError

    try:
        with open_frames(file, max_bytes=max_bytes) as frames:
            yield frames
    except StoreError as error:
        message = str(error).replace("max_bytes of simkit.store.load", "--max-bytes")
        raise bad_input(message) from None
    except ValueError as error:  # numbers that make no trajectory
        raise bad_input(f"{file}: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise bad_input(f"{file} cannot be read ({reason}), expected a result file.") from None
