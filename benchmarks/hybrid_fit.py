"""A hybrid neural fit by first and by second order: loss against time, in one run.

Lotka-Volterra whose interaction is not known: prey grow, predators die, and a network of
two hidden layers of 32 neurons (1,218 weights) adds what they do to each other. It is
fitted to noisy states of several simulated populations, 384 numbers.

Every method starts from the same weights. A point of a curve is one compiled program that
runs so many steps and keeps the best point; its time is the processor's for the whole
program (the least of three if they are short) without compilation, which is shown apart.
The processor's time rather than the clock's, as others may work on the machine. Adam is run
with several learning rates, and the best of them is what the others are measured against.

Solves are Tsit5 at 1e-5. Gradients of methods of first order are `Checkpointed`, the faster
here; Jacobians and products with Hessian or Gauss-Newton matrix need a solve with all
derivatives, the default. Needs optax.

    python benchmarks/hybrid_fit.py [--picture FILE] [--only NAME ...] [--steps 5000]

With `--keep FILE` each curve is kept there as it is done, and the same command goes on.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from simkit.plots import style
from simkit.precision import use_double_precision
from solvers import Checkpointed, Forward, InitialValueProblem, Tsit5, solve
from solvers.optimisers.base import LeastSquares, Minimisation, optimise, stop_names
from solvers.optimisers.composite import Composite
from solvers.optimisers.diagonal import AdaHessian, Sophia
from solvers.optimisers.first_order import Optax
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.optimisers.natural_gradient import NaturalGradient
from solvers.optimisers.quasi_newton import LBFGSB
from solvers.optimisers.truncated_newton import NewtonCG
from systems.neural import HybridVectorField
from systems.populations import LotkaVolterra


TIMES = np.linspace(0.25, 8.0, 32)
POPULATIONS = 6
NOISE = (1.5, 1.0)
METHOD = Tsit5(rtol=1e-5, atol=1e-5, max_steps=64)
LEARNING_RATES = (1e-2, 3e-2, 1e-1)
REPEATS = 3


class Fit(NamedTuple):
    """The fit: weights at the start, residuals by the kind of gradient, loss of the truth."""

    start: Array
    residuals: Callable[[Any], Callable[[Array, Any], Array]]
    truth: float


class Curve(NamedTuple):
    """Steps, seconds and losses of one method, the time to compile it, why it stopped."""

    name: str
    steps: list[int]
    seconds: list[float]
    losses: list[float]
    compilation: float
    stop: str


def states(system: Any, start: Array, method: Any, gradient: Any) -> Array:
    problem = InitialValueProblem(system, 0.0, TIMES[-1], start)
    return solve(problem, method, save_at=TIMES, gradient=gradient, throw=False).states


def build_fit() -> Fit:
    """Simulated data, and a network drawn at random beside the known part of the law."""
    first, second, third = jax.random.split(jax.random.key(5), 3)
    low, high = jnp.log(8.0), jnp.log(60.0)
    starts = jnp.exp(jax.random.uniform(first, (POPULATIONS, 2), minval=low, maxval=high))
    exact = jax.vmap(lambda y: states(LotkaVolterra(), y, Tsit5(), None))(starts)
    noise = jnp.broadcast_to(jnp.asarray(NOISE), exact.shape)
    seen = exact + noise * jax.random.normal(second, exact.shape)
    law = LotkaVolterra(predation=0.0, conversion=0.0)
    hybrid = HybridVectorField.make(law, key=third, magnitudes=(30.0, 20.0))
    weights, rest = eqx.partition(hybrid.network, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(weights)

    def residuals(gradient: Any) -> Callable[[Array, Any], Array]:
        def of(y: Array, args: Any) -> Array:
            del args
            network = eqx.combine(unravel(y), rest)
            system = eqx.tree_at(lambda h: h.network, hybrid, network)
            model = jax.vmap(lambda start: states(system, start, METHOD, gradient))(starts)
            return jnp.ravel((model - seen) / noise) / np.sqrt(seen.size)

        return of

    misfit = jnp.ravel((exact - seen) / noise)
    return Fit(flat, residuals, float(0.5 * jnp.mean(misfit**2)))


def gauss_newton_product(fit: Fit) -> Callable[[Array, Any], Callable[[Array], Array]]:
    """Products with J^T J, for `NewtonCG`."""

    def at(y: Array, args: Any) -> Callable[[Array], Array]:
        _, push = jax.linearize(lambda y: fit.residuals(None)(y, args), y)
        pull = jax.linear_transpose(push, y)
        return lambda v: pull(push(v))[0]

    return at


def second_order(fit: Fit) -> dict[str, tuple[Any, Any, int]]:
    """Problem, method and most steps, by name."""
    everything = Composite(fit.residuals(None))
    reverse = Composite(fit.residuals(Checkpointed()))
    products = NewtonCG(curvature=gauss_newton_product(fit))
    key = jax.random.key(1)
    return {
        "NaturalGradient": (
            Minimisation(everything),
            NaturalGradient(objective=everything),
            100,
        ),
        "NewtonCG, Gauss-Newton": (Minimisation(everything), products, 100),
        "NewtonCG, Hessian": (Minimisation(everything), NewtonCG(), 100),
        "LevenbergMarquardt": (
            LeastSquares(fit.residuals(Forward())),
            LevenbergMarquardt(acceleration=0.0, newton_limit=0),
            40,
        ),
        "LBFGSB": (Minimisation(reverse), LBFGSB(), 2000),
        "AdaHessian": (Minimisation(everything), AdaHessian(key=key, learning_rate=0.01), 1000),
        "Sophia": (Minimisation(everything), Sophia(key=key, learning_rate=1e-3), 3000),
    }


def first_order(fit: Fit, steps: int) -> dict[str, tuple[Any, Any, int]]:
    """Adam with several learning rates."""
    import optax

    problem = Minimisation(Composite(fit.residuals(Checkpointed())))
    return {f"Adam, {r:g}": (problem, Optax(rule=optax.adam(r)), steps) for r in LEARNING_RATES}


def ladder(most: int) -> list[int]:
    """Numbers of steps at which a curve is measured; closer where steps are few."""
    density = 25 if most <= 200 else 4
    steps = np.unique(np.round(np.geomspace(1, most, 1 + int(density * np.log10(most)))))
    return [int(step) for step in steps]


def measure(name: str, problem: Any, method: Any, most: int, start: Array) -> Curve:
    """The curve of one method."""

    @eqx.filter_jit
    def run(y: Array, steps: Array) -> Any:
        return optimise(problem, method, y, max_steps=steps, throw=False)  # pyright: ignore

    begun = time.process_time()
    compiled = run.lower(start, jnp.asarray(1)).compile()
    compilation = time.process_time() - begun

    def timed(steps: int) -> tuple[float, Any]:
        seconds = []
        result: Any = None
        while sum(seconds) < 1.0 and len(seconds) < REPEATS:
            begun = time.process_time()
            result = jax.block_until_ready(compiled(start, jnp.asarray(steps)))
            seconds.append(time.process_time() - begun)
        return min(seconds), result

    curve = Curve(name, [], [], [], compilation, "")
    stop = "nonlinear_max_steps_reached"
    for steps in ladder(most):
        seconds, result = timed(steps)
        curve.steps.append(int(result.steps))
        curve.seconds.append(seconds)
        curve.losses.append(float(result.objective))
        stop = stop_names()[int(result.stop._value)]
        if int(result.steps) < steps:
            break
    print(
        f"{name}: {curve.losses[-1]:.5g} after {curve.seconds[-1]:.2f} s ({stop})", flush=True
    )
    return curve._replace(stop=stop)


def table(curves: Sequence[Curve], truth: float) -> str:
    """The comparison as Markdown."""
    adams = [curve for curve in curves if curve.name.startswith("Adam")]
    best = min(adams, key=lambda curve: curve.losses[-1])
    target, seconds = best.losses[-1], best.seconds[-1]
    lines = [
        "| method | steps | seconds | loss | steps to Adam's loss | seconds | "
        "Adam's time / this | compilation, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for curve in curves:
        there = next((i for i, loss in enumerate(curve.losses) if loss <= target), None)
        reached = ["-", "-", "-"]
        if there is not None:
            ratio = seconds / curve.seconds[there]
            reached = [str(curve.steps[there]), f"{curve.seconds[there]:.2f}", f"{ratio:.1f}"]
        cells = [curve.name, str(curve.steps[-1]), f"{curve.seconds[-1]:.2f}"]
        cells += [f"{curve.losses[-1]:.4f}", *reached, f"{curve.compilation:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    lines += [
        "",
        f"Adam's loss is {target:.4f} ({best.name}, {best.steps[-1]} steps, {seconds:.2f} s); "
        f"the true law has {truth:.4f}. {date.today().isoformat()}, {machine}.",
    ]
    return "\n".join(lines)


def draw(curves: Sequence[Curve], truth: float, file: Path) -> None:
    """Loss against steps and against time, all logarithmic; of Adam the best rate alone."""
    adams = [curve for curve in curves if curve.name.startswith("Adam,")]
    best = min(adams, key=lambda curve: curve.losses[-1])
    shown = [best, *(curve for curve in curves if curve not in adams)]
    figure = style.new_figure(3.4)
    panels = figure.subplots(1, 2, sharey=True)
    handles = []
    for curve, (colour, line) in zip(shown, LOOKS, strict=False):
        look: Any = {"color": colour, "linestyle": line, "linewidth": 1.3}
        handles.append(panels[0].plot(curve.steps, curve.losses, **look)[0])
        panels[1].plot(curve.seconds, curve.losses, **look)
    for panel in panels:
        style.prepare(panel)
        panel.set(xscale="log", yscale="log")
        truths = panel.axhline(truth, color=style.GREY, linewidth=0.8, linestyle=":")
    style.label(panels[0], "steps", "half the mean square of residuals over noise")
    style.label(panels[1], "processor time without compilation, s")
    style.legend(figure, [*handles, truths], [*(c.name for c in shown), "the true law"])
    style.save(figure, file)


LOOKS: tuple[tuple[str, Any], ...] = (
    (style.BLACK, "--"),
    (style.BLUE, "-"),
    (style.VERMILLION, "-"),
    (style.ORANGE, "-"),
    (style.GREEN, "-"),
    (style.SKY, "-"),
    (style.PURPLE, "-"),
    (style.PURPLE, "--"),
)
"""Adam's, and those of the others in turn."""


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--picture", type=Path, help="draw loss against time to this file")
    parser.add_argument("--keep", type=Path, help="file of finished curves, to go on from")
    parser.add_argument("--only", nargs="+", help="methods beside Adam (default: all)")
    parser.add_argument("--steps", type=int, default=5000, help="steps of Adam")
    arguments = parser.parse_args()
    use_double_precision()
    fit = build_fit()
    methods = second_order(fit)
    unknown = sorted(set(arguments.only or ()) - set(methods))
    if unknown:
        parser.error(f"there is no method {unknown[0]!r}; there are {', '.join(methods)}")
    chosen = {name: methods[name] for name in arguments.only or methods}
    keep, kept = arguments.keep, {}
    if keep is not None and keep.exists():
        kept = json.loads(keep.read_text())
    curves = []
    for name, question in (first_order(fit, arguments.steps) | chosen).items():
        if name not in kept:
            kept[name] = measure(name, *question, fit.start)
            if keep is not None:
                keep.write_text(json.dumps(kept))
        curves.append(Curve(*kept[name]))
    print()
    print(table(curves, fit.truth))
    if arguments.picture is not None:
        draw(curves, fit.truth, arguments.picture)


if __name__ == "__main__":
    main()
