"""Systems with known answers, systems that fail, and stiff systems from the literature."""

import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.gradients import AbstractGradient, Forward
from solvers.integrators.base import AbstractMethod
from solvers.problem import InitialValueProblem
from solvers.solution import Solution
from solvers.solve import solve
from systems.base import (
    AbstractODE,
    AbstractSDE,
    Input,
    Interpretation,
    NoiseKind,
    State,
    parameter,
    replace_parameters,
)


class KnownAnswers(AbstractODE):
    """Decay, logistic growth and an oscillator side by side; `exact_answers` solves it."""

    decay: Any = parameter(0.8)
    growth: Any = parameter(1.3)
    capacity: Any = parameter(2.0)
    frequency: Any = parameter(1.7)
    states = (
        State("decaying", 1.0),
        State("growing", 0.2),
        State("position", 1.0),
        State("velocity", 0.5),
    )

    def vector_field(self, t, y, inputs):
        del t, inputs
        decaying, growing, position, velocity = y
        return jnp.stack(
            [
                -self.decay * decaying,
                self.growth * growing * (1 - growing / self.capacity),
                velocity,
                -(self.frequency**2) * position,
            ]
        )


PARAMETERS = ("decay", "growth", "capacity", "frequency")
VALUES = jnp.asarray([0.8, 1.3, 2.0, 1.7])
START = jnp.asarray([1.0, 0.2, 1.0, 0.5])


def exact_answers(values, start, t):
    """The states of `KnownAnswers` at the time `t`."""
    decay, growth, capacity, frequency = values
    decaying, growing, position, velocity = start
    grown = growing * jnp.exp(growth * t)
    phase = frequency * t
    return jnp.stack(
        [
            decaying * jnp.exp(-decay * t),
            capacity * grown / (capacity + growing * jnp.expm1(growth * t)),
            position * jnp.cos(phase) + velocity / frequency * jnp.sin(phase),
            velocity * jnp.cos(phase) - position * frequency * jnp.sin(phase),
        ]
    )


def known_problem(values=VALUES, start=START, stop: Any = 2.0) -> InitialValueProblem:
    system = replace_parameters(
        KnownAnswers(), dict(zip(PARAMETERS, jnp.asarray(values), strict=True))
    )
    return InitialValueProblem(system, 0.0, stop, start)


def final_state(
    method: AbstractMethod, gradient: AbstractGradient | None = None, key: Any = None
) -> Any:
    """The last state of `KnownAnswers` as a function of parameters, start and stop."""

    def function(values, start, stop):
        problem = known_problem(values, start, stop)
        return solve(problem, method, gradient=gradient, key=key, throw=False).states[-1]

    return function


def finite_difference(function: Any, x: Any, step: float = 1e-5) -> np.ndarray:
    """Central differences, one column per entry of `x`."""
    x = np.asarray(x, dtype=float)
    columns = []
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step * max(1.0, abs(x[index]))
        difference = function(jnp.asarray(x + shift)) - function(jnp.asarray(x - shift))
        columns.append(np.asarray(difference) / (2 * shift[index]))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


class DrivenDecay(AbstractODE):
    """A decay fed by a constant input."""

    rate: Any = parameter(1.0, positive=True)
    states = (State("amount", 1.0),)
    inputs = (Input("feed", 0.0),)

    def vector_field(self, t, y, inputs):
        del t
        return inputs["feed"] - self.rate * y


class Failing(AbstractODE):
    """`y' = rate * y**2`, infinite at `1 / (rate * y0)`, and NaN after the time `when`."""

    rate: Any = parameter(1.0)
    when: Any = parameter(math.inf)
    states = (State("y", 1.0),)

    def vector_field(self, t, y, inputs):
        del inputs
        return jnp.where(t > self.when, jnp.nan, self.rate * y**2)


class Wiener(AbstractSDE):
    """The Wiener path itself, `dy = dW`."""

    states = (State("y", 0.0),)
    interpretation = Interpretation.ITO
    noise = NoiseKind.ADDITIVE
    noise_dimension = 1

    def vector_field(self, t, y, inputs):
        del t, inputs
        return jnp.zeros_like(y)

    def diffusion(self, t, y, inputs):
        del t, y, inputs
        return jnp.ones((1, 1))


class NoisyPendulum(AbstractSDE):
    """A damped pendulum with additive noise on both states: nonlinear drift."""

    strength: Any = parameter(1.0)
    states = (State("angle", 1.0), State("velocity", 0.0))
    interpretation = Interpretation.ITO
    noise = NoiseKind.ADDITIVE
    noise_dimension = 2

    def vector_field(self, t, y, inputs):
        del t, inputs
        angle, velocity = y
        return jnp.stack([velocity, -jnp.sin(3 * angle) - 0.5 * velocity])

    def diffusion(self, t, y, inputs):
        del t, y, inputs
        return self.strength * jnp.asarray([[1.0, 0.0], [0.5, 1.0]])


class StratonovichGrowth(AbstractSDE):
    """`dy = growth y dt + volatility y o dW`, so `y0 exp(growth t + volatility W)`."""

    growth: Any = parameter(0.3)
    volatility: Any = parameter(0.6)
    states = (State("y", 1.0),)
    interpretation = Interpretation.STRATONOVICH
    noise = NoiseKind.DIAGONAL
    noise_dimension = 1

    def vector_field(self, t, y, inputs):
        del t, inputs
        return self.growth * y

    def diffusion(self, t, y, inputs):
        del t, inputs
        return self.volatility * y


class Rotation(AbstractSDE):
    """Two noises that do not commute, Ito: `dy1 = s dW1`, `dy2 = s y1 dW2`."""

    strength: Any = parameter(0.7)
    states = (State("a", 1.0), State("b", 0.0))
    interpretation = Interpretation.ITO
    noise = NoiseKind.GENERAL
    noise_dimension = 2

    def vector_field(self, t, y, inputs):
        del t, inputs
        return -0.5 * y

    def diffusion(self, t, y, inputs):
        del t, inputs
        zero = jnp.zeros(())
        return self.strength * jnp.stack(
            [jnp.stack([jnp.ones(()), zero]), jnp.stack([zero, y[0]])]
        )


class Robertson(AbstractODE):
    """Three reactions with rates from 0.04 to 3e7."""

    slow: Any = parameter(0.04)
    fast: Any = parameter(3e7)
    medium: Any = parameter(1e4)
    states = (State("a", 1.0), State("b", 0.0), State("c", 0.0))

    def vector_field(self, t, y, inputs):
        del t, inputs
        a, b, c = y
        first, second, third = self.slow * a, self.fast * b * b, self.medium * b * c
        return jnp.stack([third - first, first - second - third, second])


class Oregonator(AbstractODE):
    """The Belousov-Zhabotinsky reaction."""

    states = (State("a", 1.0), State("b", 2.0), State("c", 3.0))

    def vector_field(self, t, y, inputs):
        del t, inputs
        a, b, c = y
        return jnp.stack(
            [
                77.27 * (b + a - a * b - 8.375e-6 * a * a),
                (c - (1 + a) * b) / 77.27,
                0.161 * (a - c),
            ]
        )


class Hires(AbstractODE):
    """High irradiance responses of plants, eight reactants."""

    states = tuple(
        State(f"y{i + 1}", value) for i, value in enumerate([1.0, 0, 0, 0, 0, 0, 0, 0.0057])
    )

    def vector_field(self, t, y, inputs):
        del t, inputs
        y1, y2, y3, y4, y5, y6, y7, y8 = y
        binding = 280.0 * y6 * y8
        return jnp.stack(
            [
                -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
                1.71 * y1 - 8.75 * y2,
                -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
                8.32 * y2 + 1.71 * y3 - 1.12 * y4,
                -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
                -binding + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
                binding - 1.81 * y7,
                -binding + 1.81 * y7,
            ]
        )


class Pleiades(AbstractODE):
    """Seven stars of masses 1 to 7 in a plane: positions x, y, then velocities."""

    states = tuple(
        State(f"{kind}{star + 1}", 0.0) for kind in ("x", "y", "u", "v") for star in range(7)
    )

    def vector_field(self, t, y, inputs):
        del t, inputs
        places, velocities = y[:14].reshape(2, 7), y[14:]
        apart = places[:, None, :] - places[:, :, None]
        squared = jnp.sum(apart**2, axis=0)
        cubed = jnp.where(squared > 0, squared, 1.0) ** 1.5
        masses = jnp.arange(1.0, 8.0)
        pull = jnp.sum(masses[None, None, :] * apart / cubed[None], axis=2)
        return jnp.concatenate([velocities, pull.ravel()])


_TEST_SET = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "ivp_testset" / "ivp_testset.json"
)


def reference(name: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Stop, start and final state from the Test Set for IVP Solvers (Bari)."""
    if not _TEST_SET.exists():
        pytest.skip(f"the reference solutions of {name} are not here: no {_TEST_SET.name}")
    entry = json.loads(_TEST_SET.read_text(encoding="utf-8"))[name]
    return (
        float(entry["t"][1]),
        np.asarray(entry["y0"], dtype=float),
        np.asarray([float(value) for value in entry["y"]]),
    )


def solve_steps(
    problem: InitialValueProblem, method: Any, steps: Any, key: Any = None
) -> Solution:
    """One solve for each constant step, in one compiled program."""

    @eqx.filter_jit
    def run(sizes):
        return jax.vmap(
            lambda size: solve(problem, method(size), gradient=Forward(), key=key, throw=False)
        )(sizes)

    return run(jnp.asarray(steps))


def fitted_order(steps: Any, errors: Any) -> float:
    """The slope of the logarithm of the error over that of the step."""
    return float(np.polyfit(np.log(np.asarray(steps)), np.log(np.asarray(errors)), 1)[0])
