"""`simkit simulate` and `simkit fit`: the commands that compute."""

import dataclasses
import gc
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.cli.options import run_options
from simkit.cli.outcomes import FAILED, bad_input
from simkit.cli.outputs import OutputFiles, make_folder, output_files, refuse_existing


if TYPE_CHECKING:
    from simkit.config.reader import LoadedCase
    from simkit.progress import Progress
    from simkit.results import Fit, Trajectory


@click.command()
@run_options
def simulate(case: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Solve the system of a CASE, or an ensemble of it, and write the result."""
    loaded, files = _prepare(case, **options)
    with _progress(quiet) as progress:
        result = _with_command(_simulate(loaded, progress), "simulate", loaded)
        written = _write(result, files, loaded, options["overwrite"], progress)
    _finish(result, written, as_json, _all_succeeded(result))


@click.command()
@run_options
def fit(case: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Fit the system of a CASE to its data and write the result."""
    loaded, files = _prepare(case, needs_fit=True, **options)
    with _progress(quiet) as progress:
        result = _with_command(_fit(loaded, progress), "fit", loaded)
        written = _write(result, files, loaded, options["overwrite"], progress)
    _finish(result, written, as_json, result.status == "converged")


def _prepare(
    path: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    output: Path | None,
    overwrite: bool,
    needs_fit: bool = False,
) -> "tuple[LoadedCase, OutputFiles]":
    """Refuse all that can be refused before jax is imported and time is spent."""
    from simkit.config.reader import read_case
    from simkit.config.table import read_measurements

    loaded = read_case(path, overrides)
    if needs_fit and loaded.case.fit is None:
        raise bad_input(f"{loaded.source}: fit is missing, expected a [fit] table.")
    if seed is not None:
        loaded = read_case(path, (*overrides, *_seed_overrides(loaded, seed)))
    if loaded.case.data is not None:
        read_measurements(loaded)
    files = output_files(path, output)
    refuse_existing(files.result, overwrite)
    make_folder(files.folder)
    _collect_garbage_seldom()
    return loaded, files


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


def _with_command(result: Any, name: str, loaded: "LoadedCase") -> Any:
    """The result with the command line in its provenance, without the folders in it."""
    words = ["simkit", name, loaded.path.name if loaded.path else ""]
    for override in loaded.overrides:
        words += ["--set", override]
    provenance = dataclasses.replace(result.provenance, command=shlex.join(words))
    return dataclasses.replace(result, provenance=provenance)


def _all_succeeded(result: "Trajectory") -> bool:
    import numpy as np

    return bool(np.all(result.succeeded))


def _progress(quiet: bool) -> Any:
    from simkit.progress import terminal_progress

    return terminal_progress(enabled=not quiet)


def _simulate(loaded: "LoadedCase", progress: "Progress") -> "Trajectory":
    from simkit.cli.compilation_cache import use_compilation_cache

    progress(0, 0, "starting jax")
    use_compilation_cache()
    from simkit.simulation import simulate as simulate_case

    return simulate_case(loaded, progress=progress)


def _fit(loaded: "LoadedCase", progress: "Progress") -> "Fit":
    from simkit.cli.compilation_cache import use_compilation_cache

    progress(0, 0, "starting jax")
    use_compilation_cache()
    from simkit.fitting.fit import fit as fit_case

    result = fit_case(loaded, progress=progress)
    wanted = loaded.case.uncertainty
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
    result: "Trajectory | Fit",
    files: OutputFiles,
    loaded: "LoadedCase",
    overwrite: bool,
    progress: "Progress",
) -> dict[str, Any]:
    """Write the result, the figures and the report; their paths as text.

    The result comes first: it is what lasts, and the others can be made from it.
    """
    from simkit.store.writer import save

    progress(0, 0, "writing")
    save(result, files.result, overwrite=overwrite)
    written: dict[str, Any] = {"result": str(files.result)}
    output = loaded.case.output
    if output.plots:
        from simkit.plots.collection import save_figures

        progress(0, 0, "drawing")
        paths = save_figures(result, files.figures, output.formats)
        written["figures"] = [str(path) for path in paths]
    if output.report:
        from simkit.plots.report import write_report

        write_report(result, files.report)
        written["report"] = str(files.report)
    return written


def _finish(
    result: "Trajectory | Fit", written: dict[str, Any], as_json: bool, succeeded: bool
) -> None:
    from simkit.cli.summaries import as_json as encoded, summary
    from simkit.cli.tables import print_summary

    values = summary(result, written)
    if as_json:
        click.echo(encoded(values))
    else:
        print_summary(values)
    if not succeeded:
        click.get_current_context().exit(FAILED)
