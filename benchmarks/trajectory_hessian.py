"""Hessians through trajectories: simkit against the best that diffrax can be made to do.

Two fits: Lotka-Volterra with 4 parameters, and a network of mass-action reactions with 50.
Each derivative is compiled once and timed; the least of the repeats counts. Run as
`python benchmarks/trajectory_hessian.py`.
"""

import datetime
import platform
import time
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from solvers.ensemble.members import ensemble
from solvers.integrators.deterministic import Tsit5
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.base import AbstractODE, State, parameter
from systems.populations import LotkaVolterra


REPEATS = 7
TOLERANCE = 1e-7
MAX_STEPS = 256


class MassAction(AbstractODE):
    """Twelve species and fifty bimolecular reactions with rates `rates`."""

    rates: Any = parameter()
    states = tuple(State(f"species_{i}", 1.0) for i in range(12))

    def vector_field(self, t: Any, y: Any, inputs: Any) -> Any:
        """Mass action with saturation, as rates times concentrations."""
        del t, inputs
        return jnp.asarray(STOICHIOMETRY) @ (
            self.rates * y[FIRST] * y[SECOND] / (1 + y[SECOND])
        )


_GENERATOR = np.random.default_rng(5)
FIRST = _GENERATOR.integers(0, 12, 50)
SECOND = _GENERATOR.integers(0, 12, 50)
TARGET = _GENERATOR.integers(0, 12, 50)
STOICHIOMETRY = np.zeros((12, 50))
np.add.at(STOICHIOMETRY, (FIRST, np.arange(50)), -1.0)
np.add.at(STOICHIOMETRY, (TARGET, np.arange(50)), 1.0)
START = _GENERATOR.uniform(0.5, 1.5, 12)
RATES = _GENERATOR.uniform(0.1, 1.0, 50)


def lotka_volterra(p: Any) -> LotkaVolterra:
    """The system with its four parameters in one vector."""
    return LotkaVolterra(prey_growth=p[0], predation=p[1], predator_death=p[2], conversion=p[3])


PROBLEMS = {
    "Lotka-Volterra, 4 parameters": (
        lotka_volterra,
        np.array([0.55, 0.028, 0.80, 0.024]),
        np.array([30.0, 4.0]),
        np.linspace(0.0, 10.0, 41),
    ),
    "mass action, 50 parameters": (
        lambda p: MassAction(rates=p),
        RATES,
        START,
        np.linspace(0.0, 5.0, 41),
    ),
}


def simkit_objective(make: Any, start: Any, times: Any, data: Any) -> Any:
    """The sum of squares through simkit's default gradient."""
    method = Tsit5(rtol=TOLERANCE, atol=TOLERANCE, max_steps=MAX_STEPS)

    def objective(p: Any) -> Any:
        problem = InitialValueProblem(make(p), times[0], times[-1], start)
        states = solve(problem, method, save_at=times, throw=False).states
        return 0.5 * jnp.sum(jnp.square(states - data))

    return objective


def kernel_objective(make: Any, start: Any, times: Any, data: Any) -> Any:
    """The same through the engine that `ensemble` chooses, for one member."""
    method = Tsit5(rtol=TOLERANCE, atol=TOLERANCE, max_steps=MAX_STEPS)

    def objective(p: Any) -> Any:
        problem = InitialValueProblem(make(p), times[0], times[-1], start)
        found = ensemble(problem, method, initial_states=start[None], save_at=times)
        return 0.5 * jnp.sum(jnp.square(found.states[0] - data))

    return objective


def diffrax_objective(make: Any, start: Any, times: Any, data: Any, adjoint: Any) -> Any:
    """The same through diffrax with an adjoint chosen by hand."""

    def objective(p: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, system: system.vector_field(t, y, {})),
            diffrax.Tsit5(),
            t0=times[0],
            t1=times[-1],
            dt0=None,
            y0=start,
            args=make(p),
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
            adjoint=adjoint,
            max_steps=MAX_STEPS,
            throw=False,
        )
        return 0.5 * jnp.sum(jnp.square(jnp.asarray(solution.ys) - data))

    return objective


def product(gradient: Any, direction: Any) -> Any:
    """A Hessian-vector product from a gradient, forward over it."""
    return lambda p: jax.jvp(gradient, (p,), (direction,))[1]


def measure(function: Any, p: Any) -> tuple[float, float, Any]:
    """Seconds to the first result, seconds of the fastest call after it, the result."""
    begun = time.perf_counter()
    compiled = jax.jit(function)
    result = jax.block_until_ready(compiled(p))
    first = time.perf_counter() - begun
    calls = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        for _ in range(5):
            jax.block_until_ready(compiled(p))
        calls.append((time.perf_counter() - begun) / 5)
    return first, min(calls), result


def rows_for(make: Any, p: Any, start: Any, times: Any) -> dict[str, dict[str, Any]]:
    """Every way to every derivative: name of the derivative, name of the way."""
    data = solve(
        InitialValueProblem(make(1.05 * p), times[0], times[-1], start),
        Tsit5(rtol=1e-10, atol=1e-10),
        save_at=times,
    ).states
    ours = simkit_objective(make, start, times, data)
    kernel = kernel_objective(make, start, times, data)
    forward = diffrax_objective(make, start, times, data, diffrax.ForwardMode())
    direct = diffrax_objective(make, start, times, data, diffrax.DirectAdjoint())
    reverse = diffrax_objective(make, start, times, data, diffrax.RecursiveCheckpointAdjoint())
    direction = jnp.cos(jnp.arange(p.size))
    return {
        "gradient": {
            "simkit": jax.grad(ours),
            "simkit, as an ensemble of one": jax.grad(kernel),
            "diffrax, RecursiveCheckpointAdjoint": jax.grad(reverse),
            "diffrax, ForwardMode": jax.jacfwd(forward),
        },
        "Hessian-vector product": {
            "simkit": product(jax.grad(ours), direction),
            "simkit, as an ensemble of one": product(jax.grad(kernel), direction),
            "diffrax, DirectAdjoint": product(jax.grad(direct), direction),
            "diffrax, ForwardMode": product(jax.jacfwd(forward), direction),
        },
        "Hessian": {
            "simkit": jax.jacfwd(jax.grad(ours)),
            "simkit, as an ensemble of one": jax.jacfwd(jax.grad(kernel)),
            "diffrax, DirectAdjoint": jax.jacfwd(jax.grad(direct)),
            "diffrax, ForwardMode": jax.jacfwd(jax.jacfwd(forward)),
        },
    }


def main() -> None:
    """Print the table."""
    jax.config.update("jax_enable_x64", True)
    print("| problem | derivative | way | ms | ratio | first call, s | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for title, (make, *arrays) in PROBLEMS.items():
        p, start, times = map(jnp.asarray, arrays)
        for derivative, ways in rows_for(make, p, start, times).items():
            found = {name: measure(way, p) for name, way in ways.items()}
            _, ours, reference = found["simkit"]
            for name, (first, seconds, result) in found.items():
                scale = float(jnp.max(jnp.abs(reference)))
                error = float(jnp.max(jnp.abs(result - reference))) / scale
                print(
                    f"| {title} | {derivative} | {name} | {1e3 * seconds:.3f} | "
                    f"{seconds / ours:.2f} | {first:.1f} | {error:.1e} |"
                )
    print(f"\n{datetime.date.today()}, {platform.machine()}, jax {jax.__version__}.")


if __name__ == "__main__":
    main()
