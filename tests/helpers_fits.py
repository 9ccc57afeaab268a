"""Tiny systems whose fits can be checked by hand, and posteriors built from them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from simkit.config.schema import FitTable, FreeParameter, Normal
from simkit.fitting.fit import fit
from simkit.fitting.measurements import Measurements, Observable, measurements_from_rows
from simkit.fitting.parameters import build_parameters
from simkit.fitting.posterior import Posterior
from simkit.results import Fit
from solvers.gradients import AbstractGradient, Forward
from solvers.integrators.deterministic import Tsit5
from systems.base import AbstractODE, AbstractSystem, Input, State, parameter, state_names


class Decay(AbstractODE):
    """Exponential decay: amount(t) = amount(0) exp(-rate t)."""

    rate: Any = parameter(0.7, positive=True, unit="1/h")
    states: ClassVar[tuple[State, ...]] = (State("amount", 2.0, "mg"),)
    derived_units: ClassVar = {"half_life": "h"}

    def vector_field(self, t, y, inputs) -> Any:
        del t, inputs
        return -self.rate * y

    def derived_quantities(self):
        return {"half_life": jnp.log(2.0) / self.rate}


class Pair(AbstractODE):
    """Two decays that know nothing of each other."""

    fast: Any = parameter(1.0, positive=True)
    slow: Any = parameter(0.5, positive=True)
    states: ClassVar[tuple[State, ...]] = (State("first", 2.0), State("second", 2.0))

    def vector_field(self, t, y, inputs) -> Any:
        del t, inputs
        return -jnp.stack([self.fast, self.slow]) * y


class Line(AbstractODE):
    """A straight line: height(t) = height(0) + slope t."""

    slope: Any = parameter(0.5)
    states: ClassVar[tuple[State, ...]] = (State("height", 1.0, "m"),)

    def vector_field(self, t, y, inputs) -> Any:
        del t, inputs
        return self.slope * jnp.ones_like(y)


class Product(AbstractODE):
    """Decay whose rate is a product: the factors cannot be told apart."""

    first: Any = parameter(1.0, positive=True)
    second: Any = parameter(0.7, positive=True)
    states: ClassVar[tuple[State, ...]] = (State("amount", 2.0),)

    def vector_field(self, t, y, inputs) -> Any:
        del t, inputs
        return -self.first * self.second * y


class Explosive(AbstractODE):
    """y' = rate y^2 from 1: blows up at 1 / rate, within the data for rates above 0.5."""

    rate: Any = parameter(0.2)
    states: ClassVar[tuple[State, ...]] = (State("amount", 1.0),)

    def vector_field(self, t, y, inputs) -> Any:
        del t, inputs
        return self.rate * y**2


class Switched(AbstractODE):
    """Decay at the dose's pace whose rate acts only below one: above it all is flat."""

    rate: Any = parameter(0.7, positive=True)
    inputs = (Input("dose", 2.0, "mg"),)
    states: ClassVar[tuple[State, ...]] = (State("amount", 2.0),)

    def initial_state(self, inputs):
        return jnp.stack([jnp.asarray(inputs["dose"], dtype=float)])

    def vector_field(self, t, y, inputs) -> Any:
        del t, inputs
        return -jnp.minimum(self.rate, 1.0) * y


def make_posterior(
    system: AbstractSystem,
    observables: Sequence[Observable],
    times: np.ndarray,
    values: Sequence[np.ndarray],
    *,
    parameters: Mapping[str, FreeParameter] | None = None,
    initial_state: Mapping[str, FreeParameter] | None = None,
    noise: Mapping[str, FreeParameter] | None = None,
    fixed_state: dict[str, float] | None = None,
    gradient: AbstractGradient | None = None,
    measurements: Measurements | None = None,
) -> Posterior:
    """A posterior of one group with all observables seen at the same times."""
    if measurements is None:
        measurements = measurements_from_rows(
            observables,
            time=np.tile(times, len(observables)).tolist(),
            observable=[item.name for item in observables for _ in times],
            value=np.concatenate(values).tolist(),
        )
    defaults = {state.name: state.default for state in system.states}
    assert set(defaults) == set(state_names(system))
    free = build_parameters(
        system,
        measurements,
        parameters=parameters or {},
        initial_state=initial_state or {},
        noise=noise or {},
        initial_values={**defaults, **(fixed_state or {})},
    )
    return Posterior(
        system=system,
        method=Tsit5(rtol=1e-9, atol=1e-9),
        start=0.0,
        initial_state=dict(fixed_state or {}),
        inputs={},
        measurements=measurements,
        parameters=free,
        gradient=gradient or Forward(),
    )


TIMES = np.linspace(0.0, 4.0, 13)
"""Measured times of the cases below."""


def noisy_decay(seed: int = 1) -> np.ndarray:
    """3 exp(-0.6 t), with about eight per cent of scatter."""
    scatter = np.random.default_rng(seed).standard_normal(TIMES.size)
    return 3.0 * np.exp(-0.6 * TIMES + 0.08 * scatter)


def decay_posterior(
    values: np.ndarray | None = None,
    model: str = "normal",
    sd: float | None = None,
    **free: Any,
) -> Posterior:
    """Decay with free rate and free initial amount, both on a log scale."""
    standard: dict[str, Any] = {
        "parameters": {"rate": FreeParameter(start=(0.1, 3.0))},
        "initial_state": {"amount": FreeParameter(scale="log", start=(1.0, 9.0))},
    }
    return make_posterior(
        Decay(),
        [Observable("seen", "amount", model, sd)],
        TIMES,
        [noisy_decay() if values is None else values],
        **{**standard, **free},
    )


def pair_posterior(models: Sequence[str], values: Sequence[np.ndarray]) -> Posterior:
    """Two decays with a noise model each, all rates, amounts and noise scales free."""
    return make_posterior(
        Pair(),
        [
            Observable("left", "first", models[0]),
            Observable("right", "second", models[1]),
        ],
        TIMES,
        values,
        parameters={name: FreeParameter(start=(0.1, 3.0)) for name in ("fast", "slow")},
        initial_state={
            name: FreeParameter(scale="log", start=(1.0, 40.0)) for name in ("first", "second")
        },
    )


LINE_PRIORS = {"slope": (1.0, 0.3), "height": (0.5, 0.8)}
LINE_SD = 0.4
LINE_VALUES = 0.8 + 0.6 * TIMES + 0.4 * np.random.default_rng(2).standard_normal(TIMES.size)


def line_posterior() -> Posterior:
    """A straight line with normal noise and normal priors: its posterior is normal."""
    slope, height = (Normal(mean=mean, sd=sd) for mean, sd in LINE_PRIORS.values())
    return make_posterior(
        Line(),
        [Observable("seen", "height", "normal", LINE_SD)],
        TIMES,
        [LINE_VALUES],
        parameters={"slope": FreeParameter(prior=slope)},
        initial_state={"height": FreeParameter(prior=height)},
    )


def line_answer() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of slope and height, by the formulae of Bayes and Gauss."""
    design = np.stack([TIMES, np.ones_like(TIMES)], axis=1)
    prior_mean, prior_sd = np.array(list(LINE_PRIORS.values())).T
    precision = design.T @ design / LINE_SD**2 + np.diag(prior_sd**-2.0)
    covariance = np.linalg.inv(precision)
    right = design.T @ LINE_VALUES / LINE_SD**2 + prior_mean / prior_sd**2
    return covariance @ right, covariance


def explosive_posterior() -> Posterior:
    """Few, rough data of a solution that blows up where the rate is above a half.

    The value of the case, where the first start is, lies there.
    """
    times = np.array([0.5, 1.0, 1.5, 2.0])
    return make_posterior(
        Explosive(rate=2.0),
        [Observable("seen", "amount", "normal", 1.0)],
        times,
        [1 / (1 - 0.3 * times)],
        parameters={"rate": FreeParameter(start=(0.02, 1.5), scale="log", lower=0.0)},
    )


@functools.cache
def fitted_line() -> Fit:
    """Its fit, for tests of fits and of uncertainties."""
    return fit(line_posterior(), options=FitTable(starts=3))


@functools.cache
def fitted_explosion() -> Fit:
    """Its fit from twelve starts, some of which fail."""
    return fit(explosive_posterior(), options=FitTable(starts=12))


@functools.cache
def fitted_at_bound() -> Fit:
    """A decay whose rate wants to be 0.6 and may be 0.5."""
    rate = FreeParameter(upper=0.5, start=(0.1, 0.45))
    return fit(decay_posterior(sd=0.2, parameters={"rate": rate}), options=FitTable(starts=3))
