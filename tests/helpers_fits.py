"""Tiny systems whose fits can be checked by hand, and posteriors built from them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from simkit.config.schema import FreeParameter
from simkit.fitting.measurements import Measurements, Observable, measurements_from_rows
from simkit.fitting.parameters import build_parameters
from simkit.fitting.posterior import Posterior
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
