"""Minimisers on the small problems of CUTEst, against SciPy and optimistix, in one run.

The problems are those of the package sif2jax (a dependency of tests only) with at most 12
parameters: unconstrained ones, and ones with bounds on parameters. Every method starts
where CUTEst says, at its default settings with at most 2,000 iterations. A run counts as

- *best*: success was claimed within 1e-6 (relative to the fall from the start, and 1e-8 of
  the size) of the lowest objective that any method of the run reached;
- *best, not claimed*: it went as far, but did not claim success;
- *other minimum*: success was claimed at a point that fulfils the conditions of a local
  minimum of second order, but lies higher;
- *false success*: success was claimed, and it is neither;
- *failed*: everything else.

All methods take objective, gradient and Hessian from one compiled function per problem, ours
and optimistix's by a callback from one program per method and size. So there are few programs
to compile, no method is slowed by another's way to derivatives, and no times are told: most
would be those of the callback. The picture shows performance profiles by evaluations of the
objective, each with the derivatives that the method takes.

Compiling the problems takes minutes. With `--cache FOLDER` compiled
programs and finished runs are kept there, and the same command goes on where it was stopped;
empty the folder after changing a method.

    python benchmarks/optimisers.py [--picture profile.svg] [--names ROSENBR BEALE]
"""

import argparse
import functools
import json
import platform
import sys
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import scipy
import scipy.optimize
from jax.flatten_util import ravel_pytree


sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simkit.plots import style
from solvers.optimisers.base import Minimisation, optimise, stop_names
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.quasi_newton import LBFGSB
from solvers.optimisers.truncated_newton import NewtonCG
from tests.helpers_cutest import read_cutest


LARGEST = 12
ITERATIONS = 2000


class Problem(NamedTuple):
    """A problem of CUTEst as functions of a vector.

    `derivatives` returns objective, gradient and Hessian.
    """

    name: str
    start: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    derivatives: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]

    @property
    def bounded(self) -> bool:
        """Whether any bound is finite."""
        return bool(np.any(np.isfinite(self.lower)) or np.any(np.isfinite(self.upper)))


class Run(NamedTuple):
    """One method on one problem."""

    point: np.ndarray
    claimed: bool
    reason: str
    evaluations: int


LEAST_OPTIMISED: Any = {"xla_backend_optimization_level": 0}
"""Compiling takes far longer than running here, and results differ by rounding alone."""


def read_problem(raw: Any) -> Problem | None:
    """The problem as plain functions; `None` where sif2jax itself fails."""
    try:
        start, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, float), raw.y0))
        bounds = (-np.inf, np.inf)
        if getattr(raw, "bounds", None) is not None:
            bounds = tuple(ravel_pytree(bound)[0] for bound in raw.bounds)
        lower, upper = (np.broadcast_to(np.asarray(b, float), start.shape) for b in bounds)

        def objective(x: Any) -> Any:
            return jnp.asarray(raw.objective(unravel(x), raw.args), float)

        def derivatives(x: Any) -> Any:
            gradient = jax.grad(objective)
            return objective(x), gradient(x), jax.jacfwd(gradient)(x)

        # Many standard starts lie outside; the nearest point inside is the start for all.
        start = np.clip(np.asarray(start), lower, upper)
        compiled = jax.jit(derivatives).lower(start).compile(compiler_options=LEAST_OPTIMISED)
    except Exception as error:
        print(f"{raw.name} left out: {type(error).__name__}: {str(error)[:60]}", flush=True)
        return None

    @functools.lru_cache(maxsize=4)
    def remembered(key: bytes) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient, hessian = compiled(np.frombuffer(key))
        return float(value), np.asarray(gradient), np.asarray(hessian)

    return Problem(raw.name, start, lower, upper, lambda x: remembered(x.tobytes()))


def small_problems(bounded: bool, names: list[str] | None = None) -> list[Problem]:
    """The problems with at most 12 parameters that evaluate, in the order of their size."""
    chosen = []
    for item in read_cutest("bounded" if bounded else "unconstrained"):
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(item.y0))
        if size <= LARGEST and (not names or item.name in names):
            chosen.append(read_problem(item))
    found = [problem for problem in chosen if problem is not None]
    return sorted(found, key=lambda problem: problem.start.size)


class Bridge:
    """An objective for compiled programs whose derivatives come from outside.

    `problem` is the one that is asked, and may change between runs.
    """

    problem: Problem

    def __init__(self, size: int):
        def ask(which: int, shape: tuple[int, ...], x: Any) -> Any:
            answer = jax.ShapeDtypeStruct(shape, float)
            return jax.pure_callback(lambda x: self._answer(which, x), answer, x)

        @jax.custom_jvp
        def gradient(x: Any) -> Any:
            return ask(1, (size,), x)

        @jax.custom_jvp
        def objective(x: Any) -> Any:
            return ask(0, (), x)

        @gradient.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            return gradient(*primals), ask(2, (size, size), *primals) @ tangents[0]

        @objective.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            return objective(*primals), gradient(*primals) @ tangents[0]

        self.objective = objective

    def _answer(self, which: int, x: Any) -> np.ndarray:
        return np.asarray(self.problem.derivatives(np.asarray(x))[which])


@functools.cache
def program_of(method: str, size: int) -> tuple[Bridge, Any]:
    """A method compiled for problems of so many parameters."""
    bridge = Bridge(size)

    def solve(start: Any, lower: Any, upper: Any) -> Any:
        question = Minimisation(lambda y, _: bridge.objective(y), lower, upper)
        found = optimise(question, COMPILED[method], start, max_steps=ITERATIONS, throw=False)
        count = found.statistics.get("function_evaluations", found.steps)
        return found.value, found.converged, found.stop._value, count

    shape = jax.ShapeDtypeStruct((size,), float)
    lowered = jax.jit(solve).lower(shape, shape, shape)
    return bridge, lowered.compile(compiler_options=LEAST_OPTIMISED)


def run_compiled(problem: Problem, method: str) -> Run:
    """A method of the house, or of optimistix."""
    bridge, program = program_of(method, problem.start.size)
    bridge.problem = problem
    bounds = (np.array(problem.lower), np.array(problem.upper))
    value, claimed, stop, count = jax.block_until_ready(program(problem.start, *bounds))
    return Run(np.asarray(value), bool(claimed), stop_names()[int(stop)], int(count))


def run_scipy(problem: Problem, method: str) -> Run:
    """A method of SciPy, with the same derivatives."""
    settings: dict[str, Any] = {"options": {"maxiter": ITERATIONS}}
    if method in ("trust-exact", "trust-constr"):
        settings["hess"] = lambda x: problem.derivatives(x)[2]
    if problem.bounded:
        bounds: Any = scipy.optimize.Bounds
        settings["bounds"] = bounds(problem.lower, problem.upper, True)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = scipy.optimize.minimize(
                lambda x: problem.derivatives(x)[:2],
                problem.start,
                method=method,
                jac=True,
                **settings,
            )
    except (ValueError, np.linalg.LinAlgError) as error:
        return Run(problem.start, False, type(error).__name__, 0)
    # trust-constr reports success = True for its tolerances (status 1 and 2) alone.
    return Run(found.x, bool(found.success), str(found.status), int(found.nfev))


COMPILED: dict[str, Any] = {
    "TrustRegionNewton": TrustRegionNewton(),
    "CubicNewton": CubicNewton(),
    "NewtonCG": NewtonCG(),
    "LBFGSB": LBFGSB(),
    "optimistix BFGS": optx.BFGS(rtol=1e-8, atol=1e-8),
}
OURS = ("TrustRegionNewton", "CubicNewton", "NewtonCG", "LBFGSB")
METHODS = {
    "unconstrained": (
        *OURS,
        "SciPy trust-exact",
        "SciPy BFGS",
        "SciPy L-BFGS-B",
        "optimistix BFGS",
    ),
    "bounded": (*OURS, "SciPy trust-constr", "SciPy L-BFGS-B"),
}


def run_method(problem: Problem, method: str) -> Run:
    """Any method by name."""
    if method in COMPILED:
        return run_compiled(problem, method)
    return run_scipy(problem, method.removeprefix("SciPy "))


def is_minimum(problem: Problem, x: np.ndarray) -> bool:
    """Whether a point fulfils the conditions of a local minimum, to rounding.

    The Newton step on the free parameters promises less than 1e-8 of the objective's
    fall from the start, or no more than its rounding, and no curvature is negative.
    """
    value, gradient, hessian = problem.derivatives(x)
    first = problem.derivatives(problem.start)[0]
    if not (np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))):
        return False
    held = (x <= problem.lower) & (gradient >= 0) | (x >= problem.upper) & (gradient <= 0)
    gradient, hessian = gradient[~held], hessian[np.ix_(~held, ~held)]
    if gradient.size == 0:
        return True
    diagonal = np.sqrt(np.abs(np.diagonal(hessian)))
    scale = np.where(diagonal > 0, diagonal, 1.0)
    eigenvalues, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    slopes = vectors.T @ (gradient / scale)
    floor = 1e-10 * max(np.abs(eigenvalues).max(), np.finfo(float).tiny)
    promised = np.sum(slopes**2 / np.maximum(eigenvalues, floor))
    allowed = max(1e-8 * abs(first - value), 1e-13 * abs(value), 1e-26)
    return bool(eigenvalues.min() >= -1e-6 * np.abs(eigenvalues).max() and promised <= allowed)


def grade(problem: Problem, run: Run, best: float) -> str:
    """One of the words of the docstring of this file, `failed`, or `unclaimed`."""
    value, first = (problem.derivatives(x)[0] for x in (run.point, problem.start))
    tolerance = 1e-6 * abs(first - best) + 1e-8 * abs(best)
    # A fall over many orders of magnitude must be followed nearly to its end.
    near = value <= best + min(tolerance, max(1e-6, 1e-4 * abs(best)))
    if near:
        return "best" if run.claimed else "unclaimed"
    if not run.claimed:
        return "failed"
    return "other minimum" if is_minimum(problem, run.point) else "false success"


Table = dict[str, dict[str, dict[str, Any]]]
"""Entries by method, then by problem."""


def run_all(problems: list[Problem], methods: list[str], cache: Path | None) -> Table:
    """Grades, objectives and evaluations of every method on every problem."""
    table: Table = {name: {} for name in methods}
    for problem in problems:
        kept = None if cache is None else cache / f"{problem.name}.json"
        known = {} if kept is None or not kept.exists() else json.loads(kept.read_text())
        for name in methods:
            if name not in known:
                known[name] = run_method(problem, name)._asdict()
                known[name]["point"] = known[name]["point"].tolist()
                if kept is not None:
                    kept.write_text(json.dumps(known))
        runs = {name: Run(**known[name]) for name in methods}
        runs = {name: run._replace(point=np.asarray(run.point)) for name, run in runs.items()}
        _enter(table, problem, runs)
    return table


def _enter(table: Table, problem: Problem, runs: dict[str, Run]) -> None:
    """Grade the runs of one problem, and say so."""
    values = {name: problem.derivatives(run.point)[0] for name, run in runs.items()}
    best = min((value for value in values.values() if np.isfinite(value)), default=np.nan)
    for name, run in runs.items():
        entry = run._asdict()
        entry.update(point=run.point.tolist(), objective=values[name], best=best)
        entry["grade"] = grade(problem, run, best)
        table[name][problem.name] = entry
    words = ", ".join(f"{name} {table[name][problem.name]['grade']}" for name in runs)
    print(f"{problem.name} ({problem.start.size}): {words}", flush=True)


GRADES = ("best", "unclaimed", "other minimum", "false success", "failed")


def markdown(table: Table) -> str:
    """The table of grades."""
    lines = [
        "| method | best | best, not claimed | other minimum | false success | failed "
        "| median evaluations |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in table.items():
        grades = [entry["grade"] for entry in runs.values()]
        counts = " | ".join(str(grades.count(word)) for word in GRADES)
        evaluations = np.median([entry["evaluations"] for entry in runs.values()])
        lines.append(f"| {name} | {counts} | {evaluations:.0f} |")
    return "\n".join(lines)


LOOKS: dict[str, tuple[str, Any]] = {
    "TrustRegionNewton": (style.BLUE, "-"),
    "CubicNewton": (style.SKY, "-"),
    "NewtonCG": (style.GREEN, "-"),
    "LBFGSB": (style.ORANGE, "-"),
    "SciPy trust-exact": (style.BLUE, "--"),
    "SciPy trust-constr": (style.BLUE, ":"),
    "SciPy BFGS": (style.PURPLE, "--"),
    "SciPy L-BFGS-B": (style.ORANGE, "--"),
    "optimistix BFGS": (style.PURPLE, ":"),
}
"""Colours for kinds of methods; whole lines are ours."""


def draw_profile(tables: dict[str, Table], path: Path) -> None:
    """Performance profiles by evaluations: the share of problems solved within a multiple.

    A problem is solved where the best was reached, claimed or not. Reference: E. D. Dolan
    and J. J. Moré, Math. Program. 91, 201 (2002).
    """
    figure = style.new_figure(3.6)
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    multiples = np.geomspace(1, 100, 400)
    handles: dict[str, Any] = {}
    for panel, (title, table) in zip(panels, tables.items(), strict=True):
        style.prepare(panel)
        for name, shares in profiles(table, multiples).items():
            colour, line = LOOKS[name]
            (handles[name],) = panel.step(
                multiples, shares, where="post", color=colour, linestyle=line, linewidth=1.2
            )
        panel.set(xscale="log", xlim=(1, 100), ylim=(0, 1.0))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        style.heading(panel, title)
        style.label(panel, "evaluations over the fewest of any")
    style.label(panels[0], y="share of problems solved")
    style.legend(figure, list(handles.values()), list(handles))
    style.save(figure, path)


def profiles(table: Table, multiples: np.ndarray) -> dict[str, np.ndarray]:
    """For each method the share of problems solved within multiples of the fewest."""
    costs = np.array(
        [
            [
                entry["evaluations"] if entry["grade"] in ("best", "unclaimed") else np.inf
                for entry in runs.values()
            ]
            for runs in table.values()
        ]
    )
    least = np.where(np.isfinite(costs.min(axis=0)), costs.min(axis=0), 1.0)
    ratios = costs / np.maximum(least, 1.0)
    shares = np.mean(ratios[:, :, None] <= multiples, axis=1)
    return dict(zip(table, shares, strict=True))


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--picture", type=Path, help="file of the performance profiles")
    parser.add_argument("--json", type=Path, help="file of every run")
    parser.add_argument("--cache", type=Path, help="folder to keep programs and runs in")
    parser.add_argument("--names", nargs="*", help="only these problems")
    parser.add_argument("--methods", nargs="*", help="only these methods")
    parser.add_argument("--kinds", nargs="*", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if arguments.cache:
        arguments.cache.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(arguments.cache.resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    tables, texts = {}, []
    for kind in arguments.kinds:
        methods = [
            name for name in METHODS[kind] if not arguments.methods or name in arguments.methods
        ]
        problems = small_problems(kind == "bounded", arguments.names)
        title = f"{len(problems)} {kind} problems"
        tables[title] = run_all(problems, methods, arguments.cache)
        texts.append(f"{title}\n\n{markdown(tables[title])}")
    print("\n" + "\n\n".join(texts))
    print(
        f"\n{date.today().isoformat()}, {platform.machine()}, jax {jax.__version__}, "
        f"SciPy {scipy.__version__}, optimistix {optx.__version__}."
    )
    if arguments.picture:
        draw_profile(tables, arguments.picture)
    if arguments.json:
        arguments.json.write_text(json.dumps(tables))


if __name__ == "__main__":
    main()
