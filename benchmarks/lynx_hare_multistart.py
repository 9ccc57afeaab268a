"""The lynx-hare multi-start against the same fit by SciPy, in one run.

Both fit the same least-squares problem (log-normal noise of fixed scale 0.25, the priors
of the case as residuals, parameters on a logarithmic scale) from the same starts, with
the same tolerances of the solver (RK45 or Tsit5, 1e-8) and of the optimiser (1e-8). The
figures are wall times; ratios come from the least time of the repeats.

    python benchmarks/lynx_hare_multistart.py [--starts 4] [--repeats 3]
"""

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy
import scipy.integrate
import scipy.optimize

from simkit.config.reader import read_case
from simkit.config.schema import FitTable
from simkit.fitting.assembly import posterior_from_case
from simkit.fitting.optimisation import build_optimiser, choose_method
from simkit.fitting.posterior import Posterior
from simkit.fitting.starts import run_starts
from simkit.precision import use_double_precision


ROOT = Path(__file__).parent.parent
NOISE = 0.25
STEPS = 100
TOLERANCE = 1e-8


def build_posterior() -> Posterior:
    """The case with both noise scales fixed, so that it is a plain sum of squares."""
    overrides = ["fit.noise={}"]
    overrides += [f"data.observables.{name}.sd={NOISE}" for name in ("hare", "lynx")]
    return posterior_from_case(read_case(ROOT / "data/lynx_hare/case.toml", overrides))


def simkit_fit(posterior: Posterior, begin: np.ndarray) -> np.ndarray:
    """Objective of every start, by the compiled program of `simkit fit` and its method."""
    method, _ = choose_method(posterior)
    if method != "levenberg_marquardt":
        raise RuntimeError(f"the fit takes {method}, which is no least squares")
    optimiser = build_optimiser(FitTable(method=method, options={"rtol": TOLERANCE}))
    outcome = run_starts(posterior, jax.numpy.asarray(begin), STEPS, True, optimiser)
    return np.asarray(outcome.objective)


def scipy_residuals(x: np.ndarray, years: np.ndarray, pelts: np.ndarray) -> np.ndarray:
    """The same residuals, written out by hand."""
    growth, predation, death, conversion, prey, predator = np.exp(x)

    def slope(_, y):
        u, v = y
        return [(growth - predation * v) * u, (conversion * u - death) * v]

    solution = scipy.integrate.solve_ivp(
        slope, (1900.0, 1920.0), [prey, predator], "RK45", years, rtol=TOLERANCE, atol=TOLERANCE
    )
    if not solution.success or solution.y.shape[1] != len(years):
        return np.full(48, 1e6)
    model = (np.log(pelts) - np.log(np.maximum(solution.y.T, 1e-300))) / NOISE
    rates = [(growth - 1) / 0.5, (predation - 0.05) / 0.05]
    rates += [(death - 1) / 0.5, (conversion - 0.05) / 0.05]
    first = [np.log(prey / 10) + 1, np.log(predator / 10) + 1]
    return np.concatenate([model.T.ravel(), rates, first])


def scipy_fit(begin: np.ndarray, posterior: Posterior) -> np.ndarray:
    """Half the sum of squares of every start."""
    data = posterior.measurements
    arguments = (np.asarray(data.times[0]), np.asarray(data.values[0]))
    options: Any = {"xtol": TOLERANCE, "ftol": TOLERANCE, "gtol": TOLERANCE, "max_nfev": STEPS}
    return np.array(
        [
            scipy.optimize.least_squares(scipy_residuals, x, args=arguments, **options).cost
            for x in begin
        ]
    )


def least_time(function, repeats: int) -> tuple[float, np.ndarray]:
    """The shortest of some wall times in seconds, and the last value."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        value = function()
        times.append(time.perf_counter() - started)
    return min(times), value


def main() -> None:
    """Run both and print and write the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    use_double_precision()
    posterior = build_posterior()
    key = jax.random.key(0)
    begin = np.asarray(posterior.parameters.draw_starts(key, arguments.starts))

    started = time.perf_counter()
    simkit_fit(posterior, begin)
    first = time.perf_counter() - started
    ours, objective = least_time(lambda: simkit_fit(posterior, begin), arguments.repeats)
    theirs, cost = least_time(lambda: scipy_fit(begin, posterior), 1)

    # The objectives differ by the constants of the densities, which residuals leave out.
    at = jax.numpy.asarray(begin[0])
    half = 0.5 * float(np.sum(np.asarray(posterior.residuals(at)[0]) ** 2))
    constant = float(posterior.negative_log_posterior(at)) - half
    print_table(arguments.starts, first, ours, theirs, objective - constant, cost)


def print_table(
    count: int,
    first: float,
    ours: float,
    theirs: float,
    objective: np.ndarray,
    cost: np.ndarray,
) -> None:
    """Print the comparison as Markdown and keep it beside this file."""
    lowest = min(np.nanmin(objective), np.nanmin(cost))
    rows = [
        f"| | simkit | SciPy {scipy.__version__} | ratio |",
        "| --- | --- | --- | --- |",
        f"| wall time of {count} starts, s | {ours:.3f} | {theirs:.2f} | {theirs / ours:.0f} |",
        f"| the same with compilation, s | {first:.2f} | {theirs:.2f} | {theirs / first:.1f} |",
        f"| half sum of squares at the best | {np.nanmin(objective):.8f} "
        f"| {np.nanmin(cost):.8f} | |",
        f"| starts at the best (within 1e-3) | {np.sum(objective < lowest + 1e-3)} "
        f"| {np.sum(cost < lowest + 1e-3)} | |",
    ]
    machine = f"{platform.machine()}, jax {jax.__version__}, {jax.device_count()} CPU device"
    table = "\n".join(rows) + f"\n\n{date.today().isoformat()}, {machine}.\n"
    print(table)
    folder = ROOT / "results"
    folder.mkdir(exist_ok=True)
    (folder / "benchmark_lynx_hare.md").write_text(table)
    numbers = {"starts": count, "simkit": ours, "simkit_first": first, "scipy": theirs}
    (folder / "benchmark_lynx_hare.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main()
