"""`simkit simulate` and `simkit fit`: the commands that compute."""

import contextlib
import dataclasses
import gc
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.cli.commands.files import opened_result
from simkit.cli.interruption import stopping
from simkit.cli.options import run_options
from simkit.cli.outcomes import FAILED, bad_input
from simkit.cli.outputs import make_folders, output_files, refuse_existing
from simkit.cli.profiling import Profile, words_of
from simkit.cli.running import Plan, Run, carry_out, existing_files, finished_result


if TYPE_CHECKING:
    from simkit.config.reader import LoadedCase
    from simkit.progress import Progress
    from simkit.results import Fit, Trajectory


@click.command()
@run_options
def simulate(case: Path, quiet: bool, **options: Any) -> None:
    """Solve the system of a CASE, or an ensemble of it, and write the result.

    Members are solved in segments, which are kept as they are finished: see --resume. So are
    the steps of a molecular case, whose trajectory is written as H5MD.
    """
    from simkit.config.molecular_reader import is_molecular

    if is_molecular(case):
        from simkit.cli.commands.molecules import simulate_molecules

        simulate_molecules(case, quiet, **options)
        return
    plan = _prepare("simulate", case, **options)
    outcome = _carry_out(plan, _simulate, quiet)
    _finish(plan, outcome, _all_succeeded(outcome.result))


@click.command()
@run_options
def fit(case: Path, quiet: bool, **options: Any) -> None:
    """Fit the system of a CASE to its data and write the result.

    Starts are run in segments, which are kept as they are finished: see --resume.
    """
    from simkit.config.molecular_reader import is_molecular

    if is_molecular(case):
        raise bad_input(
            f"{case} is a molecular case, which this command cannot fit, expected one with "
            "[system]; in Python sk.molecular.fit_averages and match_forces do."
        )
    plan = _prepare("fit", case, **options)
    outcome = _carry_out(plan, _fit, quiet)
    _finish(plan, outcome, outcome.result.status == "converged")


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """A result, the files that were written, and with `--profile` where the time went."""

    result: Any
    written: dict[str, Any]
    profile: dict[str, Any] | None = None


def _prepare(
    command: str,
    path: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    output: Path | None,
    **options: Any,
) -> Plan:
    """Refuse all that can be refused before jax is imported and time is spent."""
    from simkit.config.reader import read_case
    from simkit.config.table import read_measurements

    loaded = read_case(path, overrides)
    if command == "fit" and loaded.case.fit is None:
        raise bad_input(f"{loaded.source}: fit is missing, expected a [fit] table.")
    if seed is not None:
        loaded = read_case(path, (*overrides, *_seed_overrides(loaded, seed)))
    if loaded.case.data is not None:
        read_measurements(loaded)
    plan = Plan(command, loaded, output_files(path, output), **options)
    refuse_existing(plan.files.result, plan.overwrite or plan.resume)
    plan = dataclasses.replace(plan, is_new=make_folders(plan.files.folder, plan.profile))
    _collect_garbage_seldom()
    return plan


def _carry_out(
    plan: Plan, compute: "Callable[[Plan, Run, Progress], Any]", quiet: bool
) -> _Outcome:
    """What a run came to, or one that is finished already."""
    clocks = None if plan.profile is None else Profile(plan.profile)
    finished = finished_result(plan)
    if finished is not None:
        if not plan.is_first:
            click.get_current_context().exit(0)
        told = clocks and clocks.summary()  # of nothing that was computed
        return _Outcome(finished, existing_files(plan.files), told)
    from simkit.progress import terminal_progress

    with (
        stopping(plan.time_limit, plan.as_json) as stop,
        terminal_progress(enabled=plan.is_first and not quiet) as progress,
    ):

        def body(run: Run) -> _Outcome:
            with contextlib.nullcontext() if clocks is None else clocks.recording():
                result = _with_command(compute(plan, run, progress), plan)
                if clocks is not None:
                    clocks.begin("write")
                result, written = _write(result, plan, run, progress)
            return _Outcome(result, written, clocks and clocks.summary())

        return carry_out(plan, stop, progress, body)


def _collect_garbage_seldom() -> None:
    """Look for cyclic garbage only after many allocations.

    Tracing a program makes millions of small objects, few of them garbage: the usual
    threshold of 700 cost 3 of 18 s of a fit with a warm cache.
    """
    gc.set_threshold(1_000_000, 20, 20)


def _seed_overrides(loaded: "LoadedCase", seed: int) -> list[str]:
    """Overrides that give the seed to everything in the case that draws."""
    case = loaded.case
    keys = []
    if case.ensemble is not None:
        keys.append("ensemble.seed")
    if case.fit is not None:
        keys.append("fit.seed")
    if case.uncertainty is not None:
        keys.append("uncertainty.laplace.seed")
    if not keys:
        raise bad_input(
            f"--seed is {seed}, but nothing in {loaded.source} draws; expected a case with "
            "[ensemble] or [fit]."
        )
    return [f"{key}={seed}" for key in keys]


def _with_command(result: Any, plan: Plan) -> Any:
    """The result with the command line in its provenance, without the folders in it.

    Nor does it say whether the run was stopped on the way, or shared: the numbers are the
    same.
    """
    loaded = plan.loaded
    words = ["simkit", plan.command, loaded.path.name if loaded.path else ""]
    for override in loaded.overrides:
        words += ["--set", override]
    provenance = dataclasses.replace(result.provenance, command=shlex.join(words))
    return dataclasses.replace(result, provenance=provenance)


def _all_succeeded(result: "Trajectory") -> bool:
    import numpy as np

    return bool(np.all(result.succeeded))


def _simulate(plan: Plan, run: Run, progress: "Progress") -> "Trajectory":
    from simkit.simulation import simulate as simulate_case

    return simulate_case(
        plan.loaded, progress=progress, checkpoint=run.checkpoint, mesh=run.mesh
    )


def _fit(plan: Plan, run: Run, progress: "Progress") -> "Fit":
    from simkit.fitting.fit import fit as fit_case

    result = fit_case(plan.loaded, progress=progress, checkpoint=run.checkpoint, mesh=run.mesh)
    wanted = plan.loaded.case.uncertainty
    if wanted is None or result.status != "converged":
        return result
    from simkit.fitting.uncertainty import Laplace, uncertainty

    progress(0, 0, "uncertainty")
    table = wanted.laplace
    method = Laplace(
        level=table.level,
        draws=table.draws,
        seed=table.seed,
        correct_mean=table.correct_mean,
    )
    return dataclasses.replace(result, uncertainty=uncertainty(result, method))


def _write(
    result: "Trajectory | Fit", plan: Plan, run: Run, progress: "Progress"
) -> tuple["Trajectory | Fit", dict[str, Any]]:
    """Write the result, the figures and the report; the result and their paths as text.

    The result comes first: it is what lasts, and the others are made from it. So a large
    ensemble is read from there after this: the segments go.
    """
    from simkit.store.streaming import is_large
    from simkit.store.writer import clear_partial, save

    files = plan.files
    progress(0, 0, "writing")
    clear_partial(files.folder)
    may_replace = plan.overwrite or run.may_replace
    save(result, files.result, overwrite=may_replace, progress=progress)
    if is_large(result):
        result = opened_result(files.result, 2**62)
    written: dict[str, Any] = {"result": str(files.result)}
    output, drawn = plan.loaded.case.output, {}
    if output.plots:
        from simkit.plots.collection import save_figures

        progress(0, 0, "drawing")
        paths = save_figures(result, files.figures, output.formats)
        written["figures"] = [str(path) for path in paths]
        drawn = {path.stem: path.read_bytes() for path in paths if path.suffix == ".svg"}
    if output.report:
        from simkit.plots.report import write_report

        write_report(result, files.report, drawn or None)
        written["report"] = str(files.report)
    return result, written


def _finish(plan: Plan, outcome: _Outcome, succeeded: bool) -> None:
    from simkit.cli.summaries import as_json as encoded, summary
    from simkit.cli.tables import print_lines, print_summary

    values = summary(outcome.result, outcome.written)
    if outcome.profile is not None:
        values["profile"] = outcome.profile
    if plan.as_json:
        click.echo(encoded(values))
    else:
        print_summary(values)
        if outcome.profile is not None:
            print_lines(*words_of(outcome.profile))
    if not succeeded:
        click.get_current_context().exit(FAILED)
