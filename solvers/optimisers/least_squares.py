r"""Levenberg-Marquardt in trust-region form, for nonlinear least squares.

Each step minimises the linear model of the residuals within a trust radius. Lengths are
measured in variables scaled by the largest norms that the Jacobian's columns have had, so
the units of the parameters play no part. Curved valleys are followed with geodesic
acceleration, bounds are kept by reflection, and the last digits come from Newton steps
with the exact Hessian (`solvers/optimisers/final_steps.py`).

References: J. J. Moré, Lecture Notes in Mathematics 630, 105 (1978); M. A. Branch,
T. F. Coleman and Y. Li, SIAM J. Sci. Comput. 21, 1 (1999); M. K. Transtrum and
J. P. Sethna, arXiv:1201.5885 (2012).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from solvers.optimisers.base import (
    STOP,
    choose,
    full_bounds,
    has_converged,
    is_running,
    to_optimistix,
)
from solvers.optimisers.damping import damped_step, model_change, solve_damped
from solvers.optimisers.final_steps import final_steps
from solvers.optimisers.local_model import (
    SETTLED,
    LocalModel,
    empty_model,
    expand,
    on_bounds,
    size_of,
)
from solvers.optimisers.losses import AbstractLoss, reweighted
from solvers.optimisers.reflection import bounded_step, interior


Vector = Float[Array, " n"]
Scalar = Float[Array, ""]

_MOST_REJECTIONS = 60


class _Counts(eqx.Module):
    functions: Int[Array, ""]
    derivatives: Int[Array, ""]
    accelerations: Int[Array, ""]


class _State(eqx.Module):
    """Model and radius at the last accepted point; `first` until the start was seen."""

    first: Bool[Array, ""]
    model: LocalModel
    radius: Scalar
    rejections: Int[Array, ""]
    counts: _Counts
    stop: Any
    aux: Any


class _Trial(eqx.Module):
    """A step that is tried: where it leads, and what the model makes of it."""

    y: Vector
    length: Scalar
    predicted: Scalar
    damping: Scalar
    inside: Bool[Array, ""]
    accelerated: Bool[Array, ""]


class LevenbergMarquardt(optx.AbstractLeastSquaresSolver):
    r"""Least squares by trust region, with bounds, robust losses and exact last steps.

    The method of choice for fits of up to some hundred parameters: the Jacobian is
    dense, and computed in forward mode. Bounds come in
    `options["lower"]` and `options["upper"]`; residuals are never evaluated outside.

    - `rtol`: it stops when the Jacobian's columns can explain no more than this fraction
      of the residuals (the relative offset, a cosine that has no units).
    - `atol`: it stops when the norm of the residuals is no more than this.
    - `ftol`: it stops when an undamped step was predicted to change the objective by
      less than this fraction, and did.
    - `loss`: a robust loss (`solvers/optimisers/losses.py`); `None` is the plain square.
    - `acceleration`: the longest geodesic acceleration that is used, relative to the step;
      0 computes none. It takes second derivatives by forward over forward mode.
    - `newton_limit`: up to so many parameters the final steps use the exact Hessian, by
      forward over forward mode; beyond, and with 0, they are Gauss-Newton steps.
    - `polish`: whether there are final steps.
    - `first_radius`: the first trust radius, relative to the length of the scaled start.
    - `norm`: optimistix asks for one; it is not used.

    Not every start that stops has converged: `stats["stop"]` tells a vanished gradient
    (`gradient`), an objective that falls no more (`objective`), steps that change nothing
    (`step`) from a plateau (`flat`), no progress (`stalled`) and a start that is not
    finite (`nonfinite_start`). A trial point with residuals that are not finite is a step
    too long. `stats` also holds `objective`, `relative_offset`, and the evaluations of
    residuals, Jacobians, accelerations and Hessians.

    The default of `acceleration` is measured on the 54 starts of NIST's regressions:
    without it they take 3,770 evaluations before the final steps, with it about 1,200,
    and in a prototype of the same algorithm ratios of 0.2 and more lost a start.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    ftol: float = 1e-14
    loss: AbstractLoss | None = None
    acceleration: float = 0.1
    newton_limit: int = eqx.field(default=32, static=True)
    polish: bool = eqx.field(default=True, static=True)
    first_radius: float = 1.0
    norm: Callable[[PyTree], Any] = eqx.field(default=optx.max_norm, static=True)

    def init(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        f_struct: PyTree,
        aux_struct: PyTree,
        tags: frozenset[object],
    ) -> _State:
        """An empty model: the first step only evaluates the start."""
        del fn, args, tags, options
        flat, _ = ravel_pytree(y)
        rows = sum(leaf.size for leaf in jax.tree.leaves(f_struct))
        count = jnp.zeros((), jnp.int32)
        aux = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), aux_struct)
        return _State(
            first=jnp.asarray(True),
            model=empty_model(rows, flat.size, flat.dtype),
            radius=jnp.zeros((), flat.dtype),
            rejections=count,
            counts=_Counts(count, count, count),
            stop=STOP.running,
            aux=aux,
        )

    def step(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: _State,
        tags: frozenset[object],
    ) -> tuple[PyTree, _State, Any]:
        """Try one step; keep it if the objective falls."""
        del tags
        residuals, unravel = _flat_residuals(fn, y, args)
        flat, lower, upper = _flat_bounds(y, options)
        trial = self._trial(residuals, flat, lower, upper, state)
        values, push, aux = jax.linearize(residuals, trial.y, has_aux=True)
        objective = reweighted(self.loss, values).objective
        fall = state.model.objective - objective
        lower_now = jnp.isfinite(objective) & (state.first | (fall > 0))

        def differentiate() -> tuple[LocalModel, Array]:
            columns = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype)).T
            # A parameter between equal bounds stays.
            jacobian: Any = jnp.where((lower == upper)[None, :], 0.0, columns)
            model = expand(self.loss, values, jacobian, trial.y, lower, upper, state.model)
            return model, jnp.all(jnp.isfinite(jacobian))

        model, finite = jax.lax.cond(
            lower_now, differentiate, lambda: (state.model, jnp.asarray(False))
        )
        accepted = lower_now & finite
        model = choose(accepted, model, state.model)
        fall = jnp.where(jnp.isfinite(fall) & (finite | ~lower_now), fall, -jnp.inf)
        counts = _Counts(
            state.counts.functions + 1,
            state.counts.derivatives + lower_now,
            state.counts.accelerations + trial.accelerated,
        )
        after = _State(
            jnp.asarray(False),
            model,
            self._radius(trial, fall, model, state),
            jnp.where(accepted, 0, state.rejections + 1),
            counts,
            state.stop,
            choose(accepted, aux, state.aux),
        )
        after = eqx.tree_at(
            lambda s: s.stop, after, self._reason(after, trial, fall, accepted, state, flat)
        )
        return unravel(jnp.where(accepted, trial.y, flat)), after, after.aux

    def terminate(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: _State,
        tags: frozenset[object],
    ) -> tuple[Bool[Array, ""], Any]:
        """Whether it has stopped."""
        del fn, y, args, options, tags
        return to_optimistix(state.stop)

    def postprocess(
        self,
        fn: Any,
        y: PyTree,
        aux: Any,
        args: PyTree,
        options: dict[str, Any],
        state: _State,
        tags: frozenset[object],
        result: Any,
    ) -> tuple[PyTree, Any, dict[str, Any]]:
        """The final steps, if it converged, and the statistics."""
        del tags, result
        counts, model = state.counts, state.model
        stats = {
            "stop": state.stop,
            "objective": model.objective,
            "relative_offset": model.offset,
            "function_evaluations": counts.functions,
            "derivative_evaluations": counts.derivatives,
            "acceleration_evaluations": counts.accelerations,
            "hessian_evaluations": jnp.zeros_like(counts.functions),
        }
        if not self.polish:
            return y, aux, stats
        residuals, unravel = _flat_residuals(fn, y, args)
        flat, lower, upper = _flat_bounds(y, options)
        newton = flat.size <= self.newton_limit
        snapped, fixed = on_bounds(flat, model, lower, upper)
        last = final_steps(
            lambda point: residuals(point)[0],
            flat,
            snapped,
            model.objective,
            model.offset,
            has_converged(state.stop),
            fixed=fixed,
            lower=lower,
            upper=upper,
            loss=self.loss,
            newton=newton,
        )
        stats["objective"], stats["relative_offset"] = last.objective, last.offset
        for name in ("function_evaluations", "derivative_evaluations"):
            stats[name] = stats[name] + last.evaluations
        if newton:
            stats["hessian_evaluations"] = last.evaluations
        return unravel(last.y), aux, stats

    def _trial(
        self, residuals: Any, y: Vector, lower: Vector, upper: Vector, state: _State
    ) -> _Trial:
        model, first = state.model, state.first
        radius = jnp.where(first, 1.0, state.radius)
        damped, damping = damped_step(model.factors, radius)
        keep = 1 - jnp.minimum(0.005, model.offset)
        scaled, inside = bounded_step(
            model.factors, model.gradient, damped, y, model.unscale, radius, lower, upper, keep
        )
        move = model.unscale * scaled
        wanted = jnp.asarray(self.acceleration > 0) & inside & ~first
        if self.acceleration > 0:
            bent = jax.lax.cond(
                wanted,
                lambda: _second_derivative(residuals, y, move),
                lambda: jnp.zeros_like(model.roots),
            )
            right = model.matrix.T @ (model.roots * bent)
            extra = -0.5 * solve_damped(model.factors, damping, right)
            bended = move + model.unscale * extra
            short = 2 * jnp.linalg.norm(extra) <= self.acceleration * jnp.linalg.norm(scaled)
            between = jnp.all((y + bended >= lower) & (y + bended <= upper))
            move = jnp.where(wanted & short & between, bended, move)
        # A start on a bound is moved off it: there the scaling would stop every step.
        begin = interior(y, lower, upper, 1e-10)
        return _Trial(
            y=jnp.where(first, begin, interior(y + move, lower, upper, 0.0)),
            length=jnp.linalg.norm(scaled),
            predicted=-model_change(model.factors, model.gradient, scaled),
            damping=damping,
            inside=inside,
            accelerated=wanted,
        )

    def _radius(self, trial: _Trial, fall: Scalar, model: LocalModel, state: _State) -> Scalar:
        """The next trust radius, by how well the model foretold the fall."""
        begin = self.first_radius * size_of(
            trial.y / jnp.where(model.unscale > 0, model.unscale, 1.0)
        )
        useful = trial.predicted > 0
        ratio = jnp.where(useful, fall / jnp.where(useful, trial.predicted, 1.0), -jnp.inf)
        wider = (ratio > 0.75) & (trial.length > 0.95 * state.radius)
        radius = jnp.where(wider, 2 * state.radius, state.radius)
        radius = jnp.where(ratio >= 0.25, radius, 0.25 * trial.length)
        return jnp.where(state.first, begin, radius)

    def _reason(
        self,
        after: _State,
        trial: _Trial,
        fall: Scalar,
        accepted: Array,
        state: _State,
        y: Vector,
    ) -> Any:
        """Why to stop here, if there is a reason."""
        model = after.model
        eps = jnp.finfo(y.dtype).eps
        before = state.model.objective
        small = self.ftol * jnp.where(jnp.isfinite(before), before, 0.0)
        no_fall = (trial.predicted <= small) & (jnp.abs(fall) <= small)
        no_fall &= (trial.damping == 0) & trial.inside & ~state.first
        explained = 0.5 * jnp.sum(jnp.square(model.factors.projected))
        lowest = (explained <= model.noise) | no_fall | (model.objective <= 0.5 * self.atol**2)
        vanished = model.offset <= jnp.maximum(self.rtol, 10 * eps)
        scaled = y / jnp.where(model.unscale > 0, model.unscale, 1.0)
        stuck = after.rejections >= _MOST_REJECTIONS
        stuck |= ~accepted & (after.radius <= 4 * eps * jnp.linalg.norm(scaled))
        # A noisy objective hides falls that the model still foretells.
        hidden = stuck & (model.offset <= SETTLED)
        reasons = (
            (stuck, STOP.stalled),
            ((lowest | hidden) & model.settled, STOP.objective),
            (model.still, STOP.step),
            (vanished & model.settled, STOP.gradient),
        )
        stop = STOP.running
        for condition, reason in reasons:
            stop = STOP.where(condition, reason, stop)
        stop = STOP.where(~is_running(stop) & model.flat, STOP.flat, stop)
        return STOP.where(state.first & ~accepted, STOP.nonfinite_start, stop)


def _flat_residuals(fn: Any, y: PyTree, args: PyTree) -> tuple[Any, Any]:
    """The residuals as an array of shape (m,), by an array of shape (n,), and its inverse."""
    _, unravel = ravel_pytree(y)

    def residuals(flat: Vector) -> tuple[Array, Any]:
        values, aux = fn(unravel(flat), args)
        return ravel_pytree(values)[0], aux

    return residuals, unravel


def _flat_bounds(y: PyTree, options: dict[str, Any]) -> tuple[Vector, Vector, Vector]:
    lower, upper = full_bounds(y, options.get("lower"), options.get("upper"))
    return ravel_pytree(y)[0], ravel_pytree(lower)[0], ravel_pytree(upper)[0]


def _second_derivative(residuals: Any, y: Vector, direction: Vector) -> Array:
    """The second derivative of the residuals along a direction, of shape (m,)."""

    def slope(point: Vector) -> Array:
        return jax.jvp(lambda p: residuals(p)[0], (point,), (direction,))[1]

    return jax.jvp(slope, (y,), (direction,))[1]
