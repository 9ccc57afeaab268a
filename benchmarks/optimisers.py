"""Minimisers on the small problems of CUTEst, against SciPy and optimistix, in one run.

The problems are those of the package sif2jax (a dependency of tests only) with at most 12
parameters: unconstrained ones, and ones with bounds on parameters. Every method starts
where CUTEst says, at its default settings with at most 2,000 iterations. A run counts as

- *best*: within 1e-6 (relative to the fall from the start, and 1e-8 of the size) of the
  lowest objective that any method of the run reached;
- *other minimum*: success was claimed at a point that fulfils the conditions of a local
  minimum of second order, but lies higher;
- *false success*: success was claimed, and it is neither.

    python benchmarks/optimisers.py [--picture profile.png] [--names ROSENBR BEALE]
"""

import argparse
import importlib
import json
import platform
import time
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

from solvers.optimisers.base import Minimisation, optimise, stop_names
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.quasi_newton import LBFGSB
from solvers.optimisers.truncated_newton import NewtonCG


LARGEST = 12
ITERATIONS = 2000


class Problem(NamedTuple):
    """A problem of CUTEst as plain functions of a vector."""

    name: str
    start: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    objective: Callable[..., Any]
    value: Callable[..., Any]
    gradient: Callable[..., Any]
    hessian: Callable[..., Any]

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
    seconds: float


def read_problem(raw: Any) -> Problem | None:
    """The problem as plain functions; `None` where sif2jax itself fails."""
    try:
        start, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, float), raw.y0))
        bounds = (-np.inf, np.inf)
        if getattr(raw, "bounds", None) is not None:
            bounds = tuple(ravel_pytree(bound)[0] for bound in raw.bounds)
        lower, upper = (np.broadcast_to(np.asarray(b, float), start.shape) for b in bounds)

        def objective(x: Any, args: Any = None) -> Any:
            del args
            return jnp.asarray(raw.objective(unravel(x), raw.args), float)

        # Many standard starts lie outside; the nearest point inside is the start for all.
        start = np.clip(np.asarray(start), lower, upper)
        value, gradient = jax.jit(objective), jax.jit(jax.grad(objective))
        hessian = jax.jit(jax.jacfwd(jax.grad(objective)))
        jax.block_until_ready([value(start), gradient(start), hessian(start)])
    except Exception as error:
        print(f"{raw.name} left out: {type(error).__name__}: {str(error)[:60]}", flush=True)
        return None
    return Problem(raw.name, start, lower, upper, objective, value, gradient, hessian)


def small_problems(bounded: bool, names: list[str] | None = None) -> list[Problem]:
    """The problems with at most 12 parameters that evaluate."""
    sif2jax = importlib.import_module("sif2jax")

    raw = (
        sif2jax.bounded_minimisation_problems
        if bounded
        else sif2jax.unconstrained_minimisation_problems
    )
    chosen = []
    for item in raw:
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(item.y0))
        if size <= LARGEST and (not names or item.name in names):
            chosen.append(read_problem(item))
    return [problem for problem in chosen if problem is not None]


def run_ours(problem: Problem, method: Any) -> Run:
    """A method of the house, or of optimistix."""
    started = time.perf_counter()
    question = Minimisation(problem.objective, problem.lower, problem.upper)
    found = optimise(question, method, problem.start, max_steps=ITERATIONS, throw=False)
    reason = stop_names()[int(found.stop._value)]
    count = found.statistics.get("function_evaluations", found.steps)
    seconds = time.perf_counter() - started
    return Run(np.asarray(found.value), bool(found.converged), reason, int(count), seconds)


def run_scipy(problem: Problem, method: str) -> Run:
    """A method of SciPy, with the same derivatives."""
    started = time.perf_counter()
    options: dict[str, Any] = {"maxiter": ITERATIONS}
    settings: dict[str, Any] = {}
    if method in ("trust-exact", "trust-constr"):
        settings["hess"] = lambda x: np.asarray(problem.hessian(x))
    if problem.bounded:
        bounds: Any = scipy.optimize.Bounds
        settings["bounds"] = bounds(problem.lower, problem.upper, True)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = scipy.optimize.minimize(
                lambda x: float(problem.value(x)),
                problem.start,
                method=method,
                jac=lambda x: np.asarray(problem.gradient(x)),
                options=options,
                **settings,
            )
    except (ValueError, np.linalg.LinAlgError) as error:
        seconds = time.perf_counter() - started
        return Run(problem.start, False, type(error).__name__, 0, seconds)
    seconds = time.perf_counter() - started
    # trust-constr reports success = True for its tolerances (status 1 and 2) alone.
    return Run(found.x, bool(found.success), str(found.status), int(found.nfev), seconds)


UNCONSTRAINED = {
    "TrustRegionNewton": lambda p: run_ours(p, TrustRegionNewton()),
    "CubicNewton": lambda p: run_ours(p, CubicNewton()),
    "NewtonCG": lambda p: run_ours(p, NewtonCG()),
    "LBFGSB": lambda p: run_ours(p, LBFGSB()),
    "SciPy trust-exact": lambda p: run_scipy(p, "trust-exact"),
    "SciPy L-BFGS-B": lambda p: run_scipy(p, "L-BFGS-B"),
    "optimistix BFGS": lambda p: run_ours(p, optx.BFGS(rtol=1e-8, atol=1e-8)),
}
BOUNDED = {
    "TrustRegionNewton": UNCONSTRAINED["TrustRegionNewton"],
    "CubicNewton": UNCONSTRAINED["CubicNewton"],
    "NewtonCG": UNCONSTRAINED["NewtonCG"],
    "LBFGSB": UNCONSTRAINED["LBFGSB"],
    "SciPy trust-constr": lambda p: run_scipy(p, "trust-constr"),
    "SciPy L-BFGS-B": lambda p: run_scipy(p, "L-BFGS-B"),
}


def is_minimum(problem: Problem, x: np.ndarray) -> bool:
    """Whether a point fulfils the conditions of a local minimum, to rounding.

    The Newton step on the free parameters promises less than 1e-8 of the objective's
    fall from the start, or no more than its rounding, and no curvature is negative.
    """
    gradient, hessian = np.asarray(problem.gradient(x)), np.asarray(problem.hessian(x))
    value, first = float(problem.value(x)), float(problem.value(problem.start))
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
    value, first = float(problem.value(run.point)), float(problem.value(problem.start))
    tolerance = 1e-6 * abs(first - best) + 1e-8 * abs(best)
    # A fall over many orders of magnitude must be followed nearly to its end.
    near = value <= best + min(tolerance, max(1e-6, 1e-4 * abs(best)))
    if near:
        return "best" if run.claimed else "unclaimed"
    if not run.claimed:
        return "failed"
    return "other minimum" if is_minimum(problem, run.point) else "false success"


def run_all(problems: list[Problem], methods: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Grades, objectives, evaluations and times: by method, then by problem."""
    table: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for problem in problems:
        runs = {name: run(problem) for name, run in methods.items()}
        values = {name: float(problem.value(run.point)) for name, run in runs.items()}
        finite = [value for value in values.values() if np.isfinite(value)]
        best = min(finite, default=np.nan)
        for name, run in runs.items():
            entry = run._asdict()
            entry.update(
                point=run.point.tolist(),
                objective=values[name],
                best=best,
                grade=grade(problem, run, best),
            )
            table[name][problem.name] = entry
        # Each problem compiles programs of its own that nothing else will use.
        jax.clear_caches()
        words = ", ".join(f"{name} {table[name][problem.name]['grade']}" for name in methods)
        print(f"{problem.name} ({problem.start.size}): {words}", flush=True)
    return table


GRADES = ("best", "unclaimed", "other minimum", "false success", "failed")


def markdown(table: dict[str, dict[str, Any]]) -> str:
    """The table of grades."""
    lines = [
        "| method | best | best, not claimed | other minimum | false success | failed "
        "| median evaluations | wall time, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in table.items():
        grades = [entry["grade"] for entry in runs.values()]
        counts = " | ".join(str(grades.count(word)) for word in GRADES)
        evaluations = np.median([entry["evaluations"] for entry in runs.values()])
        seconds = sum(entry["seconds"] for entry in runs.values())
        lines.append(f"| {name} | {counts} | {evaluations:.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def draw_profile(tables: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Performance profiles by evaluations.

    Reference: E. D. Dolan and J. J. Moré, Math. Program. 91, 201 (2002).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(6 * len(tables), 4.2), squeeze=False)
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        costs = np.array(
            [
                [
                    entry["evaluations"] if entry["grade"] in ("best", "unclaimed") else np.inf
                    for entry in runs.values()
                ]
                for runs in table.values()
            ]
        )
        least = costs.min(axis=0)
        ratios = costs[:, np.isfinite(least)] / np.maximum(least[np.isfinite(least)], 1)
        taus = np.geomspace(1, 1000, 400)
        for name, ratio in zip(table, ratios, strict=True):
            share = np.mean(ratio[:, None] <= taus[None, :], axis=0)
            ax.step(taus, share, where="post", label=name)
        ax.set(xscale="log", xlim=(1, 1000), ylim=(0, 1.01), title=title)
        ax.set(xlabel="evaluations over the fewest of any", ylabel="share of problems solved")
        ax.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--picture", type=Path, help="file of the performance profiles")
    parser.add_argument("--json", type=Path, help="file of every run")
    parser.add_argument("--names", nargs="*", help="only these problems")
    parser.add_argument("--methods", nargs="*", help="only these methods")
    parser.add_argument("--kinds", nargs="*", default=["unconstrained", "bounded"])
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    tables = {}
    for kind, methods in (("unconstrained", UNCONSTRAINED), ("bounded", BOUNDED)):
        if kind not in arguments.kinds:
            continue
        if arguments.methods:
            methods = {name: methods[name] for name in arguments.methods if name in methods}
        problems = small_problems(kind == "bounded", arguments.names)
        tables[f"{len(problems)} {kind} problems"] = run_all(problems, methods)
    for title, table in tables.items():
        print(f"\n{title}\n\n{markdown(table)}")
    print(
        f"\n{date.today().isoformat()}, {platform.machine()}, jax {jax.__version__}, ", end=""
    )
    print(f"SciPy {scipy.__version__}, {jax.device_count()} CPU device; wall times compile.")
    if arguments.picture:
        draw_profile(tables, arguments.picture)
    if arguments.json:
        arguments.json.write_text(json.dumps(tables))


if __name__ == "__main__":
    main()
