"""Least squares in turn with the noise scales, as one optimiser.

For given noise scales a fit may be a sum of squares; for given predictions each noise scale
has its own optimum. One after the other, until neither moves.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from simkit.fitting.posterior import Posterior
from solvers.optimisers.base import (
    STEP_LIMIT,
    STOP,
    has_converged,
    reason_to_stop,
    to_optimistix,
)
from solvers.optimisers.least_squares import LevenbergMarquardt


ROUNDS = 25
"""At most so many rounds between parameters and noise scales."""

FIRST_RTOL = 1e-2
"""The relative offset at which the first round ends; each further one divides it by ten, or
goes to a tenth of what the noise scales last moved.
While the noise scales still move more digits are lost. On the lynx-hare fit the starts that
reach the best optimum take 718 iterations in place of 1,091."""


class _State(eqx.Module):
    """The least squares of this round and their tolerance, the rounds that are over, and
    the objective.
    """  # noqa: D205

    inner: Any
    rtol: Float[Array, ""]
    rounds: Int[Array, ""]
    objective: Float[Array, ""]
    stop: Any


class NoiseAlternation(optx.AbstractMinimiser):
    """Minimises the negative log posterior of a posterior that is a sum of squares.

    The optimiser `inner` moves on the residuals with the noise scales held fixed; when it
    has converged the noise scales are put at their optimum, and so in turn. Where no noise
    scale is free it is the inner optimiser alone. One iteration is one of `inner`.

    - `inner`: an optimistix solver for least squares.
    - `rtol`, `atol`: it stops when no noise scale, on the optimiser's scale, moves by more
      than `atol`; `rtol` is not used.

    The first of `args` is the posterior; the function itself is never evaluated.
    """

    inner: Any
    rtol: float = 0.0
    atol: float = 1e-5
    norm: Callable[[PyTree], Any] = eqx.field(default=optx.max_norm, static=True)

    def init(
        self,
        fn: Any,
        y: Array,
        args: Any,
        options: Any,
        f_struct: Any,
        aux_struct: Any,
        tags: Any,
    ) -> _State:
        """Nothing is evaluated yet."""
        del fn, f_struct, aux_struct
        infinite = jnp.asarray(jnp.inf, y.dtype)
        inner = self._begin(y, args[0], options, tags)
        rtol = jnp.asarray(FIRST_RTOL, y.dtype)
        return _State(inner, rtol, jnp.asarray(0), infinite, STOP.running)

    def step(
        self, fn: Any, y: Array, args: Any, options: Any, state: _State, tags: Any
    ) -> tuple[Array, _State, Array]:
        """One iteration of the least squares; after the last of a round the noise scales."""
        del fn
        posterior, options = args[0], _without_bounds(options)
        moved, held = roles(posterior)
        method, loose = self._loosened(state.rtol, held.size > 0)
        part, inner, predicted = method.step(
            _residuals, y[moved], (posterior, y), options, state.inner, tags
        )
        x: Any = y.at[moved].set(part)
        done, result = self.inner.terminate(
            _residuals, part, (posterior, x), options, inner, tags
        )
        stop = reason_to_stop(getattr(inner, "stop", None), done, result)
        if held.size == 0:
            objective = posterior.objective_given(x, predicted)
            return x, _State(inner, state.rtol, state.rounds, objective, stop), objective
        over = has_converged(stop)
        new = jax.lax.cond(
            over, lambda: fit_noise_scales(posterior, x, predicted, held), lambda: x
        )
        change = jnp.max(jnp.abs(new[held] - x[held]))
        finite = jnp.all(jnp.isfinite(new))
        again = over & ((change > self.atol) | loose) & finite
        rounds = state.rounds + over
        spent = again & (rounds >= ROUNDS)
        fresh = self._begin(new, posterior, options, tags)
        stop = STOP.where(again, STOP.running, stop)
        stop = STOP.where(spent, STEP_LIMIT, stop)
        x = jnp.where(finite, new, x)
        objective = posterior.objective_given(x, predicted)
        inner = _choose(again, fresh, inner)
        rtol = jnp.where(over, 0.1 * jnp.minimum(change, state.rtol), state.rtol)
        return x, _State(inner, rtol, rounds, objective, stop), objective

    def terminate(
        self, fn: Any, y: Array, args: Any, options: Any, state: _State, tags: Any
    ) -> tuple[Array, Any]:
        """Whether it has stopped."""
        del fn, y, args, options, tags
        return to_optimistix(state.stop)

    def postprocess(
        self,
        fn: Any,
        y: Array,
        aux: Any,
        args: Any,
        options: Any,
        state: _State,
        tags: Any,
        result: Any,
    ) -> tuple[Array, Any, dict[str, Any]]:
        """Adds the statistics."""
        del fn, args, options, tags, result
        statistics = {"stop": state.stop, "objective": state.objective, "rounds": state.rounds}
        return y, aux, statistics

    def _loosened(self, rtol: Array, wanted: bool) -> tuple[Any, Any]:
        """The inner optimiser for a round, and whether its tolerance is a loose one."""
        if not (wanted and isinstance(self.inner, LevenbergMarquardt)):
            return self.inner, False
        method = dataclasses.replace(self.inner, rtol=jnp.maximum(self.inner.rtol, rtol))
        return method, rtol > self.inner.rtol

    def _begin(self, y: Array, posterior: Posterior, options: Any, tags: Any) -> Any:
        moved, _ = roles(posterior)
        shapes = jax.eval_shape(lambda x: posterior.residuals(x), y)
        return self.inner.init(
            _residuals, y[moved], (posterior, y), _without_bounds(options), *shapes, tags
        )


def roles(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Which free numbers the residuals are moved by, and which are noise scales."""
    entries = posterior.parameters.entries
    scales = np.array([entry.target.role == "noise" for entry in entries])
    return np.flatnonzero(~scales), np.flatnonzero(scales)


def _residuals(part: Array, args: tuple[Posterior, Array]) -> tuple[Array, Array]:
    posterior, x = args
    moved, _ = roles(posterior)
    return posterior.residuals(x.at[moved].set(part))


def _without_bounds(options: dict[str, Any]) -> dict[str, Any]:
    """The vector is unbounded, and its bounds are not those of a part."""
    return {name: item for name, item in options.items() if name not in ("lower", "upper")}


def _choose(condition: Array, one: Any, other: Any) -> Any:
    """One of two states: leaf by leaf, as what else they hold may differ in name."""
    arrays, static = eqx.partition(other, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    others = jax.tree.leaves(eqx.filter(one, eqx.is_array))
    chosen = [jnp.where(condition, a, b) for a, b in zip(others, leaves, strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, chosen), static)


def fit_noise_scales(
    posterior: Posterior, x: Array, predicted: Array, held: np.ndarray
) -> Float[Array, " parameters"]:
    """The vector with the noise scales at their optimum for given predictions.

    Given the predictions the objective is a sum over the noise scales, so a Newton step
    with the diagonal of the Hessian treats them all at once.
    """

    def objective(scales: Array) -> Array:
        return posterior.objective_given(x.at[held].set(scales), predicted)

    def newton(_: int, scales: Array) -> Array:
        ones = jnp.ones_like(scales)
        slope, curvature = jax.jvp(jax.grad(objective), (scales,), (ones,))
        step = -slope / jnp.maximum(jnp.abs(curvature), 1e-12)
        return scales + jnp.clip(step, -1.0, 1.0)

    return x.at[held].set(jax.lax.fori_loop(0, 40, newton, x[held]))
