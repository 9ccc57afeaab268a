"""Limited-memory BFGS between bounds, for many parameters and first derivatives only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, PyTree

from solvers.optimisers.base import STOP, choose
from solvers.optimisers.curvature_probe import (
    Finding,
    Probe,
    begin_probe,
    examine,
    no_probe,
)
from solvers.optimisers.flat_minimiser import (
    AbstractFlatMinimiser,
    Record,
)
from solvers.optimisers.flat_objective import (
    FlatObjective,
    Scalar,
    Vector,
    clip_to_bounds,
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
from solvers.optimisers.line_search import Line, Point, is_spent, narrow, verdict


class QuasiNewtonState(eqx.Module):
    """Where an iteration stands.

    Objective and gradient at the current point, the pairs, the line search, the probe,
    and what is kept of the way.
    """

    value: Scalar
    gradient: Vector
    pairs: Pairs
    line: Line
    probe: Probe
    record: Record


class _Arrival(NamedTuple):
    """Where an evaluation leaves the iteration.

    - `x`, `here`: the current point, and objective and gradient there.
    - `arrives`: whether it is a new one; `fails`: whether the search found none.
    - `stays`: the step was so short that rounding swallowed it.
    """

    x: Vector
    here: Point
    arrives: Bool[Array, ""]
    fails: Bool[Array, ""]
    stays: Bool[Array, ""]


class LBFGSB(AbstractFlatMinimiser):
    """Limited-memory BFGS with bounds.

    The model of the Hessian comes from the last changes of the gradient. Its minimiser
    between the bounds (generalised Cauchy point, then the free subspace) gives a
    direction, along which a line search meets the Wolfe conditions; each step of the
    solver is one evaluation of objective and gradient. Where the gradient vanishes
    exactly, or before any positive curvature was seen, a few more evaluations tell a
    minimum from a plateau and from a saddle point or maximum, which it leaves. A good
    algorithm for many parameters where no Hessian is to be had; elsewhere it knows no
    negative curvature, so that it converges to minima only from most starts.

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

    def begin(self, objective: FlatObjective, x: Vector, record: Record) -> QuasiNewtonState:
        """Nothing is evaluated yet: the first step evaluates the start."""
        del objective
        zero, zeros = jnp.zeros((), x.dtype), jnp.zeros_like(x)
        nowhere = Point(zero, zero, zeros)
        return QuasiNewtonState(
            value=zero,
            gradient=zeros,
            pairs=no_pairs(x, self.memory),
            line=Line(zeros, zero, zero, zero, nowhere, nowhere, jnp.asarray(0)),
            probe=no_probe(x),
            record=record,
        )

    def advance(
        self, objective: FlatObjective, x: Vector, state: QuasiNewtonState
    ) -> tuple[Vector, QuasiNewtonState]:
        """One evaluation: the line search or the probe goes on, or a new one begins."""
        lower, upper = objective.lower, objective.upper
        step = state.line.share * state.line.direction
        step = choose(state.probe.active, state.probe.displacement(x), step)
        trial = clip_to_bounds(x + step, lower, upper)
        gradient, (value, aux) = objective.gradient(trial)
        begins = state.record.begins
        before, after = (state.value, state.gradient), (value, gradient)
        held = objective.held(x, state.gradient)
        finding, probe = examine(state.probe, x, before, trial, after, held, self.noise)
        there = Point(state.line.share, value, gradient)
        arrival, line = _search(state, objective, x, trial, there, finding.escapes, self.noise)
        moved, here, arrives, fails, _ = arrival
        pairs = choose(
            arrives & ~begins,
            remember(state.pairs, moved - x, here.gradient - state.gradient),
            state.pairs,
        )
        # One that found nothing forgets the pairs, and tries the steepest descent.
        hopeless = fails & (state.pairs.count == 0)
        pairs = choose(fails, no_pairs(x, self.memory), pairs)
        following = QuasiNewtonState(
            value=here.value,
            gradient=here.gradient,
            pairs=pairs,
            line=jax.lax.cond(
                arrives | fails,
                lambda: _new_line(moved, here, pairs, objective),
                lambda: line,
            ),
            probe=probe,
            record=state.record.after(value, moved, aux, arrives),
        )
        following, stop = self._judge(following, objective, arrival, hopeless, finding)
        unlimited = ~begins & ~state.probe.active & (value == -jnp.inf)
        stop = STOP.where(unlimited, STOP.unbounded, stop)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        stop = STOP.where(begins & ~finite, STOP.nonfinite_start, stop)
        record = following.record.stopped(stop)
        return moved, eqx.tree_at(lambda s: s.record, following, record)

    def reached(self, state: QuasiNewtonState) -> tuple[Scalar, Vector]:
        """Objective and gradient at the current point."""
        return state.value, state.gradient

    def _judge(
        self,
        state: QuasiNewtonState,
        objective: FlatObjective,
        arrival: _Arrival,
        hopeless: Array,
        finding: Finding,
    ) -> tuple[QuasiNewtonState, Any]:
        """Why to stop, or `STOP.running`; whether to probe before that."""
        x, _, arrives, _, stays = arrival
        line, record = state.line, state.record
        held = objective.held(x, state.gradient)
        free = jnp.where(held, 0.0, state.gradient)
        promised = -0.5 * line.slope
        error = rounding(state.value, self.noise)
        slight = record.slight(line.direction, promised, state.value, self.rtol, error)
        quiet = record.count_quiet(arrives, slight & (state.pairs.count > 0))
        exactly = jnp.all(free == 0)
        vanished = arrives & (exactly | (self.norm(free) <= self.atol))
        vanished = vanished | (stays & (state.pairs.count == 0))
        # Nothing yet says that this is a minimum, unless bounds hold everything.
        doubtful = vanished & (exactly | (state.pairs.count == 0)) & ~jnp.all(held)
        fresh = begin_probe(x, held, objective.lower, objective.upper)
        probe = choose(doubtful, fresh, state.probe)
        state = eqx.tree_at(lambda s: (s.record.quiet, s.probe), state, (quiet, probe))
        nothing_left = 0.1 * promised * line.share <= 10 * error
        stop = STOP.where(
            hopeless,
            STOP.where(nothing_left, STOP.objective, STOP.stalled),
            STOP.running,
        )
        stop = STOP.where(quiet >= 3, STOP.objective, stop)
        stop = STOP.where(vanished | finding.minimum, STOP.gradient, stop)
        stop = STOP.where(probe.active, STOP.running, stop)
        stop = STOP.where(finding.flat, STOP.flat, stop)
        stop = STOP.where(finding.unclear, STOP.stalled, stop)
        unlimited = record.falls_without_limit(state.value, x)
        return state, STOP.where(unlimited, STOP.unbounded, stop)


def _search(
    state: QuasiNewtonState,
    objective: FlatObjective,
    x: Vector,
    trial: Vector,
    there: Point,
    escapes: Array,
    noise: float,
) -> tuple[_Arrival, Line]:
    """Whether the trial is taken, and the line search thereafter."""
    begins, probing = state.record.begins, state.probe.active
    finite = jnp.isfinite(there.value) & jnp.all(jnp.isfinite(there.gradient))
    found = verdict(state.line, state.value, there, finite, noise)
    line = narrow(state.line, there, found, finite)
    taken = begins | (~probing & found.good) | escapes
    spent = ~taken & ~probing & is_spent(line, x)
    # A search that fails keeps the best point that it found, if any.
    fallback = spent & (line.low.share > 0)
    back = clip_to_bounds(x + line.low.share * line.direction, objective.lower, objective.upper)
    moved = jnp.where(fallback, back, jnp.where(taken, trial, x))
    here = Point(line.share, state.value, state.gradient)
    here = choose(taken, there, choose(fallback, line.low, here))
    arrives = taken | fallback
    stays = arrives & ~begins & jnp.all(moved == x)
    arrival = _Arrival(moved, here, arrives, spent & ~fallback, stays)
    return arrival, choose(probing, state.line, line)


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
