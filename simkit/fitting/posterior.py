"""Experiment, measurements and parameters together: a differentiable posterior.

Its negative logarithm is the objective of a fit; where the noise models allow it, the
objective is half a sum of squared residuals plus terms of the noise scales alone.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from simkit.config.schema import LogNormal, Normal, Uniform
from simkit.fitting import noise
from simkit.fitting.measurements import Measurements
from simkit.fitting.parameters import Parameters, Target
from solvers.ensemble.choice import check_engine
from solvers.ensemble.together import solve_alone
from solvers.gradients import AbstractGradient, Forward
from solvers.integrators.base import AbstractMethod
from solvers.problem import InitialValueProblem
from solvers.solution import Solution
from systems.base import (
    AbstractSDE,
    AbstractSystem,
    get_parameter,
    replace_parameters,
    state_names,
)


class Posterior(eqx.Module):
    """The posterior density of the free parameters given the measurements.

    - `system`, `method`: the model with its fixed parameters, and how it is solved.
    - `start`: time of the initial state.
    - `initial_state`: fixed states at the start by name; the system's own stand where
      nothing is given.
    - `inputs`: inputs that are the same for all groups.
    - `measurements`, `parameters`: data and free numbers.
    - `gradient`: how derivatives pass through the solves.
    - `engine`: what solves, as of [`ensemble`][solvers.ensemble.members.ensemble].

    The likelihood is a sum over groups, and each group depends on few of the free
    numbers: its *slots*, the free quantities of the simulation followed by the free
    noise scales. `x` is always the optimiser's unbounded vector, `z` its part for one
    group.
    """

    system: AbstractSystem
    method: AbstractMethod
    start: float
    initial_state: dict[str, float]
    inputs: dict[str, float]
    measurements: Measurements
    parameters: Parameters
    gradient: AbstractGradient = Forward()
    engine: str = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_engine(self.engine)
        name, known = type(self.system).__name__, state_names(self.system)
        if isinstance(self.system, AbstractSDE):
            raise ValueError(f"Posterior: {name} is stochastic, which cannot be fitted.")
        for item in self.measurements.observables:
            if item.state not in known:
                raise ValueError(
                    f"Posterior: {item.name} observes the state {item.state!r}; "
                    f"{name} has {list(known)}."
                )
        times = self.measurements.times
        if isinstance(times, np.ndarray) and np.min(times) < self.start:
            raise ValueError(
                f"Posterior: there is a measurement at time {np.min(times):g}, before the "
                f"start at {self.start:g}."
            )

    def slots(self) -> tuple[Target, ...]:
        """What each group depends on: simulation first, then noise scales."""
        targets = dict.fromkeys(entry.target for entry in self.parameters.entries)
        return tuple(sorted(targets, key=lambda target: target.role == "noise"))

    def slot_index(self) -> np.ndarray:
        """Which free number stands in each slot, shape `(groups, slots)`."""
        groups = len(self.measurements.groups)
        columns = [self.parameters.index(target, groups) for target in self.slots()]
        return np.array(columns, dtype=int).reshape(len(columns), groups).T

    def predictions(
        self, x: Float[Array, " parameters"]
    ) -> Float[Array, "groups times observables"]:
        """Noise-free observables at the measured times; NaN where a solve failed."""
        z = x[self.slot_index()]
        if not isinstance(self.gradient, Forward):
            return over_groups(self._observe)(z, self._contexts())
        # The arrays of this module are passed as an argument: a function with a rule of
        # its own must not close over traced values.
        arrays, static = eqx.partition(self, eqx.is_array)
        observe = _with_dense_jacobian(
            lambda z, rest: eqx.combine(rest[0], static)._observe(z, rest[1])
        )
        return over_groups(lambda z, context: observe(z, (arrays, context)))(
            z, self._contexts()
        )

    def curves(
        self, x: Float[Array, " parameters"], times: Float[ArrayLike, "groups points"]
    ) -> Float[Array, "groups points observables"]:
        """Noise-free observables at other times; NaN where a solve failed."""
        return self.observed(self.solutions(x, times))

    def solutions(
        self, x: Float[Array, " parameters"], times: Float[ArrayLike, "groups points"]
    ) -> Solution:
        """The solves behind `curves`, with a leading axis of groups.

        Their `engine` and `engine_reason` say what solves this posterior, and why.
        """
        times = jnp.asarray(times)
        contexts = (self.measurements.inputs, times, times[:, -1])
        return over_groups(self._solve)(x[self.slot_index()], contexts)

    def observed(self, solution: Solution) -> Float[Array, "... points observables"]:
        """The observed states of one solve or many; NaN where one failed."""
        names = state_names(self.system)
        columns = [names.index(item.state) for item in self.measurements.observables]
        states = solution.states[..., np.array(columns)]
        return jnp.where(solution.succeeded[..., None, None], states, jnp.nan)

    def noise_scales(
        self, x: Float[Array, " parameters"]
    ) -> Float[Array, "groups observables"]:
        """Noise scale of each observable in each group; 1 where the model has none."""
        return over_groups(self._scales)(x[self.slot_index()])

    def log_likelihood(self, x: Float[Array, " parameters"]) -> Float[Array, ""]:
        """Log probability of the data with all constants; -inf if a solve failed."""
        data = (self.measurements.values, self.measurements.present)
        z = x[self.slot_index()]
        return jnp.sum(over_groups(self.group_log_likelihood)(z, self._contexts(), *data))

    def negative_log_posterior(
        self, x: Float[Array, " parameters"], slope: ArrayLike = 0.0
    ) -> Float[Array, ""]:
        """The objective; infinite if a solve failed.

        With `slope=0` it is that of the parameters in their units, whose optimum does
        not depend on their scale; with `slope=1` that of `x`, as a Laplace
        approximation in `x` needs it.
        """
        return -self.log_likelihood(x) - self.log_prior(x, slope)

    def log_prior(self, x: Float[Array, " parameters"], slope: ArrayLike) -> Array:
        """Log prior density of the parameters, plus `slope` times the log determinant."""
        prior = self.parameters.log_prior(self.parameters.natural(x))
        return prior + slope * self.parameters.log_slope(x)

    def group_log_likelihood(
        self, z: Float[Array, " slots"], context: Any, values: Array, present: Array
    ) -> Float[Array, ""]:
        """The part of `log_likelihood` that comes from one group."""
        return self._likelihood_of(z, self._observe(z, context), values, present)

    def contexts(self) -> tuple[Any, Array, Array]:
        """What `group_log_likelihood` takes beside `z`, with a leading axis of groups."""
        return (
            self._contexts(),
            jnp.asarray(self.measurements.values),
            jnp.asarray(self.measurements.present),
        )

    def objective_given(self, x: Array, predicted: Array) -> Float[Array, ""]:
        """The objective with the predictions held fixed: a function of the noise alone."""
        data = (self.measurements.values, self.measurements.present)
        terms = over_groups(self._likelihood_of)(x[self.slot_index()], predicted, *data)
        return -jnp.sum(terms) - self.log_prior(x, 0.0)

    def residuals(
        self, x: Float[Array, " parameters"]
    ) -> tuple[Float[Array, " residuals"], Float[Array, "groups times observables"]]:
        """Residuals whose half sum of squares is the objective, up to terms that
        depend on the noise scales alone; infinite if a solve failed. And the predictions.
        """  # noqa: D205
        predicted = self.predictions(x)
        good = jnp.all(jnp.isfinite(predicted) | ~jnp.asarray(self.measurements.present))
        standardised = self.standardised_residuals(x, jnp.where(good, predicted, 1.0))
        blocks = jnp.concatenate([standardised.ravel(), self._prior_residuals(x)])
        return jnp.where(good, blocks, jnp.inf), predicted

    def standardised_residuals(
        self, x: Array, predicted: Array
    ) -> Float[Array, "groups times observables"]:
        """Residuals in units of their noise; zero where nothing was measured."""
        data = self.measurements
        scales, values = self.noise_scales(x), jnp.asarray(data.values)
        columns = [
            noise.standardised_residual(
                observable.noise,
                values[:, :, o],
                predicted[:, :, o],
                scales[:, o, None],
                observable.degrees_of_freedom,
            )
            for o, observable in enumerate(data.observables)
        ]
        return jnp.where(data.present, jnp.stack(columns, axis=2), 0.0)

    def least_squares_obstacle(self) -> str | None:
        """Why the objective is no sum of squares; `None` if it is one."""
        for observable in self.measurements.observables:
            if observable.noise not in noise.LEAST_SQUARES:
                return f"the noise of {observable.name} is {observable.noise}"
        for entry in self.parameters.entries:
            square = isinstance(entry.prior, Normal | LogNormal | Uniform | None)
            if entry.target.role != "noise" and not square:
                return f"the prior of {entry.label} is no normal density on any scale"
        return None

    def has_kinks(self) -> bool:
        """Whether the gradient of the objective need not vanish at its optimum."""
        return any(item.noise in noise.KINKED for item in self.measurements.observables)

    def system_of(self, z: Float[Array, " slots"]) -> AbstractSystem:
        """The system with the parameters of one group."""
        return _replace(self.system, self.slots(), self._natural(z))

    def _prior_residuals(self, x: Array) -> Array:
        p = self.parameters.natural(x)
        residuals = []
        for i, entry in enumerate(self.parameters.entries):
            if entry.target.role == "noise":
                continue
            match entry.prior:
                case Normal(mean=mean, sd=sd):
                    residuals.append((p[i] - mean) / sd)
                case LogNormal(median=median, sd=sd):
                    # The density of p itself has a factor 1/p, which shifts the square.
                    residuals.append((jnp.log(p[i]) - math.log(median) + sd**2) / sd)
        return jnp.stack(residuals) if residuals else jnp.zeros((0,))

    def _contexts(self) -> tuple[Any, Array, Array]:
        data = self.measurements
        return data.inputs, jnp.asarray(data.times), jnp.asarray(data.stops)

    def _natural(self, z: Array) -> list[Array]:
        """The slots in their units; all groups share the coordinate of a slot."""
        first = self.slot_index()[0]
        entries = self.parameters.entries
        return [entries[i].transform.to_natural(z[s]) for s, i in enumerate(first)]

    def _scales(self, z: Array) -> Float[Array, " observables"]:
        natural, slots = self._natural(z), self.slots()
        scales = []
        for observable in self.measurements.observables:
            if observable.noise in noise.WITHOUT_SCALE:
                scales.append(jnp.ones(()))
            elif observable.sd is not None:
                scales.append(jnp.asarray(observable.sd))
            else:
                scales.append(natural[slots.index(Target("noise", observable.name))])
        return jnp.stack(scales)

    def _likelihood_of(
        self, z: Array, predicted: Array, values: Array, present: Array
    ) -> Float[Array, ""]:
        good = jnp.all(jnp.isfinite(predicted) | ~present)
        # Where nothing was measured or the solve failed, a harmless value stands in, so
        # that no NaN reaches a derivative.
        safe = jnp.where(good & present, predicted, 1.0)
        scales, total = self._scales(z), jnp.zeros(())
        for o, observable in enumerate(self.measurements.observables):
            terms = noise.log_likelihood(
                observable.noise,
                values[:, o],
                safe[:, o],
                scales[o],
                observable.degrees_of_freedom,
            )
            total = total + jnp.sum(jnp.where(present[:, o], terms, 0.0))
        return jnp.where(good, total, -jnp.inf)

    def _observe(self, z: Float[Array, " slots"], context: Any) -> Array:
        """Solve for one group and look at the observed states."""
        return self.observed(self._solve(z, context))

    def _solve(self, z: Float[Array, " slots"], context: Any) -> Solution:
        """Solve for one group."""
        inputs, times, stop = context
        natural, slots = self._natural(z), self.slots()
        system = self.system_of(z)
        starts: dict[str, Any] = dict(self.initial_state)
        for target, value in zip(slots, natural, strict=True):
            if target.role == "initial_state":
                starts[target.name] = value
        problem = InitialValueProblem(
            system, self.start, stop, starts, {**self.inputs, **inputs}
        )
        return solve_alone(
            problem,
            self._moves(problem),
            self.method,
            times,
            self.gradient,
            self.engine,
            directions=sum(target.role != "noise" for target in slots),
        )

    def _moves(self, problem: InitialValueProblem) -> InitialValueProblem:
        """Which arrays of the problem may differ among groups and points."""
        moves = jax.tree.map(lambda leaf: False, problem)
        parts = [lambda p: p.initial_state, lambda p: p.stop, lambda p: p.inputs]
        for target in self.slots():
            if target.role == "parameter":
                parts.append(lambda p, name=target.name: get_parameter(p.system, name))
        for part in parts:
            flags = jax.tree.map(eqx.is_array_like, part(problem))
            moves = eqx.tree_at(part, moves, flags)
        return moves


def over_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map a function over the leading axis of groups.

    A single group is not mapped at all: each level of `vmap` about a solve costs seconds
    of tracing.
    """

    def mapped(*arguments: Any) -> Any:
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return jax.vmap(function)(*arguments)
        first = jax.tree.map(lambda leaf: leaf[0], arguments)
        return jax.tree.map(lambda leaf: leaf[None], function(*first))

    return mapped


def _replace(
    system: AbstractSystem, targets: tuple[Target, ...], natural: list[Array]
) -> AbstractSystem:
    """Put the numbers where their targets are."""
    places: dict[str, list[Array]] = {}
    for target, value in zip(targets, natural, strict=True):
        if target.role == "parameter":
            places.setdefault(target.name, []).append(value)
    values = {}
    for name, numbers in places.items():
        arrays, static = eqx.partition(get_parameter(system, name), eqx.is_inexact_array)
        flat, unravel = ravel_pytree(arrays)
        values[name] = eqx.combine(unravel(jnp.stack(numbers).astype(flat.dtype)), static)
    return replace_parameters(system, values)


def _with_dense_jacobian(function: Callable[[Array, Any], Array]) -> Any:
    """A function whose tangents come from its whole Jacobian in the first argument.

    The Jacobian does not depend on the tangent, so under `jacfwd` it is computed once,
    with as many tangents as the function has arguments, however many parameters (of
    other groups) are differentiated outside.
    """

    @jax.custom_jvp
    def wrapped(theta: Array, context: Any) -> Array:
        return function(theta, context)

    @wrapped.defjvp
    def _tangent(primals: tuple[Array, Any], tangents: tuple[Array, Any]) -> Any:
        theta, context = primals

        def push(tangent: Array) -> tuple[Array, Array]:
            return jax.jvp(lambda v: function(v, context), (theta,), (tangent,))

        basis = jnp.eye(theta.size, dtype=theta.dtype)
        value, jacobian = jax.vmap(push, out_axes=(None, -1))(basis)
        return value, jacobian @ tangents[0]

    return wrapped
