"""`simkit simulate` and `simkit check` for a molecular case."""

import contextlib
import dataclasses
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from simkit.cli.commands.molecular_files import summarised
from simkit.cli.interruption import stopping
from simkit.cli.outcomes import BAD_INPUT, FAILED, bad_input, mistake_parts
from simkit.cli.outputs import OutputFiles, make_folders, output_files, refuse_existing
from simkit.cli.profiling import Profile, words_of
from simkit.cli.running import Plan, Run, carry_out
from simkit.cli.time_limits import within
from simkit.config.errors import CaseError


if TYPE_CHECKING:
    from simkit.config.molecular_reader import LoadedMolecules
    from simkit.config.reader import LoadedCase
    from simkit.molecular.trial import MolecularTrial
    from simkit.progress import Progress


_SINGLE = {
    "devices": "--devices",
    "coordinator": "--coordinator",
    "process_id": "--process-id",
    "processes": "--processes",
}


@dataclasses.dataclass(frozen=True)
class _MolecularFiles(OutputFiles):
    """The files of a molecular run."""

    @property
    def result(self) -> Path:
        """The H5MD file."""
        return self.folder / "trajectory.h5md"


def simulate_molecules(
    path: Path,
    quiet: bool,
    *,
    overrides: tuple[str, ...],
    seed: int | None,
    output: Path | None,
    **options: Any,
) -> None:
    """Run a molecular case, write the trajectory and print what came of it."""
    from simkit.config.molecular_reader import read_molecular_case

    given = [flag for name, flag in _SINGLE.items() if options.get(name) is not None]
    if given:
        raise bad_input(f"{given[0]} was given, expected none for a molecular case.")
    if seed is not None:
        if read_molecular_case(path, overrides).case.dynamics is None:
            raise bad_input(f"--seed is {seed}, but nothing in {path} draws.")
        overrides = (*overrides, f"dynamics.seed={seed}")
    loaded = read_molecular_case(path, overrides)
    files = _MolecularFiles(output_files(path, output).folder)
    # All that a run does with its case is to compare the tables, and all cases have those.
    plan = Plan("simulate", cast("LoadedCase", loaded), files, **options)
    refuse_existing(files.result, plan.overwrite or plan.resume)
    plan = dataclasses.replace(plan, is_new=make_folders(plan.files.folder, plan.profile))
    clocks = None if plan.profile is None else Profile(plan.profile)
    if not _is_finished(plan, loaded):
        _carry_out(plan, loaded, quiet, clocks)
    values = summarised(files.result, 2**62)
    if clocks is not None:
        values["profile"] = clocks.summary()
    _print(values, plan)
    if values["status"] != "successful":
        click.get_current_context().exit(FAILED)


def check_molecules(
    path: Path, overrides: tuple[str, ...], time_limit: float | None, as_json: bool
) -> None:
    """Say all that is wrong with a molecular case, and try it unless the limit is `None`."""
    from simkit.config.molecular_reader import find_molecular_errors, read_molecular_case

    errors: list[CaseError] = find_molecular_errors(path, overrides)
    loaded = None if errors else read_molecular_case(path, overrides)
    began = time.monotonic()
    trial = None
    if loaded is not None and time_limit is not None:
        trial = _tried(loaded, time_limit)
    seconds = time.monotonic() - began
    if as_json:
        from simkit.cli.summaries import as_json as encoded

        values = {
            "errors": [{**mistake_parts(error), "message": str(error)} for error in errors],
            "system": None if loaded is None else loaded.case.system_name,
            "method": None if loaded is None else loaded.case.method_name,
            "measurements": None,
            "groups": None,
            "trial": None if trial is None else {"seconds": seconds, **trial.values},
        }
        click.echo(encoded(values))
    else:
        for error in errors:
            click.echo(f"Error: {error}", err=True)
        if loaded is not None:
            _print_check(loaded, trial)
    if errors:
        click.get_current_context().exit(BAD_INPUT)
    if trial is not None and trial.failure:
        click.get_current_context().exit(FAILED)


def _tried(loaded: "LoadedMolecules", time_limit: float) -> "MolecularTrial":
    """The trial of a case, within a time limit."""
    from simkit.cli.compilation_cache import use_compilation_cache
    from simkit.progress import terminal_progress

    with terminal_progress() as progress:
        progress(0, 0, "starting jax")
        use_compilation_cache()
        from simkit.molecular.trial import try_molecules

        try:
            return within(time_limit, lambda: try_molecules(loaded, progress))
        except ValueError as error:  # what only files and numbers show
            raise bad_input(f"{loaded.source}: {error}") from None


def _print_check(loaded: "LoadedMolecules", trial: "MolecularTrial | None") -> None:
    from simkit.config.errors import one_line
    from simkit.config.molecular_checks import particle_count

    for warning in trial.warnings if trial else ():
        click.echo(f"Warning: {one_line(warning)}", err=True)
    if trial is not None and trial.failure:
        click.echo(one_line(f"Error: {loaded.source}: {trial.failure}"), err=True)
        return
    case = loaded.case
    particles = particle_count(case.molecules) if trial is None else trial.particles
    many = "particles" if particles is None else f"{particles} particles"
    steps = "" if case.dynamics is None else f", {case.dynamics.steps} steps"
    what = f"{many} of {case.system_name} by {case.method_name}{steps}"
    click.echo(one_line(f"{loaded.source} is well: {what}."))
    for line in trial.sentences if trial else ():
        click.echo(one_line(line))


def _is_finished(plan: Plan, loaded: "LoadedMolecules") -> bool:
    """Whether the result of this run is there already, with `--resume`.

    Ends with exit code 2 if it is that of another case and may not be replaced.
    """
    from simkit.store.run_folder import first_difference, is_unfinished
    from simkit.store.schema import StoreError

    path = plan.files.result
    if not plan.resume or not path.exists() or is_unfinished(plan.files.run):
        return False
    import json

    from simkit.config.reader import resolved_json
    from simkit.store.h5md_frames import open_frames

    try:
        with open_frames(path, max_bytes=2**62) as frames:
            there = json.loads(frames.provenance.configuration)
        difference = first_difference(there, json.loads(resolved_json(loaded.case)))
    except (StoreError, ValueError) as error:
        difference = str(error).rstrip(".")
    else:
        if difference is None:
            return True
    if plan.overwrite:
        return False
    raise bad_input(
        f"{path} is no result of this run ({difference}), expected one to go on from; "
        "--overwrite replaces it."
    )


def _carry_out(
    plan: Plan, loaded: "LoadedMolecules", quiet: bool, clocks: Profile | None
) -> None:
    from simkit.progress import terminal_progress

    started = datetime.now(UTC)
    with (
        stopping(plan.time_limit, plan.as_json) as stop,
        terminal_progress(enabled=not quiet) as progress,
    ):

        def body(run: Run) -> None:
            with contextlib.nullcontext() if clocks is None else clocks.recording():
                _compute(plan, loaded, run, progress, started, clocks)

        carry_out(plan, stop, progress, body)


def _compute(
    plan: Plan,
    loaded: "LoadedMolecules",
    run: Run,
    progress: "Progress",
    started: datetime,
    clocks: Profile | None,
) -> None:
    from simkit.config.reader import resolved_json
    from simkit.molecular.simulation import simulate_molecules as simulate_case
    from simkit.molecular.simulation_files import save_molecules
    from simkit.provenance import collect
    from simkit.store.writer import clear_partial

    if run.checkpoint.processes.count > 1:
        raise bad_input("Several processes were started, expected one for a molecular case.")
    try:
        found = simulate_case(loaded, progress=progress, checkpoint=run.checkpoint)
    except ValueError as error:  # what only numbers show, such as atoms that overlap
        raise bad_input(f"{loaded.source}: {error}") from None
    if clocks is not None:
        clocks.begin("write")
    words = ["simkit", "simulate", loaded.path.name]
    for override in loaded.overrides:
        words += ["--set", override]
    case = loaded.case
    provenance = collect(
        shlex.join(words),
        loaded.text,
        resolved_json(case),
        0 if case.dynamics is None else case.dynamics.seed,
        started,
    )
    progress(0, 0, "writing")
    clear_partial(plan.files.folder)
    save_molecules(
        found.trajectory,
        plan.files.result,
        model=found.model,
        title=case.title,
        facts={
            "system": case.system_name,
            "method": case.method_name,
            "species": " ".join(species.name for species in case.molecules.species),
        },
        provenance=provenance,
        overwrite=plan.overwrite or run.may_replace,
    )


def _print(values: dict[str, Any], plan: Plan) -> None:
    if plan.as_json:
        from simkit.cli.summaries import as_json as encoded

        click.echo(encoded(values))
        return
    from simkit.cli.molecular_summaries import print_molecules
    from simkit.config.errors import one_line

    print_molecules(values)
    click.echo(f"Written: {plan.files.result}")
    if "profile" in values:
        from simkit.cli.tables import print_lines

        print_lines(*words_of(values["profile"]))
    if values["status"] != "successful":
        click.echo(f"Error: {one_line(values['message'])}", err=True)
