"""`simkit simulate` and `simkit check` for a molecular case."""

import dataclasses
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from simkit.cli.interruption import stopping
from simkit.cli.outcomes import BAD_INPUT, FAILED, bad_input, mistake_parts
from simkit.cli.outputs import OutputFiles, make_folder, output_files, refuse_existing
from simkit.cli.running import Plan, Run, carry_out
from simkit.config.errors import CaseError


if TYPE_CHECKING:
    from simkit.config.molecular_reader import LoadedMolecules
    from simkit.config.reader import LoadedCase
    from simkit.progress import Progress
    from solvers.molecular.trajectory import MolecularTrajectory


_SINGLE = {
    "devices": "--devices",
    "coordinator": "--coordinator",
    "process_id": "--process-id",
    "processes": "--processes",
    "profile": "--profile",
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
        overrides = (*overrides, f"dynamics.seed={seed}")
    loaded = read_molecular_case(path, overrides)
    files = _MolecularFiles(output_files(path, output).folder)
    # All that a run does with its case is to compare the tables, and all cases have those.
    plan = Plan("simulate", cast("LoadedCase", loaded), files, **options)
    refuse_existing(files.result, plan.overwrite or plan.resume)
    plan = dataclasses.replace(plan, is_new=make_folder(files.folder))
    trajectory = _finished(plan, loaded)
    if trajectory is None:
        trajectory = _carried_out(plan, loaded, quiet)
    _print(trajectory, loaded, plan)
    if not trajectory.succeeded:
        click.get_current_context().exit(FAILED)


def check_molecules(path: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say all that is wrong with a molecular case; nothing is computed."""
    from simkit.config.molecular_reader import (
        find_molecular_errors,
        particle_count,
        read_molecular_case,
    )

    errors: list[CaseError] = find_molecular_errors(path, overrides)
    case = None if errors else read_molecular_case(path, overrides).case
    names = [None, None] if case is None else _names(case)
    if as_json:
        from simkit.cli.summaries import as_json as encoded

        values = {
            "errors": [{**mistake_parts(error), "message": str(error)} for error in errors],
            "system": names[0],
            "method": names[1],
            "measurements": None,
            "groups": None,
            "trial": None,
        }
        click.echo(encoded(values))
    else:
        for error in errors:
            click.echo(f"Error: {error}", err=True)
        if case is not None:
            click.echo(
                f"{path} is well: {particle_count(case.molecules)} particles of {names[0]} by "
                f"{names[1]}, {case.dynamics.steps} steps."
            )
    if errors:
        click.get_current_context().exit(BAD_INPUT)


def _names(case: Any) -> list[str]:
    return [type(case.molecules.potential).__name__, type(case.dynamics.method).__name__]


def _finished(plan: Plan, loaded: "LoadedMolecules") -> "MolecularTrajectory | None":
    """The trajectory of a run that is finished already, with `--resume`.

    Ends with exit code 2 if it is that of another case and may not be replaced.
    """
    from simkit.store.run_folder import first_difference, is_unfinished
    from simkit.store.schema import StoreError

    path = plan.files.result
    if not plan.resume or not path.exists() or is_unfinished(plan.files.run):
        return None
    import json

    from simkit.config.reader import resolved_json
    from simkit.precision import use_double_precision

    use_double_precision()
    from simkit.molecular.simulation_files import load_with_provenance

    try:
        trajectory, provenance = load_with_provenance(path, max_bytes=2**62)
        there = json.loads(provenance.configuration)
        difference = first_difference(there, json.loads(resolved_json(loaded.case)))
    except (StoreError, ValueError) as error:
        difference = str(error).rstrip(".")
    else:
        if difference is None:
            return trajectory
    if plan.overwrite:
        return None
    raise bad_input(
        f"{path} is no result of this run ({difference}), expected one to go on from; "
        "--overwrite replaces it."
    )


def _carried_out(plan: Plan, loaded: "LoadedMolecules", quiet: bool) -> "MolecularTrajectory":
    from simkit.progress import terminal_progress

    started = datetime.now(UTC)
    with (
        stopping(plan.time_limit, plan.as_json) as stop,
        terminal_progress(enabled=not quiet) as progress,
    ):
        return carry_out(
            plan, stop, progress, lambda run: _compute(plan, loaded, run, progress, started)
        )


def _compute(
    plan: Plan, loaded: "LoadedMolecules", run: Run, progress: "Progress", started: datetime
) -> "MolecularTrajectory":
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
    words = ["simkit", "simulate", loaded.path.name]
    for override in loaded.overrides:
        words += ["--set", override]
    provenance = collect(
        shlex.join(words),
        loaded.text,
        resolved_json(loaded.case),
        loaded.case.dynamics.seed,
        started,
    )
    progress(0, 0, "writing")
    clear_partial(plan.files.folder)
    save_molecules(
        found.trajectory,
        plan.files.result,
        model=found.model,
        title=loaded.case.title,
        provenance=provenance,
        overwrite=plan.overwrite or run.may_replace,
    )
    return found.trajectory


def _print(trajectory: "MolecularTrajectory", loaded: "LoadedMolecules", plan: Plan) -> None:
    values = _summary(trajectory, loaded, plan.files.result)
    if plan.as_json:
        from simkit.cli.summaries import as_json as encoded

        click.echo(encoded(values))
        return
    from simkit.config.errors import one_line

    speed = f"{values['steps_per_second']:,.0f} steps/s"
    if values["nanoseconds_per_day"] is not None:
        speed += f", {values['nanoseconds_per_day']:,.4g} ns/day"
    click.echo(one_line(values["title"]))
    click.echo(
        f"{values['particles']} particles of {values['system']} by {values['method']}: "
        f"{values['steps']} steps, {values['frames']} frames, {speed} (with compiling)."
    )
    for name, item in values["observables"].items():
        unit = "" if item["unit"] == "1" else f" {item['unit']}"
        mean, last = item["mean"], item["last"]
        click.echo(f"{name.replace('_', ' ')}: mean {mean:.6g}{unit}, last {last:.6g}{unit}")
    click.echo(f"Written: {plan.files.result}")
    if not trajectory.succeeded:
        click.echo(f"Error: {one_line(values['message'])}", err=True)


def _summary(
    trajectory: "MolecularTrajectory", loaded: "LoadedMolecules", path: Path
) -> dict[str, Any]:
    """A molecular trajectory as plain values."""
    system, method = _names(loaded.case)
    units = trajectory.units
    kinds = {
        "temperature": ("temperature", trajectory.temperature),
        "pressure": ("pressure", trajectory.pressure),
        "potential_energy": ("energy", trajectory.potential_energy),
        "total_energy": ("energy", trajectory.total_energy),
    }
    return {
        "kind": "molecular_trajectory",
        "title": loaded.case.title,
        "system": system,
        "method": method,
        "status": trajectory.status,
        "message": trajectory.message,
        "particles": int(trajectory.positions.shape[1]),
        "steps": int(trajectory.state.step),
        "frames": trajectory.frames,
        "steps_per_second": float(trajectory.statistics["steps_per_second"]),
        "nanoseconds_per_day": trajectory.statistics.get("nanoseconds_per_day"),
        "observables": {
            name: {
                "unit": getattr(units, quantity),
                "mean": float(values.mean()),
                "last": float(values[-1]),
            }
            for name, (quantity, values) in kinds.items()
        },
        "files": {"result": str(path)},
    }
