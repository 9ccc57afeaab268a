"""NIST's certified nonlinear regressions: our Levenberg-Marquardt against others, in one run.

All 27 data sets from both starts, in double precision, with Jacobians by automatic
differentiation. Ours runs at its default settings; optimistix's at rtol = atol = 1e-10 and
10,000 steps; SciPy's with all tolerances at 1e-15; fides' with its relative one there, and
1,000 steps. Digits are those of the worst parameter. A false success is a run that claims to
have converged with fewer than 4 digits; evaluations are those of the residuals. Times are
wall times: all 54 runs after compilation, one after another, and the compilation of all
programs, which optimises least. fides runs where it is installed.

Ours also runs all 54 starts together, with the 27 models padded to one shape and chosen by
a switch: as one `vmap` with a lane for each start, and as one multi-start
(`optimise_many`), whose lanes take the next start when one is through. In the latter the
number of the data set travels as a parameter of which nothing is a function, and its time
is one for compiling and running.

    python benchmarks/nist.py [--only BoxBOD MGH09]
"""

import argparse
import importlib.util
import logging
import math
import platform
import sys
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


sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from solvers.optimisers.base import LeastSquares, optimise
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.optimisers.multistart import optimise_many
from tests.helpers_nist import MODELS, Regression, read, stacked


LEAST_OPTIMISED: Any = {"xla_backend_optimization_level": 0}
"""With all optimisation, 27 models in one program take very long to compile."""


class Run(NamedTuple):
    """One start of one data set."""

    value: np.ndarray
    claimed: bool
    evaluations: int


Solver = Callable[[np.ndarray], Run]
Maker = Callable[[Regression], Solver]


def ours(regression: Regression) -> Solver:
    """Our method at default settings, compiled for one data set."""
    problem = LeastSquares(regression.residuals)

    @jax.jit
    def run(start: Any) -> Any:
        found = optimise(problem, LevenbergMarquardt(), start, throw=False)
        return found.value, found.converged, found.statistics["function_evaluations"]

    lowered = run.lower(jnp.asarray(regression.starts[0]))
    compiled = lowered.compile(compiler_options=LEAST_OPTIMISED)

    def solve(start: np.ndarray) -> Run:
        value, good, count = compiled(jnp.asarray(start))
        return Run(np.asarray(value), bool(good), int(count))

    return solve


def optimistix(regression: Regression) -> Solver:
    """Its Levenberg-Marquardt; each step evaluates the residuals once."""

    @jax.jit
    def run(start: Any) -> Any:
        solver = optx.LevenbergMarquardt(rtol=1e-10, atol=1e-10)
        solution = optx.least_squares(
            regression.residuals, solver, start, max_steps=10_000, throw=False
        )
        good = solution.result == optx.RESULTS.successful
        return solution.value, good, solution.stats["num_steps"]

    lowered = run.lower(jnp.asarray(regression.starts[0]))
    compiled = lowered.compile(compiler_options=LEAST_OPTIMISED)

    def solve(start: np.ndarray) -> Run:
        value, good, steps = compiled(jnp.asarray(start))
        return Run(np.asarray(value), bool(good), int(steps))

    return solve


def compiled_functions(regression: Regression) -> tuple[Any, Any]:
    """Residuals and Jacobian for programs that call back from outside."""
    shape = jax.ShapeDtypeStruct(regression.certified.shape, jnp.float64)
    residuals = jax.jit(regression.residuals).lower(shape).compile()
    jacobian = jax.jit(jax.jacfwd(regression.residuals)).lower(shape).compile()
    return (
        lambda b: np.asarray(residuals(jnp.asarray(b))),
        lambda b: np.asarray(jacobian(jnp.asarray(b))),
    )


def scipys(method: str) -> Maker:
    """SciPy's `least_squares` by one of its methods."""
    options: dict[str, Any] = {"max_nfev": 10_000, "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    if method == "trf":
        options["x_scale"] = "jac"

    def make(regression: Regression) -> Solver:
        residuals, jacobian = compiled_functions(regression)

        def solve(start: np.ndarray) -> Run:
            try:
                found = scipy.optimize.least_squares(
                    residuals, start, jacobian, method=method, **options
                )
            except ValueError:
                # It raises where residuals are not finite.
                return Run(np.full_like(start, np.nan), False, 0)
            return Run(found.x, bool(found.success), int(found.nfev))

        return solve

    return make


def fides_method(regression: Regression) -> Solver:
    """Fides with the Gauss-Newton Hessian in the whole space."""
    import fides  # pyright: ignore[reportMissingImports]

    residuals, jacobian = compiled_functions(regression)

    def objective(b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        values, columns = residuals(b), jacobian(b)
        return 0.5 * values @ values, columns.T @ values, columns.T @ columns

    def solve(start: np.ndarray) -> Run:
        options = {"maxiter": 1000, "fatol": 0, "frtol": 1e-15, "gatol": 1e-15, "grtol": 0}
        infinite = np.full_like(start, np.inf)
        optimiser = fides.Optimizer(
            objective,
            ub=infinite,
            lb=-infinite,
            options={**options, "subspace_solver": fides.SubSpaceDim.FULL},
            verbose=logging.CRITICAL,
        )
        _, value, _, _ = optimiser.minimize(start)
        return Run(np.asarray(value), bool(optimiser.converged), int(optimiser.iteration) + 1)

    return solve


def measure(name: str, make: Maker, regressions: list[Regression]) -> str:
    """One row of the table."""
    compiling = running = 0.0
    runs = []
    for regression in regressions:
        begin = time.perf_counter()
        solve = make(regression)
        compiling += time.perf_counter() - begin
        for start in regression.starts:
            begin = time.perf_counter()
            runs.append(solve(start))
            running += time.perf_counter() - begin
    return row(name, regressions, runs, running, compiling)


def measure_together(name: str, regressions: list[Regression]) -> str:
    """The row of all starts as one program, padded to one shape."""
    residuals, starts, index = stacked(regressions)
    problem = LeastSquares(residuals)

    @jax.jit
    @jax.vmap
    def run(start: Any, i: Any) -> Any:
        found = optimise(problem, LevenbergMarquardt(), start, i, throw=False)
        return found.value, found.converged, found.statistics["function_evaluations"]

    begin = time.perf_counter()
    lowered = run.lower(jnp.asarray(starts), jnp.asarray(index))
    compiled = lowered.compile(compiler_options=LEAST_OPTIMISED)
    compiling = time.perf_counter() - begin
    begin = time.perf_counter()
    lanes = [np.asarray(each) for each in compiled(jnp.asarray(starts), jnp.asarray(index))]
    running = time.perf_counter() - begin
    sizes = [regressions[i].certified.size for i in index]
    runs = [
        Run(value[:size], bool(good), int(count))
        for size, value, good, count in zip(sizes, *lanes, strict=True)
    ]
    return row(name, regressions, runs, running, compiling)


def measure_many(name: str, regressions: list[Regression]) -> str:
    """The row of all starts as one multi-start of several programs with a queue."""
    residuals, starts, index = stacked(regressions)

    def chosen(y: Any, _: Any) -> Any:
        which = jax.lax.stop_gradient(y["set"]).astype(int)
        return residuals(y["parameters"], which)

    begin = time.perf_counter()
    jax.config.update("jax_disable_most_optimizations", True)
    found = optimise_many(
        LeastSquares(chosen),
        LevenbergMarquardt(),
        {"parameters": starts, "set": index},
        max_steps=1000,
    )
    jax.config.update("jax_disable_most_optimizations", False)
    seconds = time.perf_counter() - begin
    runs = [
        Run(value[: regressions[i].certified.size], bool(good), int(count))
        for value, good, count, i in zip(
            found.value["parameters"],
            found.converged,
            found.statistics["function_evaluations"],
            index,
            strict=True,
        )
    ]
    return row(name, regressions, runs, seconds, math.nan)


def row(
    name: str, regressions: list[Regression], runs: list[Run], running: float, compiling: float
) -> str:
    """One row of the table, from both starts of each regression in turn."""
    digits = np.asarray([regressions[i // 2].digits(run.value) for i, run in enumerate(runs)])
    reached = [int(np.sum(digits >= least)) for least in (6, 7, 10)]
    false = sum(run.claimed and few for run, few in zip(runs, digits < 4, strict=True))
    evaluations = sum(run.evaluations for run in runs)
    cells = [name, *reached, false, f"{evaluations:,}", f"{running:.2f}"]
    cells.append("" if math.isnan(compiling) else f"{compiling:.1f}")
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="NIST's regressions by several methods.")
    parser.add_argument("--only", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    names = parser.parse_args().only
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    regressions = [read(name) for name in names]
    print(
        f"NIST StRD, {len(regressions)} data sets, {2 * len(regressions)} starts. "
        f"{date.today().isoformat()}, {processor()}, jax {jax.__version__}, "
        f"optimistix {optx.__version__}, SciPy {scipy.__version__}.\n"
    )
    print(
        "| method | ≥ 6 digits | ≥ 7 | ≥ 10 | false successes | residual evaluations "
        "| time of all (s) | compile (s) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: dict[str, Maker] = {
        "simkit LevenbergMarquardt": ours,
        "optimistix LevenbergMarquardt": optimistix,
        "SciPy trf": scipys("trf"),
        "SciPy lm (MINPACK)": scipys("lm"),
    }
    if importlib.util.find_spec("fides") is not None:
        rows["fides"] = fides_method
    for name, make in rows.items():
        print(measure(name, make, regressions), flush=True)
    print(measure_many("simkit, all starts as one multi-start", regressions), flush=True)
    print(measure_together("simkit, all starts as one vmap", regressions), flush=True)
    if "fides" not in rows:
        print("\nfides is not installed here, so it did not run.")


if __name__ == "__main__":
    main()
