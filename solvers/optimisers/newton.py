"""Newton's method with the whole Hessian, for problems of up to some hundred parameters."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Int, PyTree

from solvers.optimisers.base import STOP, choose, is_running
from solvers.optimisers.flat_minimiser import (
    AbstractFlatMinimiser,
    Record,
    gradient_fell,
)
from solvers.optimisers.flat_objective import (
    Derivatives,
    FlatObjective,
    Scalar,
    Vector,
    clip_to_bounds,
    decrease,
    rounding,
)
from solvers.optimisers.subproblems import (
    Length,
    ModelStep,
    bounded_step,
    cubic_term,
    model_decrease,
    norm_of,
)


class NewtonState(eqx.Module):
    """Where an iteration stands, and the trial that the next one evaluates.

    - `here`: objective, gradient and Hessian at the current point.
    - `scale`: what each parameter is multiplied with where lengths are measured.
    - `most`: the largest curvature along each parameter so far.
    - `control`: the trust radius, or the weight of the cubic term.
    - `trial`, `predicted`, `model`: the next point, how far the objective should fall
      there, and what is known of the step.
    - `last`: the trial is the closing step.
    - `rejected`: trials rejected in a row.
    - `record`: what is kept of the way.
    """

    here: Derivatives
    scale: Vector
    most: Vector
    control: Scalar
    trial: Vector
    predicted: Scalar
    model: ModelStep
    last: Bool[Array, ""]
    rejected: Int[Array, ""]
    record: Record


class AbstractDenseNewton(AbstractFlatMinimiser):
    """A Newton iteration; what keeps its steps short is left open."""

    rtol: eqx.AbstractVar[float]
    atol: eqx.AbstractVar[float]
    norm: eqx.AbstractVar[Callable[[PyTree], Scalar]]
    forward: eqx.AbstractVar[bool]
    noise: eqx.AbstractVar[float]

    @abc.abstractmethod
    def length(self, control: Scalar) -> Length:
        """The limit of the length of steps."""

    @abc.abstractmethod
    def first_control(self, radius: Scalar) -> Scalar:
        """The control at the start, given a reasonable length of the first step."""

    @abc.abstractmethod
    def adapt(self, control: Scalar, ratio: Scalar, size: Scalar) -> Scalar:
        """The next control, after a step of this size.

        Its actual decrease was `ratio` of the prediction; `-inf` stands for a trial that
        failed.
        """

    def begin(self, objective: FlatObjective, x: Vector, record: Record) -> NewtonState:
        """Nothing is evaluated yet: the first step evaluates the start."""
        del objective
        zero, zeros, no = jnp.zeros((), x.dtype), jnp.zeros_like(x), jnp.asarray(False)
        return NewtonState(
            here=Derivatives(zero, zeros, jnp.zeros((x.size, x.size), x.dtype)),
            scale=jnp.ones_like(x),
            most=zeros,
            control=zero,
            trial=x,
            predicted=zero,
            model=ModelStep(zeros, no, zero, no),
            last=no,
            rejected=jnp.asarray(0),
            record=record,
        )

    def advance(
        self, objective: FlatObjective, x: Vector, state: NewtonState
    ) -> tuple[Vector, NewtonState]:
        """Evaluate the trial, take or reject it, and choose the next one."""
        there, aux = objective.derivatives(state.trial, self.forward)
        begins = state.record.begins
        ratio = jnp.where(begins, 1.0, _ratio(state, x, there, self.noise))
        accepted = begins | (ratio > 1e-4) | _closes(state, there, objective)
        here = choose(accepted, there, state.here)
        moved = jnp.where(accepted, state.trial, x)
        scale = jnp.where(accepted, _scale(state.scale, here, moved, begins), state.scale)
        size = norm_of(state.scale * (state.trial - x))
        control = jnp.where(
            begins,
            self.first_control(_first_radius(here, moved, scale)),
            self.adapt(state.control, ratio, size),
        )
        record = state.record.after(there.value, moved, aux, accepted)
        record = eqx.tree_at(lambda r: r.products, record, record.evaluations * x.size)
        rejected = jnp.where(accepted, 0, state.rejected + 1)
        most = jnp.maximum(state.most, jnp.abs(jnp.diagonal(here.hessian)))
        taken = eqx.tree_at(
            lambda s: (s.here, s.scale, s.most, s.control, s.rejected, s.record),
            state,
            (here, scale, most, control, rejected, record),
        )
        following = self._propose(taken, objective, moved, accepted)
        stop = _judge(following, state, there, objective, moved)
        record = following.record.stopped(stop)
        return moved, eqx.tree_at(lambda s: s.record, following, record)

    def reached(self, state: NewtonState) -> tuple[Scalar, Vector]:
        """Objective and gradient at the current point."""
        return state.here.value, state.here.gradient

    def _propose(
        self, state: NewtonState, objective: FlatObjective, x: Vector, accepted: Array
    ) -> NewtonState:
        """The next trial, and whether it closes the iteration."""
        here, lower, upper = state.here, objective.lower, objective.upper
        length = self.length(state.control)
        model = bounded_step(x, here.gradient, here.hessian, state.scale, length, lower, upper)
        trial = clip_to_bounds(x + model.step, lower, upper)
        step = trial - x
        predicted = model_decrease(here.gradient, here.hessian, step)
        predicted = predicted - cubic_term(state.scale * step, length)
        small = jnp.all(jnp.abs(step) <= self.rtol * jnp.abs(x))
        small = small | (self.norm(step) <= self.atol)
        slight = state.record.slight(step, predicted, here.value, self.rtol) & model.newton
        quiet = state.record.count_quiet(accepted, slight)
        return eqx.tree_at(
            lambda s: (s.model, s.trial, s.predicted, s.record.quiet, s.last),
            state,
            (model, trial, predicted, quiet, model.newton & (small | (quiet >= 3))),
        )


def _ratio(state: NewtonState, x: Vector, there: Derivatives, noise: float) -> Scalar:
    """Actual decrease over predicted decrease; `-inf` where the trial failed."""
    here, step = state.here, state.trial - x
    fell = decrease(
        here.value, here.gradient, there.value, there.gradient, step, state.predicted, noise
    )
    # After several rejections a step is so short that the objective must follow the
    # model; if the gradient does and the objective does not, the objective is rough.
    expected = here.gradient + here.hessian @ step
    misfit = norm_of((there.gradient - expected) / state.scale)
    follows = misfit <= 0.1 * norm_of((expected - here.gradient) / state.scale)
    epsilon = jnp.sqrt(jnp.finfo(x.dtype).eps)
    near = jnp.abs(there.value - here.value) <= epsilon * jnp.abs(here.value)
    rough = (state.rejected >= 4) & follows & near
    by_gradient = -0.5 * jnp.dot(there.gradient + here.gradient, step)
    fell = jnp.where(rough, by_gradient, fell)
    sound = there.are_finite() & (state.predicted > 0)
    ratio = fell / jnp.where(state.predicted > 0, state.predicted, 1.0)
    return jnp.where(sound, ratio, -jnp.inf)


def _closes(
    state: NewtonState, there: Derivatives, objective: FlatObjective
) -> Bool[Array, ""]:
    """Whether this was the closing step, and did what it should."""
    fell = gradient_fell(
        objective, state.trial, state.here.gradient, there.gradient, state.scale
    )
    rose = there.value - state.here.value > rounding(state.here.value, 0.0)
    return state.last & ~state.record.begins & there.are_finite() & fell & ~rose


def _scale(old: Vector, here: Derivatives, x: Vector, begins: Array) -> Vector:
    """The root of each diagonal curvature, so that steps do not depend on units.

    Where it vanishes, slope over size of the parameter has the same unit. Where curvature
    changes its sign it passes zero, and a scale that followed at once would let the next
    step go anywhere: J. J. Moré, Lecture Notes in Mathematics 630, 105 (1978), never lets
    it fall. Here it may fall by a tenth per iteration, as curvature that was large at a bad
    start says nothing later on.
    """
    size = jnp.where(x == 0, 1.0, jnp.abs(x))
    curvature = jnp.abs(jnp.diagonal(here.hessian))
    epsilon = jnp.finfo(x.dtype).eps
    least = jnp.sqrt(epsilon) * jnp.abs(here.gradient) / size
    squared = jnp.maximum(curvature, least)
    new = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    return jnp.where(begins, new, jnp.maximum(new, 0.9 * old))


def _first_radius(here: Derivatives, x: Vector, scale: Vector) -> Scalar:
    """A tenth of the size of the parameters; at zero the length of the slope.

    Longer first steps more often end at another minimum, farther and higher.
    """
    size, slope = norm_of(scale * x), norm_of(here.gradient / scale)
    return jnp.where(size > 0, 0.1 * size, jnp.where(slope > 0, slope, 1.0))


def _judge(
    new: NewtonState, old: NewtonState, there: Derivatives, objective: FlatObjective, x: Vector
) -> Any:
    """Why to stop, or `STOP.running`."""
    begins, record = old.record.begins, new.record
    here, epsilon = new.here, jnp.finfo(x.dtype).eps
    held = objective.held(x, here.gradient)
    slope = jnp.where(held, 0.0, jnp.abs(here.gradient))
    pull, size = norm_of(slope / new.scale), norm_of(new.scale * x)
    root = jnp.sqrt(epsilon)
    # What a Newton step could still gain, and whether that is lost in rounding.
    gain = 0.5 * pull**2 / jnp.maximum(new.model.lowest, 4 * epsilon)
    gain = jnp.where(new.model.newton, new.predicted, gain)
    fallen = record.first_value - here.value
    lost = gain <= jnp.maximum(1e3 * rounding(here.value, 0.0), epsilon * fallen)
    # The gradient cannot be told from zero if rounding of the parameters changes it so.
    indistinct = jnp.all(slope <= 4 * epsilon * (jnp.abs(here.hessian) @ jnp.abs(x)))
    indistinct = (indistinct | (pull <= epsilon * size)) & lost
    convex = (new.model.lowest >= 0) & ~new.model.flat
    vanished = (indistinct | jnp.all(slope == 0)) & convex
    # Steps that rounding swallows.
    length = norm_of(new.scale * (new.trial - x))
    stuck = (length <= 0.5 * epsilon * size) | (new.rejected > 100)
    near = (new.model.lowest >= -root) & (pull <= root * size)
    closed = old.last & ~begins
    reason = STOP.where(old.record.quiet >= 3, STOP.objective, STOP.step)
    stop = STOP.where(stuck, STOP.stalled, STOP.running)
    stop = STOP.where(stuck & near & lost, STOP.objective, stop)
    stop = STOP.where(closed, reason, stop)
    stop = STOP.where(vanished, STOP.gradient, stop)
    unlimited = record.falls_without_limit(here.value, x) | (there.value == -jnp.inf)
    stop = STOP.where(unlimited, STOP.unbounded, stop)
    flat = new.model.flat & jnp.all(slope == 0) & ~jnp.all(held)
    faded = _has_faded(new, jnp.where(held, 0.0, slope)) & ~held
    flat = flat | (jnp.any(faded) & ~is_running(stop))
    stop = STOP.where(flat, STOP.flat, stop)
    return STOP.where(begins & ~there.are_finite(), STOP.nonfinite_start, stop)


def _has_faded(state: NewtonState, slope: Vector) -> Bool[Array, " n"]:
    """Which parameters mattered once and were lost, not found.

    Such as the rate of a decay that is now over before the first measurement: changing it
    by all its size changes nothing that rounding would show. So it is with a parameter at a
    minimum of vanishing curvature; but there the slope vanishes faster than the curvature,
    and on a plateau both fade alike. Far below rounding no slope can tell any more.
    """
    here, record = state.here, state.record
    epsilon = jnp.finfo(slope.dtype).eps
    curvature = jnp.abs(jnp.diagonal(here.hessian))
    bend = curvature * record.largest
    influence = (slope + bend) * record.largest
    fallen = record.first_value - here.value
    below = influence <= epsilon**2 * jnp.maximum(fallen, jnp.abs(here.value))
    alike = (influence <= epsilon * jnp.abs(here.value)) & (slope > 1e-3 * bend)
    return (below | alike) & (curvature <= epsilon * state.most) & (state.most > 0)


class TrustRegionNewton(AbstractDenseNewton):
    r"""Newton's method with the exact Hessian within a trust region.

    Each iteration takes the global minimiser of
    $g^T s + \tfrac12 s^T H s$ with $\lVert D s \rVert \le \Delta$, between the bounds. It
    follows negative curvature, so that it leaves saddle points and maxima, and does not
    depend on the units of the parameters. One eigendecomposition per iteration: a good
    algorithm for smooth objectives of up to some hundred parameters.

    - `rtol`: converged once a full Newton step changes no parameter by more than this
      fraction; that step is still taken, so that the error is about its square.
    - `atol`: or once the norm of that step is below this (default: never).
    - `norm`: the norm for `atol`.
    - `forward`: differentiate twice in forward mode, for objectives that have no reverse
      mode or few parameters.
    - `noise`: relative error of the objective beyond rounding, such as the tolerance of a
      solver; changes below it are judged by the gradient.

    Bounds are read from `options["lower"]` and `options["upper"]`; nothing is evaluated
    outside. Derivatives of the optimum by optimistix hold where no bound is met.

    Reference: J. J. Moré and D. C. Sorensen, SIAM J. Sci. Stat. Comput. 4, 553 (1983).
    """

    rtol: float = 1e-8
    atol: float = 0.0
    norm: Callable[[PyTree], Scalar] = optx.max_norm
    forward: bool = False
    noise: float = 0.0

    def length(self, control: Scalar) -> Length:
        """The radius."""
        return Length(control, jnp.zeros_like(control))

    def first_control(self, radius: Scalar) -> Scalar:
        """The radius."""
        return radius

    def adapt(self, control: Scalar, ratio: Scalar, size: Scalar) -> Scalar:
        """Half a bad step, a quarter of one that rose; two and a half times a good one.

        With a quarter and twice, and a bad step one of less than a quarter of the
        prediction, 96 of 103 problems of the CUTEst collection reach the best known value;
        with these, 101. Wandering regions must grow fast enough to leave ripples behind.
        """
        shorter = jnp.where(ratio < 0, 0.25, 0.5) * size
        longer = jnp.maximum(control, 2.5 * size)
        return jnp.where(ratio < 0.1, shorter, jnp.where(ratio > 0.75, longer, control))


class CubicNewton(AbstractDenseNewton):
    r"""Newton's method with the exact Hessian and an adaptive cubic term.

    Each iteration takes the global minimiser of
    $g^T s + \tfrac12 s^T H s + \tfrac{\sigma}{3} \lVert D s \rVert^3$, between the
    bounds. The term grows where the model fails and fades where it holds; the number of
    evaluations to a small gradient has the best known worst case of its kind.

    Fields, bounds and use as for `TrustRegionNewton`.

    Reference: C. Cartis, N. I. M. Gould and P. L. Toint, Math. Program. 127, 245 (2011).
    """

    rtol: float = 1e-8
    atol: float = 0.0
    norm: Callable[[PyTree], Scalar] = optx.max_norm
    forward: bool = False
    noise: float = 0.0

    def length(self, control: Scalar) -> Length:
        """Grows with the shift of the Hessian."""
        return Length(jnp.zeros_like(control), 1 / control)

    def first_control(self, radius: Scalar) -> Scalar:
        """As much curvature as the scaled Hessian has itself, at this length."""
        return 1 / radius

    def adapt(self, control: Scalar, ratio: Scalar, size: Scalar) -> Scalar:
        """Larger after a bad step, smaller after a good one."""
        del size
        tiny = jnp.finfo(control.dtype).tiny ** 0.5
        smaller = jnp.maximum(control * 0.3, tiny)
        larger = control * jnp.where(ratio < 0, 8.0, 2.0)
        return jnp.where(ratio < 0.1, larger, jnp.where(ratio > 0.9, smaller, control))
