"""The natural gradient: steps in the metric of what the model predicts.

The objective is a loss of outputs, `loss(outputs(y, args), args)`. The metric is the
generalised Gauss-Newton matrix $J^T H J$ with the Jacobian $J$ of the outputs and the
Hessian $H$ of the loss by the outputs. For the negative log-likelihood of an exponential
family in its natural parameters it is the Fisher information.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from solvers.optimisers.base import STOP, choose, full_bounds, is_running, to_optimistix
from solvers.optimisers.composite import Composite
from solvers.optimisers.descent import all_finite


class _Step(eqx.Module):
    """A step on trial, flat: where it leads, and what the quadratic model says of it.

    `slope` is the derivative of the objective along it, `curve` its square in the metric.
    """

    candidate: Float[Array, " parameters"]
    slope: Float[Array, ""]
    curve: Float[Array, ""]

    def predicted(self) -> Float[Array, ""]:
        """How far the objective should fall."""
        return -(self.slope + self.curve / 2)

    def shorter(self, base: Array) -> "_Step":
        """A quarter of it."""
        candidate = base + (self.candidate - base) / 4
        return _Step(candidate, self.slope / 4, self.curve / 16)


class _State(eqx.Module):
    trial: _Step
    value: Float[Array, ""]
    auxiliary: Any
    damping: Float[Array, ""]
    raise_by: Float[Array, ""]
    rejected: Int[Array, ""]
    first_slope: Float[Array, ""]
    steps: Int[Array, ""]
    products: Int[Array, ""]
    stop: Any


REJECTIONS = 40
"""Rejected steps in a row after which no shorter one is tried."""


class NaturalGradient(optx.AbstractMinimiser):
    r"""Steps $-(J^T H J + \lambda I)^{-1} g$, accepted if the objective falls.

    The damping $\lambda$ falls after good steps and rises after bad ones (H. B. Nielsen's
    rule); a bad step is also shortened, so that each iteration evaluates outputs and
    derivatives once, at one point. Parameters at a bound that the gradient pushes against
    are held; the step of the others is projected.

    - `objective`: the `Composite` that is the objective of the problem as well:
      `Minimisation(objective)` with `NaturalGradient(objective=objective)`. If the two
      differ at the start, it stops there as `stalled`.
    - `dense_limit`: with at most so many parameters the metric is a matrix, made from the
      columns of $J$ in forward mode alone. With more, the equation is solved by conjugate
      gradients on products, which need forward and reverse mode of the outputs.
    - `inner_steps`, `inner_tolerance`: limits of the conjugate gradients: products in a
      step, and the residual relative to the gradient.
    - `damping`: the first $\lambda$, relative to the curvature along the gradient.
    - `rtol`, `atol`, `norm`: it stops where the projected gradient is at most `atol`, or
      where the objective (actually and as predicted) or the step changes by no more than
      `rtol` and `atol` allow and the gradient says as well that little is to be gained.

    Statistics: `products`, with the metric by the conjugate gradients.

    Source: S. Amari, Neural Comput. 10, 251 (1998); J. Martens, J. Mach. Learn. Res. 21,
    146 (2020), on the metric and its damping; H. B. Nielsen, IMM-REP-1999-05 (1999);
    D. P. Bertsekas, SIAM J. Control Optim. 20, 221 (1982), on the bounds.
    """

    objective: Composite
    dense_limit: int = eqx.field(default=100, static=True)
    inner_steps: int = 100
    inner_tolerance: float = 0.3
    damping: float = 1e-3
    rtol: float = 1e-10
    atol: float = 1e-10
    norm: Callable[[PyTree], Any] = optx.max_norm

    def init(
        self,
        fn: Any,
        y: PyTree,
        args: Any,
        options: Any,
        f_struct: Any,
        aux_struct: Any,
        tags: Any,
    ) -> _State:
        """See optimistix."""
        del options, f_struct, aux_struct, tags
        value, auxiliary = fn(y, args)
        flat, _ = ravel_pytree(y)
        zero = jnp.zeros((), flat.dtype)
        # The first trial is the start itself, so that there is one place of evaluation.
        return _State(
            trial=_Step(flat, zero, zero),
            value=jnp.asarray(value, flat.dtype),
            auxiliary=auxiliary,
            damping=zero,
            raise_by=zero + 2,
            rejected=jnp.asarray(0),
            first_slope=zero,
            steps=jnp.asarray(0),
            products=jnp.asarray(0),
            stop=STOP.running,
        )

    def step(
        self, fn: Any, y: PyTree, args: Any, options: Any, state: _State, tags: Any
    ) -> tuple[PyTree, _State, Any]:
        """See optimistix."""
        del fn, tags
        base, unravel = ravel_pytree(y)
        bounds = tuple(
            ravel_pytree(bound)[0]
            for bound in full_bounds(y, options.get("lower"), options.get("upper"))
        )
        trial, first = state.trial, state.steps == 0
        value, gradient, metric = self._linearise(unravel, trial.candidate, args)
        finite = all_finite(value, gradient)
        predicted, fall = trial.predicted(), state.value - value
        ratio = fall / _positive(predicted)
        accepted = finite & (first | (ratio > 1e-4))

        damping, raise_by = _adapt(state, ratio, accepted)
        square = jnp.vdot(gradient, gradient)
        damping = jax.lax.cond(
            first,
            lambda: self.damping * jnp.vdot(gradient, metric(gradient)) / _positive(square),
            lambda: damping,
        )
        first_slope = jnp.where(first, jnp.sqrt(square), state.first_slope)
        # Looser at first, so that the iteration converges superlinearly in the end.
        relative = jnp.sqrt(jnp.sqrt(square) / _positive(first_slope))
        tolerance = jnp.minimum(self.inner_tolerance, relative)
        target = jnp.where(finite & accepted, -gradient, 0)
        new, products = self._next(
            trial.candidate, gradient, target, metric, damping, bounds, tolerance
        )
        trial_after = choose(accepted, new, trial.shorter(base))
        stop = self._stop(state, base, value, gradient, accepted, finite, bounds)
        after = _State(
            trial=trial_after,
            value=jnp.where(accepted, value, state.value),
            auxiliary=state.auxiliary,
            damping=damping,
            raise_by=raise_by,
            rejected=jnp.where(accepted, 0, state.rejected + 1),
            first_slope=first_slope,
            steps=state.steps + 1,
            products=state.products + products,
            stop=stop,
        )
        return unravel(jnp.where(accepted, trial.candidate, base)), after, state.auxiliary

    def terminate(
        self, fn: Any, y: PyTree, args: Any, options: Any, state: _State, tags: Any
    ) -> tuple[Array, Any]:
        """See optimistix."""
        del fn, y, args, options, tags
        return to_optimistix(state.stop)

    def postprocess(
        self,
        fn: Any,
        y: PyTree,
        aux: Any,
        args: Any,
        options: Any,
        state: _State,
        tags: Any,
        result: Any,
    ) -> tuple[PyTree, Any, dict[str, Any]]:
        """See optimistix."""
        del aux, options, tags, result
        # The steps see the composite alone: the auxiliary output is that of the problem.
        _, auxiliary = fn(y, args)
        statistics = {"stop": state.stop, "objective": state.value, "products": state.products}
        return y, auxiliary, statistics

    def _linearise(
        self, unravel: Any, point: Array, args: Any
    ) -> tuple[Array, Array, Callable[[Array], Array]]:
        """Value, gradient, and the product with the metric at a point."""
        shapes: list[Any] = []

        def flat_outputs(function: Any, flat: Array) -> Array:
            out, restore = ravel_pytree(function(unravel(flat), args))
            shapes.append(restore)
            return out

        def loss(out: Array) -> Array:
            return self.objective.loss_of(shapes[0](out), args)

        out, push = jax.linearize(partial(flat_outputs, self.objective.outputs), point)
        value, cotangent = jax.value_and_grad(loss)(out)
        _, hessian = jax.linearize(jax.grad(loss), out)
        if point.size <= self.dense_limit:
            columns = jax.vmap(push)(jnp.eye(point.size, dtype=point.dtype))
            matrix = columns @ jax.vmap(hessian)(columns).T
            return value, columns @ cotangent, lambda v: matrix @ v
        if self.objective.reverse is None:
            pull = jax.linear_transpose(push, point)
        else:
            _, pull = jax.vjp(partial(flat_outputs, self.objective.reverse), point)
        return value, pull(cotangent)[0], lambda v: pull(hessian(push(v)))[0]

    def _next(
        self,
        point: Array,
        gradient: Array,
        target: Array,
        metric: Any,
        damping: Array,
        bounds: Any,
        tolerance: Array,
    ) -> tuple[_Step, Int[Array, ""]]:
        """The step from an accepted point, and how many products it took."""
        lower, upper = bounds
        held = (point <= lower) & (gradient > 0) | (point >= upper) & (gradient < 0)
        target = jnp.where(held, 0, target)

        def product(v: Array) -> Array:
            return metric(v) * ~held + damping * v

        if point.size <= self.dense_limit:
            identity = jnp.eye(point.size, dtype=point.dtype)
            matrix = jax.vmap(product)(jnp.where(held[:, None], 0, identity)).T
            matrix += jnp.where(held[:, None], identity, 0)
            solution = jnp.linalg.solve(matrix, target)
            products = jnp.asarray(0)
        else:
            solution, products = _conjugate_gradients(
                product, target, self.inner_steps, tolerance
            )
        step = jnp.clip(solution, lower - point, upper - point)
        # A projected step need not go down, but the projected gradient does.
        fails = ~(jnp.vdot(gradient, step) < 0) | ~all_finite(step)
        size = damping + jnp.linalg.norm(gradient)
        down = jnp.clip(point - gradient / _positive(size), lower, upper) - point
        step = jnp.where(fails, down, step)
        # The residual is orthogonal to an uncut solution, which saves a product.
        curve = jax.lax.cond(
            jnp.any(step != solution),
            lambda: jnp.vdot(step, metric(step)),
            lambda: jnp.vdot(step, target - damping * step),
        )
        candidate = jnp.clip(point + step, lower, upper)
        return _Step(candidate, jnp.vdot(gradient, step), jnp.maximum(curve, 0)), products

    def _stop(
        self,
        state: _State,
        base: Array,
        value: Array,
        gradient: Array,
        accepted: Array,
        finite: Array,
        bounds: Any,
    ) -> Any:
        """Why to stop after the evaluation of a trial, if at all."""
        trial, first = state.trial, state.steps == 0
        lower, upper = bounds
        point = jnp.where(accepted, trial.candidate, base)
        projected = point - jnp.clip(point - gradient, lower, upper)
        level = self.atol + self.rtol * jnp.abs(state.value)
        little = self.norm(projected * jnp.maximum(jnp.abs(point), 1)) <= jnp.sqrt(
            self.rtol
        ) * jnp.maximum(jnp.abs(value), 1)
        fall, predicted = state.value - value, trial.predicted()
        moved = self.norm(trial.candidate - base)
        near = accepted & ~first & little
        still = moved <= self.atol + self.rtol * self.norm(point)
        stop = STOP.where(near & still, STOP.step, STOP.running)
        quiet = (fall <= level) & (predicted <= level)
        stop = STOP.where(near & quiet, STOP.objective, stop)
        # Below the rounding of the objective no trial can be told from another.
        rounding = 8 * jnp.finfo(base.dtype).eps * jnp.abs(state.value)
        lost = ~accepted & ~first & finite & little
        stop = STOP.where(lost & (predicted <= rounding), STOP.objective, stop)
        stop = STOP.where(~accepted & (state.rejected >= REJECTIONS), STOP.stalled, stop)
        stationary = accepted & (self.norm(projected) <= self.atol)
        stop = STOP.where(stationary, STOP.gradient, stop)
        tolerance = jnp.sqrt(jnp.finfo(base.dtype).eps)
        differs = jnp.abs(fall) > tolerance * (1 + jnp.abs(value))
        stop = STOP.where(first & finite & differs, STOP.stalled, stop)
        stop = STOP.where(first & ~finite, STOP.nonfinite_start, stop)
        return STOP.where(is_running(state.stop), stop, state.stop)


def _positive(x: Array) -> Array:
    """A divisor: one in place of what is not positive."""
    return jnp.where(x > 0, x, jnp.ones_like(x))


def _adapt(state: _State, ratio: Array, accepted: Array) -> tuple[Array, Array]:
    """Damping, and the factor by which the next bad step raises it."""
    clipped = jnp.clip(ratio, 0, 1)
    lowered = state.damping * jnp.maximum(1 / 3, 1 - (2 * clipped - 1) ** 3)
    damping = jnp.where(accepted, lowered, state.damping * state.raise_by)
    return damping, jnp.where(accepted, jnp.asarray(2.0, ratio.dtype), 2 * state.raise_by)


def _conjugate_gradients(
    product: Callable[[Array], Array], target: Array, steps: Any, tolerance: Any
) -> tuple[Array, Int[Array, ""]]:
    """Solve a positive definite equation roughly; how many products it took.

    It ends early where the matrix turns out not to be positive definite, with the
    solution so far (the gradient direction, if that is at once).
    """
    goal = (tolerance * jnp.linalg.norm(target)) ** 2

    def going(carry: Any) -> Bool[Array, ""]:
        _, _, _, square, count, sound = carry
        return sound & (square > goal) & (count < steps)

    def body(carry: Any) -> Any:
        solution, residual, direction, square, count, _ = carry
        image = product(direction)
        curvature = jnp.vdot(direction, image)
        sound = curvature > 0
        size = jnp.where(sound, square / _positive(curvature), jnp.where(count == 0, 1.0, 0.0))
        solution = solution + size * direction
        residual = residual - size * image
        new = jnp.vdot(residual, residual)
        direction = residual + new / _positive(square) * direction
        return solution, residual, direction, new, count + 1, sound

    square = jnp.vdot(target, target)
    begin = (jnp.zeros_like(target), target, target, square, jnp.asarray(0), jnp.asarray(True))
    solution, _, _, _, count, _ = jax.lax.while_loop(going, body, begin)
    return solution, count
