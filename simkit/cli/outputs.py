"""Where a run writes, and that nothing of value is overwritten."""

import dataclasses
import os
from pathlib import Path

from simkit.cli.outcomes import Failure, bad_input


@dataclasses.dataclass(frozen=True)
class OutputFiles:
    """The files of one run."""

    folder: Path

    @property
    def result(self) -> Path:
        """The HDF5 file."""
        return self.folder / "result.h5"

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.folder / "figures"

    @property
    def run(self) -> Path:
        """The folder of finished segments, while the run is not finished."""
        return self.folder / ".run"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"


def output_files(case: Path, output: Path | None) -> OutputFiles:
    """The files of a run of a case.

    Without a folder given they go to `results/NAME` with the name of the folder of the
    case; a case file that is not called `case.toml` adds its own name, so that two
    cases of one folder do not meet.
    """
    if output is None:
        case = case.resolve()
        output = Path("results") / case.parent.name
        if case.stem != "case":
            output /= case.stem
    return OutputFiles(output)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """End with exit code 2 where the file is there and may not be replaced."""
    if path.exists() and not overwrite:
        raise already_there(path)


def already_there(found: Path | FileExistsError) -> Failure:
    """What ends a command where a file stands: its path, or what a writer said of it."""
    path = str(found).partition(" exists")[0] if isinstance(found, OSError) else found
    return bad_input(
        f"{path} is there already, expected a new file; --overwrite replaces it, "
        "-o names another place."
    )


def make_folder(folder: Path) -> bool:
    """Make the folder, so that a run does not learn at its end that it cannot write.

    **Returns:** whether it was not there before.

    Ends with exit code 2 where that is impossible.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_input(
            f"{folder} cannot be made ({error.strerror}), expected a folder to write to."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise bad_input(f"{folder} cannot be written to, expected a folder that can.")
    return is_new


def make_folders(folder: Path, profile: Path | None) -> bool:
    """Make the folders that are written to; whether that of the result is new."""
    new_profile = profile is not None and make_folder(profile)
    try:
        return make_folder(folder)
    except Failure:
        if new_profile and profile is not None:
            profile.rmdir()
        raise
