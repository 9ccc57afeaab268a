"""Which quantities are free, on which scale, within which bounds, with which prior."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from simkit.config.schema import (
    Distribution,
    Exponential,
    FreeParameter,
    Gamma,
    LogNormal,
    Normal,
    Uniform,
)
from simkit.distributions import log_density, quantile
from simkit.fitting.measurements import Measurements
from simkit.fitting.noise import WITHOUT_SCALE
from simkit.fitting.transforms import Transform, make_transform
from systems.base import (
    AbstractSystem,
    get_parameter,
    parameter_declarations,
    state_names,
)


Role = Literal["parameter", "initial_state", "noise"]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a free number stands for: an element of a parameter, a state, a noise scale."""

    role: Role
    name: str
    element: int = 0


@dataclasses.dataclass(frozen=True)
class Entry:
    """One free number.

    - `label`: its name in tables, such as `prey_growth`, `initial_state.prey`,
      `noise.hare`, `volume[3]`.
    - `target`: what it stands for; `group`: for which group alone, or `None` for all.
    - `transform`, `prior`: coordinate and density.
    - `value`: where the case has it; `start`: range of starts on the natural scale.
    """

    label: str
    target: Target
    group: int | None
    transform: Transform
    prior: Distribution | None
    value: float
    start: tuple[float, float] | None
    unit: str


class Parameters(eqx.Module):
    """The free numbers of a fit, in the order of the optimiser's vector."""

    entries: tuple[Entry, ...] = eqx.field(static=True)

    def natural(self, x: Float[Array, " parameters"]) -> Float[Array, " parameters"]:
        """From the optimiser's unbounded vector to the parameters in their units."""
        return jnp.stack(
            [entry.transform.to_natural(x[i]) for i, entry in enumerate(self.entries)]
        )

    def unbounded(self, values: Sequence[float]) -> np.ndarray:
        """From parameters in their units to the optimiser's vector.

        What lies on a bound to rounding stands as near to it as draws of starts do.
        """
        pairs = zip(self.entries, values, strict=True)
        with np.errstate(divide="ignore"):
            x = [float(entry.transform.to_unbounded(np.array(v))) for entry, v in pairs]
        return np.array([math.copysign(40.0, v) if math.isinf(v) else v for v in x])

    def log_prior(self, p: Float[Array, " parameters"]) -> Float[Array, ""]:
        """Logarithm of the prior density of the parameters in their units.

        A parameter without prior is flat in the optimiser's coordinate.
        """
        terms = [
            log_density(entry.prior, p[i])
            for i, entry in enumerate(self.entries)
            if entry.prior is not None
        ]
        return jnp.sum(jnp.stack(terms)) if terms else jnp.zeros(())

    def log_slope(self, x: Float[Array, " parameters"]) -> Float[Array, ""]:
        """Log determinant that turns `log_prior` into a density of the vector `x`."""
        terms = [
            entry.transform.log_slope(x[i])
            for i, entry in enumerate(self.entries)
            if entry.prior is not None
        ]
        return jnp.sum(jnp.stack(terms)) if terms else jnp.zeros(())

    def draw_starts(self, key: PRNGKeyArray, starts: int) -> Float[Array, "starts parameters"]:
        """Starts in the optimiser's coordinates; the first is the case's own values.

        Each number is drawn uniformly on its scale from its `start` range, else from
        the central 90 % of its prior, else between its bounds, else within one unit
        (a factor e on a log scale) about its value.
        """
        uniform = jax.random.uniform(key, (starts, len(self.entries)))
        columns = [_draw(entry, uniform[:, i]) for i, entry in enumerate(self.entries)]
        first = [entry.transform.to_unbounded(np.array(entry.value)) for entry in self.entries]
        return jnp.stack(columns, axis=1).at[0].set(jnp.asarray(np.array(first)))

    @property
    def labels(self) -> list[str]:
        """Names of the free numbers."""
        return [entry.label for entry in self.entries]

    def index(self, target: Target, groups: int) -> list[int]:
        """For each group, which entry stands for the target; -1 for none."""
        found = [-1] * groups
        for i, entry in enumerate(self.entries):
            if entry.target == target:
                for g in range(groups) if entry.group is None else [entry.group]:
                    found[g] = i
        return found


def _draw(entry: Entry, uniform: Float[Array, " starts"]) -> Float[Array, " starts"]:
    transform = entry.transform
    if entry.start is None and entry.prior is not None:
        lower, upper = transform.lower, transform.upper
        values = quantile(entry.prior, 0.05 + 0.9 * uniform, lower, upper)
        return _inside(transform, values)
    if entry.start is not None and transform.scale == "linear":
        values = entry.start[0] + (entry.start[1] - entry.start[0]) * uniform
        return _inside(transform, values)
    if entry.start is not None:
        low, high = (float(transform.to_unbounded(np.array(v))) for v in entry.start)
    elif math.isfinite(transform.lower) and math.isfinite(transform.upper):
        low, high = -3.0, 3.0  # the central 90 % of the range on its scale
    else:
        middle = float(transform.to_unbounded(np.array(entry.value)))
        low, high = middle - 1.0, middle + 1.0
    return low + (high - low) * uniform


def _inside(transform: Transform, values: Array) -> Array:
    """The coordinate of draws that rounding may have put on a bound."""
    x = transform.to_unbounded_traced(values)
    if math.isfinite(transform.lower) or math.isfinite(transform.upper):
        x = jnp.clip(x, -40.0, 40.0)
    return x


def build_parameters(
    system: AbstractSystem,
    measurements: Measurements,
    *,
    parameters: Mapping[str, FreeParameter],
    initial_state: Mapping[str, FreeParameter],
    noise: Mapping[str, FreeParameter],
    initial_values: Mapping[str, float],
) -> Parameters:
    """Collect the free numbers of a fit.

    **Arguments:**

    - `parameters`, `initial_state`, `noise`: what the case declares free, by name of
      the parameter, the state and the observable. A noise scale that has no `sd` and is
      not named here is free with defaults.
    - `initial_values`: values of the states at the start, by name.

    Raises `KeyError` for unknown names and `ValueError` for values or ranges of starts
    outside the bounds, and if nothing is free.
    """
    _check_names(system, measurements, initial_state, noise)
    groups = measurements.groups
    entries: list[Entry] = []
    declared = {item.name: item for item in parameter_declarations(system)}
    for name, free in parameters.items():
        value = np.atleast_1d(
            ravel_pytree(eqx.filter(get_parameter(system, name), eqx.is_inexact_array))[0]
        )
        item = declared[name]
        for element, number in enumerate(np.asarray(value)):
            label = name if item.size == 1 else f"{name}[{element}]"
            target = Target("parameter", name, element)
            bounds = (item.lower, item.upper)
            entries += _entries(label, target, free, float(number), bounds, item.unit, groups)
    units = {state.name: state.unit for state in system.states}
    for name, free in initial_state.items():
        target, number = Target("initial_state", name), float(initial_values[name])
        bounds = (-math.inf, math.inf)
        label = f"initial_state.{name}"
        entries += _entries(label, target, free, number, bounds, units[name], groups)
    for o, observable in enumerate(measurements.observables):
        if observable.sd is not None or observable.noise in WITHOUT_SCALE:
            continue
        free = noise.get(observable.name, FreeParameter())
        target, number = Target("noise", observable.name), measurements.spread(o)
        unit = (
            observable.unit if observable.noise in ("normal", "laplace", "student_t") else "1"
        )
        label = f"noise.{observable.name}"
        entries += _entries(label, target, free, number, (0.0, math.inf), unit, groups)
    if not entries:
        raise ValueError("Nothing is free: name a parameter, a state or a noise scale to fit.")
    return Parameters(tuple(entries))


def _check_names(
    system: AbstractSystem,
    measurements: Measurements,
    initial_state: Mapping[str, FreeParameter],
    noise: Mapping[str, FreeParameter],
) -> None:
    """Those of the parameters are checked where they are looked up."""
    states = state_names(system)
    for name in initial_state:
        if name not in states:
            raise KeyError(
                f"{type(system).__name__} has no state {name!r}; it has {list(states)}."
            )
    observables = {item.name: item for item in measurements.observables}
    for name in noise:
        if name not in observables:
            raise KeyError(f"There is no observable {name!r}; there are {list(observables)}.")
        if observables[name].sd is not None or observables[name].noise in WITHOUT_SCALE:
            raise ValueError(
                f"The noise scale of {name} cannot be free: it is given, or its noise model "
                "has none."
            )


def _entries(
    label: str,
    target: Target,
    free: FreeParameter,
    value: float,
    declared: tuple[float, float],
    unit: str,
    groups: tuple[str, ...],
) -> list[Entry]:
    lower, upper = _bounds(free, declared)
    _check_scale_and_start(label, free, lower, upper)
    if not lower < value < upper:
        if free.start is None:
            raise ValueError(
                f"The value of {label} is {value:g}, expected a number between {lower:g} "
                f"and {upper:g}."
            )
        value = 0.5 * (free.start[0] + free.start[1])
    width = free.prior.sd if isinstance(free.prior, Normal) and free.scale != "log" else None
    transform = make_transform(free.scale, lower, upper, value, width)
    one = Entry(label, target, None, transform, free.prior, value, free.start, unit)
    if not free.each:
        return [one]
    return [
        dataclasses.replace(one, label=f"{label}[{name}]", group=g)
        for g, name in enumerate(groups)
    ]


def _bounds(free: FreeParameter, declared: tuple[float, float]) -> tuple[float, float]:
    """The range of a free number: its bounds, the support of its prior and its scale."""
    lower = declared[0] if free.lower is None else free.lower
    upper = declared[1] if free.upper is None else free.upper
    if isinstance(free.prior, Uniform):
        lower, upper = max(lower, free.prior.lower), min(upper, free.prior.upper)
    if isinstance(free.prior, LogNormal | Exponential | Gamma) or free.scale == "log":
        lower = max(lower, 0.0)
    return lower, upper


def _check_scale_and_start(label: str, free: FreeParameter, lower: float, upper: float) -> None:
    between = f"between {lower:g} and {upper:g}"
    if not lower < upper:
        raise ValueError(f"There is no number {between}, the bounds of {label}.")
    if free.scale == "logit" and math.isinf(upper - lower):
        raise ValueError(f"The scale of {label} is logit, which needs two finite bounds.")
    if free.start is None:
        return
    low, high = free.start
    if not lower < low < high < upper:
        raise ValueError(
            f"The start of {label} is from {low:g} to {high:g}, expected a range {between}."
        )
