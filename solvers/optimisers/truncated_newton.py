"""Newton's method by curvature products alone, for many parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree

from solvers.optimisers.base import STOP, choose
from solvers.optimisers.conjugate_gradients import (
    Quadratic,
    TruncatedStep,
    truncated_step,
)
from solvers.optimisers.flat_minimiser import (
    AbstractFlatMinimiser,
    Record,
    gradient_fell,
)
from solvers.optimisers.flat_objective import (
    FlatObjective,
    Scalar,
    Vector,
    clip_to_bounds,
    decrease,
    rounding,
)
from solvers.optimisers.subproblems import norm_of


class Pending(NamedTuple):
    """A step that waits for its evaluation.

    - `step`: the displacement; `slope` and `bend` are $g^T s$ and $s^T H s$.
    - `newton`: conjugate gradients solved for the Newton step, uncut.
    - `cut`: the trust region cut it.
    - `last`: the closing step.
    """

    step: Vector
    slope: Scalar
    bend: Scalar
    newton: Bool[Array, ""]
    cut: Bool[Array, ""]
    last: Bool[Array, ""]

    def predicted(self) -> Scalar:
        """How far the objective should fall."""
        return -self.slope - 0.5 * self.bend


class TruncatedState(eqx.Module):
    """Where an iteration stands.

    - `value`, `gradient`, `scale`: at the current point; `scale` multiplies each
      parameter where lengths are measured.
    - `pending`, `radius`: the step to be evaluated next, and the trust radius.
    - `first_slope`: the length of the scaled gradient at the start.
    - `rejected`: trials rejected in a row.
    - `record`: what is kept of the way.
    """

    value: Scalar
    gradient: Vector
    scale: Vector
    pending: Pending
    radius: Scalar
    first_slope: Scalar
    rejected: Int[Array, ""]
    record: Record


class NewtonCG(AbstractFlatMinimiser):
    r"""Newton's method by conjugate gradients within a trust region.

    The Newton equations are solved by products of the Hessian with vectors (the
    derivative of the gradient, linearised once per point), only as well as the distance
    from the optimum deserves, up to the trust radius or along a direction of negative
    curvature. A rejected step is shortened without new products. Before it reports
    success it looks for negative curvature from a random direction, so that it leaves
    saddle points. A good algorithm for hundreds to millions of parameters.

    - `rtol`: converged once a full Newton step changes no parameter by more than this
      fraction; that step is still taken.
    - `atol`: or once the norm of that step is below this (default: never).
    - `norm`: the norm for `atol`.
    - `products`: at most so many products per iteration.
    - `preconditioner`: `preconditioner(y, args)`, positive estimates of the curvature by
      each parameter, as a pytree like `y`; also sets the shape of the trust region.
      Taken once, at the start.
    - `curvature`: `curvature(y, args)` returns the function that takes a vector (a pytree
      like `y`) to its product with a symmetric matrix used in place of the Hessian, such
      as the one of Gauss and Newton.
    - `forward`: gradients in forward mode, for objectives without reverse mode.
    - `noise`: relative error of the objective beyond rounding.
    - `key`: of the random direction; `None` takes a fixed one.

    Bounds are read from `options["lower"]` and `options["upper"]`; nothing is evaluated
    outside.

    Reference: T. Steihaug, SIAM J. Numer. Anal. 20, 626 (1983); with bounds C.-J. Lin and
    J. J. Moré, SIAM J. Optim. 9, 1100 (1999); shortened steps J. Nocedal and Y. Yuan, in
    *Advances in Nonlinear Programming* (1998).
    """

    rtol: float = 1e-8
    atol: float = 0.0
    norm: Callable[[PyTree], Scalar] = optx.max_norm
    products: int = 200
    preconditioner: Callable[[Any, Any], PyTree] | None = None
    curvature: Callable[[Any, Any], Callable[[Any], Any]] | None = None
    forward: bool = False
    noise: float = 0.0
    key: Array | None = None

    def begin(self, objective: FlatObjective, x: Vector, record: Record) -> TruncatedState:
        """Nothing is evaluated yet: the first step evaluates the start."""
        zero, zeros, no = jnp.zeros((), x.dtype), jnp.zeros_like(x), jnp.asarray(False)
        scale = jnp.ones_like(x)
        if self.preconditioner is not None:
            estimates = self.preconditioner(objective.unravel(x), objective.args)
            estimates = ravel_pytree(estimates)[0].astype(x.dtype)
            usable = jnp.isfinite(estimates) & (estimates > 0)
            scale = jnp.sqrt(jnp.where(usable, estimates, 1.0))
        return TruncatedState(
            value=zero,
            gradient=zeros,
            scale=scale,
            pending=Pending(zeros, zero, zero, no, no, no),
            radius=zero,
            first_slope=zero,
            rejected=jnp.asarray(0),
            record=record,
        )

    def advance(
        self, objective: FlatObjective, x: Vector, state: TruncatedState
    ) -> tuple[Vector, TruncatedState]:
        """Evaluate the pending step; take it and find the next, or shorten it."""
        trial = clip_to_bounds(x + state.pending.step, objective.lower, objective.upper)
        value, gradient, product, aux = objective.linear_gradient(
            trial, self.forward, self.curvature
        )
        begins = state.record.begins
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        ratio = jnp.where(finite, _ratio(state, value, gradient, self.noise), -jnp.inf)
        closes = gradient_fell(objective, trial, state.gradient, gradient, state.scale)
        closes = closes & (value - state.value <= rounding(state.value, self.noise))
        accepted = begins | (ratio > 1e-4) | (state.pending.last & finite & closes)
        moved = jnp.where(accepted, trial, x)
        record = state.record.after(value, moved, aux, accepted)
        taken = self._take(state, moved, value, gradient, ratio, accepted)
        taken = eqx.tree_at(lambda s: s.record, taken, record)
        held = objective.held(moved, taken.gradient)
        ends = (state.pending.last & ~begins) | jnp.all(held | (taken.gradient == 0))
        model = self._approach(taken, objective, moved, product, ends, accepted & finite)
        fresh = Pending(
            model.step, model.slope, model.bend, model.newton, model.cut, jnp.asarray(False)
        )
        shorter = _shorten(state.pending, ratio, value - state.value)
        following = self._mark(taken, choose(accepted, fresh, shorter), moved, accepted)
        stop = _judge(following, state, model, ends & accepted, jnp.all(held), moved, value)
        stop = STOP.where(begins & ~finite, STOP.nonfinite_start, stop)
        record = eqx.tree_at(
            lambda r: r.products, following.record, record.products + model.products
        )
        return moved, eqx.tree_at(lambda s: s.record, following, record.stopped(stop))

    def reached(self, state: TruncatedState) -> tuple[Scalar, Vector]:
        """Objective and gradient at the current point."""
        return state.value, state.gradient

    def _approach(
        self,
        state: TruncatedState,
        objective: FlatObjective,
        x: Vector,
        product: Callable[[Vector], Vector],
        ends: Array,
        wanted: Array,
    ) -> TruncatedStep:
        """The next step; at the end, the search for negative curvature."""
        probe = _random_direction(self.key, x)
        return truncated_step(
            Quadratic(x, state.gradient, product, state.scale),
            state.radius,
            (objective.lower, objective.upper),
            jnp.where(ends, probe, jnp.zeros_like(probe)),
            state.first_slope,
            self.products,
            wanted,
        )

    def _take(
        self,
        state: TruncatedState,
        x: Vector,
        value: Scalar,
        gradient: Vector,
        ratio: Scalar,
        accepted: Array,
    ) -> TruncatedState:
        """The state after the verdict on the trial."""
        begins = state.record.begins
        gradient = jnp.where(accepted, gradient, state.gradient)
        slope = norm_of(gradient / state.scale)
        size = norm_of(state.scale * x)
        first = jnp.where(size > 0, 0.1 * size, jnp.where(slope > 0, slope, 1.0))
        length = norm_of(state.scale * state.pending.step)
        longer = jnp.maximum(state.radius, jnp.where(ratio > 0.9, 3.0, 2.0) * length)
        radius = jnp.where((ratio > 0.75) & state.pending.cut, longer, state.radius)
        radius = jnp.where(ratio < 0.25, 0.5 * length, radius)
        return eqx.tree_at(
            lambda s: (s.value, s.gradient, s.radius, s.first_slope, s.rejected),
            state,
            (
                jnp.where(accepted, value, state.value),
                gradient,
                jnp.where(begins, first, radius),
                jnp.where(begins, slope, state.first_slope),
                jnp.where(accepted, 0, state.rejected + 1),
            ),
        )

    def _mark(
        self, state: TruncatedState, pending: Pending, x: Vector, accepted: Array
    ) -> TruncatedState:
        """Whether the pending step closes the iteration."""
        step, record = pending.step, state.record
        small = jnp.all(jnp.abs(step) <= self.rtol * jnp.abs(x))
        small = small | (self.norm(step) <= self.atol)
        slight = record.slight(step, pending.predicted(), state.value, self.rtol)
        quiet = record.count_quiet(accepted, slight & pending.newton)
        last = pending.newton & (small | (quiet >= 3))
        return eqx.tree_at(
            lambda s: (s.pending, s.record.quiet), state, (pending._replace(last=last), quiet)
        )


def _random_direction(key: Array | None, x: Vector) -> Vector:
    """The direction from which negative curvature is sought."""
    return jax.random.normal(jax.random.key(0) if key is None else key, x.shape, x.dtype)


def _ratio(state: TruncatedState, value: Scalar, gradient: Vector, noise: float) -> Scalar:
    """Actual decrease over predicted decrease."""
    predicted = state.pending.predicted()
    fell = decrease(
        state.value, state.gradient, value, gradient, state.pending.step, predicted, noise
    )
    return jnp.where(predicted > 0, fell / jnp.where(predicted > 0, predicted, 1.0), -jnp.inf)


def _shorten(pending: Pending, ratio: Scalar, rise: Scalar) -> Pending:
    """A fraction of the step: where a parabola through both ends has its minimum."""
    denominator = 2 * (rise - pending.slope)
    share = -pending.slope / jnp.where(denominator > 0, denominator, 1.0)
    share = jnp.where((denominator > 0) & jnp.isfinite(rise), share, 0.25)
    share = jnp.where(jnp.isfinite(ratio), jnp.clip(share, 0.1, 0.5), 0.1)
    no = jnp.asarray(False)
    return Pending(
        share * pending.step, share * pending.slope, share**2 * pending.bend, no, no, no
    )


def _judge(
    new: TruncatedState,
    old: TruncatedState,
    model: TruncatedStep,
    ends: Array,
    all_held: Array,
    x: Vector,
    trial_value: Scalar,
) -> Any:
    """Why to stop, or `STOP.running`."""
    closed = old.pending.last & ~old.record.begins
    epsilon = jnp.finfo(x.dtype).eps
    step = new.pending.step
    stuck = (new.rejected > 0) & jnp.all(jnp.abs(step) <= 0.1 * epsilon * jnp.abs(x))
    stuck = (stuck | (new.rejected > 60) | jnp.all(step == 0)) & ~ends
    lost = old.pending.newton & (old.pending.predicted() <= 1e3 * rounding(new.value, 0.0))
    stop = STOP.where(stuck, STOP.where(lost, STOP.objective, STOP.stalled), STOP.running)
    # At the end conjugate gradients started from a random direction.
    level = ends & ~model.negative
    reason = STOP.where(old.record.quiet >= 3, STOP.objective, STOP.step)
    # Where bounds hold every parameter no curvature is left to look at.
    vanished = STOP.where((model.largest > 0) | all_held, STOP.gradient, STOP.flat)
    stop = STOP.where(level, STOP.where(closed, reason, vanished), stop)
    # A closing step that was rejected leaves nothing to gain either.
    stop = STOP.where(closed & (new.rejected > 0), reason, stop)
    unlimited = new.record.falls_without_limit(new.value, x) | (trial_value == -jnp.inf)
    return STOP.where(unlimited, STOP.unbounded, stop)
