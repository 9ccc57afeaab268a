"""Limited-memory BFGS between bounds, for many parameters and first derivatives only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Int, PyTree

from solvers.optimisers.base import STOP, is_running, to_optimistix
from solvers.optimisers.flat_objective import (
    FlatObjective,
    Scalar,
    Vector,
    binding,
    choose,
    clip_to_bounds,
    empty_aux,
    flatten,
    rounding,
)
from solvers.optimisers.limited_memory import (
    Pairs,
    cauchy_point,
    compact,
    no_pairs,
    remember,
    subspace_point,
)


SUFFICIENT, FLATTER = 1e-4, 0.9
"""The constants of the Wolfe conditions on decrease and slope."""


class Point(NamedTuple):
    """A point on the line: how far along, objective, and gradient."""

    share: Scalar
    value: Scalar
    gradient: Vector


class Line(NamedTuple):
    """A line search: the direction, the next share of it, and the bracket.

    - `direction`, `slope`, `longest`: the direction, the slope at its start, and the share
      that a bound allows.
    - `share`: to be evaluated next.
    - `low`, `high`: the longest share known to be too short and the shortest too long.
    - `tries`: evaluations so far.
    """

    direction: Vector
    slope: Scalar
    longest: Scalar
    share: Scalar
    low: Point
    high: Point
    tries: Int[Array, ""]


class QuasiNewtonState(eqx.Module):
    """Where an iteration stands.

    Objective and gradient at the current point, the pairs, the line search, and the
    counts that lead to a stop.
    """

    value: Scalar
    gradient: Vector
    pairs: Pairs
    line: Line
    first_value: Scalar
    largest: Vector
    quiet: Int[Array, ""]
    aux: PyTree
    stop: Any
    evaluations: Int[Array, ""]


class LBFGSB(optx.AbstractMinimiser):
    """Limited-memory BFGS with bounds.

    The model of the Hessian comes from the last changes of the gradient. Its minimiser
    between the bounds (generalised Cauchy point, then the free subspace) gives a
    direction, along which a line search meets the Wolfe conditions; each step of the
    solver is one evaluation of objective and gradient. A good algorithm for many
    parameters where no Hessian is to be had; it converges to minima only from most
    starts, since it knows no negative curvature.

    - `rtol`: converged once, three times in a row, steps change no parameter by more than
      this fraction of its largest value so far and the promised decrease is lost in
      rounding, of the objective or against its fall from the start.
    - `atol`: or once no free derivative is larger than this (default: exactly zero).
    - `norm`: the norm of the gradient for `atol`.
    - `memory`: pairs that are kept.
    - `noise`: relative error of the objective beyond rounding.

    Bounds are read from `options["lower"]` and `options["upper"]`; nothing is evaluated
    outside.

    Reference: R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, SIAM J. Sci. Comput. 16, 1190
    (1995); J. L. Morales and J. Nocedal, ACM Trans. Math. Softw. 38, 7 (2011); the
    conditions near rounding, W. W. Hager and H. Zhang, SIAM J. Optim. 16, 170 (2005).
    """

    rtol: float = 1e-8
    atol: float = 0.0
    norm: Callable[[PyTree], Scalar] = optx.max_norm
    memory: int = 10
    noise: float = 0.0

    def init(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        f_struct: PyTree,
        aux_struct: PyTree,
        tags: frozenset[object],
    ) -> QuasiNewtonState:
        """Nothing is evaluated yet: the first step evaluates the start."""
        del f_struct, tags
        _, x = flatten(fn, y, args, options)
        zero, zeros, none = jnp.zeros((), x.dtype), jnp.zeros_like(x), jnp.asarray(0)
        no = jnp.asarray(False)
        nowhere = Point(zero, zero, zeros)
        return QuasiNewtonState(
            value=zero,
            gradient=zeros,
            pairs=no_pairs(x, self.memory),
            line=Line(zeros, zero, zero, zero, nowhere, nowhere, none),
            first_value=zero,
            largest=zeros,
            quiet=none,
            aux=empty_aux(aux_struct),
            stop=STOP.where(no, STOP.running, STOP.running),
            evaluations=none,
        )

    def step(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: QuasiNewtonState,
        tags: frozenset[object],
    ) -> tuple[PyTree, QuasiNewtonState, Any]:
        """One evaluation: the line search goes on, or a new one begins."""
        del tags
        objective, x = flatten(fn, y, args, options)
        lower, upper = objective.lower, objective.upper
        line = state.line
        trial = clip_to_bounds(x + line.share * line.direction, lower, upper)
        gradient, (value, aux) = objective.gradient(trial)
        begins = state.evaluations == 0
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        there = Point(line.share, value, gradient)
        verdict = _verdict(state, there, finite, self.noise)
        line = _narrow(line, there, verdict, finite)
        fails = ~begins & ~verdict.good & _is_spent(line, x)
        # A search that fails keeps the best point that it found, if any.
        fallback = fails & (line.low.share > 0)
        moved = jnp.where(begins | verdict.good, trial, x)
        back = clip_to_bounds(x + line.low.share * line.direction, lower, upper)
        moved = jnp.where(fallback, back, moved)
        here = choose(fallback, line.low, there)
        arrives = begins | verdict.good | fallback
        here = choose(arrives, here, Point(line.share, state.value, state.gradient))
        pairs = choose(
            arrives & ~begins,
            remember(state.pairs, moved - x, here.gradient - state.gradient),
            state.pairs,
        )
        # One that found nothing forgets the pairs, and tries the steepest descent.
        hopeless = fails & ~fallback & (state.pairs.count == 0)
        pairs = choose(fails & ~fallback, no_pairs(x, self.memory), pairs)
        new_line = jax.lax.cond(
            arrives | fails,
            lambda: _new_line(moved, here, pairs, objective),
            lambda: line,
        )
        following = QuasiNewtonState(
            value=here.value,
            gradient=here.gradient,
            pairs=pairs,
            line=new_line,
            first_value=jnp.where(begins, value, state.first_value),
            largest=jnp.maximum(state.largest, jnp.abs(moved)),
            quiet=state.quiet,
            aux=choose(arrives, aux, state.aux),
            stop=state.stop,
            evaluations=state.evaluations + 1,
        )
        following, stop = self._judge(following, objective, moved, arrives, hopeless)
        stop = STOP.where(~begins & (value == -jnp.inf), STOP.unbounded, stop)
        stop = STOP.where(begins & ~finite, STOP.nonfinite_start, stop)
        stop = STOP.where(is_running(state.stop), stop, state.stop)
        following = eqx.tree_at(lambda s: s.stop, following, stop)
        return objective.unravel(moved), following, following.aux

    def _judge(
        self,
        state: QuasiNewtonState,
        objective: FlatObjective,
        x: Vector,
        arrives: Array,
        hopeless: Array,
    ) -> tuple[QuasiNewtonState, Any]:
        """Why to stop, or `STOP.running`."""
        line, epsilon = state.line, jnp.finfo(x.dtype).eps
        held = binding(x, state.gradient, objective.lower, objective.upper)
        free = jnp.where(held, 0.0, state.gradient)
        promised = -0.5 * line.slope
        small = jnp.all(jnp.abs(line.direction) <= self.rtol * state.largest)
        error = rounding(state.value, self.noise)
        fallen = state.first_value - state.value
        slight = small & (promised <= jnp.maximum(error, epsilon * fallen))
        slight = slight & (state.pairs.count > 0)
        quiet = jnp.where(arrives, jnp.where(slight, state.quiet + 1, 0), state.quiet)
        state = eqx.tree_at(lambda s: s.quiet, state, quiet)
        nothing_left = 0.1 * promised * line.share <= 10 * error
        stop = STOP.where(
            hopeless,
            STOP.where(nothing_left, STOP.objective, STOP.stalled),
            STOP.running,
        )
        stop = STOP.where(quiet >= 3, STOP.objective, stop)
        vanished = jnp.all(free == 0) | (self.norm(free) <= self.atol)
        stop = STOP.where(arrives & vanished, STOP.gradient, stop)
        far = (state.value < state.first_value) & jnp.any(jnp.abs(x) > 1e20)
        return state, STOP.where(far, STOP.unbounded, stop)

    def terminate(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: QuasiNewtonState,
        tags: frozenset[object],
    ) -> tuple[Array, Any]:
        """Whether it stopped, and how."""
        del fn, y, args, options, tags
        return to_optimistix(state.stop)

    def postprocess(
        self,
        fn: Any,
        y: PyTree,
        aux: Any,
        args: PyTree,
        options: dict[str, Any],
        state: QuasiNewtonState,
        tags: frozenset[object],
        result: Any,
    ) -> tuple[PyTree, Any, dict[str, Any]]:
        """Adds the statistics."""
        del tags, result
        objective, x = flatten(fn, y, args, options)
        held = binding(x, state.gradient, objective.lower, objective.upper)
        statistics = {
            "stop": state.stop,
            "objective": state.value,
            "gradient_norm": jnp.max(jnp.abs(jnp.where(held, 0.0, state.gradient))),
            "function_evaluations": state.evaluations,
            "derivative_evaluations": state.evaluations,
        }
        return y, aux, statistics


class _Verdict(NamedTuple):
    """What the Wolfe conditions say of a point on the line."""

    good: Bool[Array, ""]
    too_short: Bool[Array, ""]


def _verdict(state: QuasiNewtonState, there: Point, finite: Array, noise: float) -> _Verdict:
    """Whether the point is good, too short, or else too long."""
    line = state.line
    slope = jnp.dot(there.gradient, line.direction)
    error = rounding(state.value, noise)
    falls = there.value <= state.value + SUFFICIENT * there.share * line.slope
    # Where rounding hides the decrease, the slope tells.
    hidden = (jnp.abs(there.share * line.slope) <= 10 * error) & (
        there.value <= state.value + error
    )
    falls = jnp.where(hidden, slope <= (2 * SUFFICIENT - 1) * line.slope, falls) & finite
    steep = slope < FLATTER * line.slope
    at_bound = there.share >= line.longest
    return _Verdict(falls & (~steep | at_bound), falls & steep & ~at_bound)


def _narrow(line: Line, there: Point, verdict: _Verdict, finite: Array) -> Line:
    """The bracket with a new point, and the next share."""
    low = choose(verdict.too_short, there, line.low)
    too_long = ~verdict.good & ~verdict.too_short
    unknown = jnp.where(finite, there.value, jnp.inf)
    gradient = jnp.where(finite, there.gradient, 0.0)
    high = choose(too_long, Point(there.share, unknown, gradient), line.high)
    bracketed = jnp.isfinite(high.share)
    width = high.share - low.share
    inner = _interpolate(low, high, line.direction)
    # Every third try halves the bracket, should interpolation creep.
    halves = ~jnp.isfinite(inner) | (line.tries % 3 == 2)
    inner = choose(halves, 0.5 * width, jnp.clip(inner, 0.1 * width, 0.9 * width))
    inner = choose(jnp.isfinite(high.value), inner, 0.2 * width)
    share = jnp.where(bracketed, low.share + inner, jnp.minimum(4 * line.share, line.longest))
    return line._replace(low=low, high=high, share=share, tries=line.tries + 1)


def _interpolate(low: Point, high: Point, direction: Vector) -> Scalar:
    """The distance from `low` to the minimum of the cubic through both ends."""
    width = high.share - low.share
    slopes = jnp.dot(low.gradient, direction), jnp.dot(high.gradient, direction)
    mean = slopes[0] + slopes[1] - 3 * (high.value - low.value) / width
    inside = mean**2 - slopes[0] * slopes[1]
    root = jnp.sqrt(jnp.maximum(inside, 0.0))
    place = width * (1 - (slopes[1] + root - mean) / (slopes[1] - slopes[0] + 2 * root))
    return jnp.where(inside >= 0, place, jnp.nan)


def _is_spent(line: Line, x: Vector) -> Bool[Array, ""]:
    """Whether a search has nothing left to try."""
    epsilon = jnp.finfo(x.dtype).eps
    width = (line.high.share - line.low.share) * jnp.abs(line.direction)
    return (line.tries >= 40) | jnp.all(width <= epsilon * jnp.abs(x))


def _new_line(x: Vector, here: Point, pairs: Pairs, objective: FlatObjective) -> Line:
    """The direction from the model, and the first share to try."""
    lower, upper = objective.lower, objective.upper
    model = compact(pairs)
    cauchy = cauchy_point(x, here.gradient, model, lower, upper)
    target = subspace_point(x, here.gradient, model, cauchy, lower, upper)
    direction = target - x
    slope = jnp.dot(direction, here.gradient)
    steepest = jnp.clip(x - here.gradient, lower, upper) - x
    usable = jnp.all(jnp.isfinite(direction)) & (slope < 0)
    direction = jnp.where(usable, direction, steepest)
    slope = jnp.dot(direction, here.gradient)
    room = jnp.where(direction > 0, upper - x, lower - x)
    shares = jnp.where(direction == 0, jnp.inf, room / jnp.where(direction == 0, 1, direction))
    longest = jnp.clip(jnp.min(shares), 1.0, 1e20)
    # Without pairs the length of the gradient means nothing; the parameters' does.
    length, size = jnp.linalg.norm(direction), jnp.linalg.norm(x)
    reach = choose(size > 0, 0.1 * size, 1.0) / choose(length > 0, length, 1.0)
    known = usable & (pairs.count > 0)
    share = jnp.where(known, 1.0, jnp.minimum(reach, 1.0))
    zero = jnp.zeros_like(here.value)
    return Line(
        direction,
        slope,
        longest,
        share,
        Point(zero, here.value, here.gradient),
        Point(zero + jnp.inf, here.value, here.gradient),
        jnp.asarray(0),
    )
