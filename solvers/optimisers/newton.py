"""Newton's method with the whole Hessian, for problems of up to some hundred parameters."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Int, PyTree

from solvers.optimisers.base import STOP, is_running, to_optimistix
from solvers.optimisers.flat_objective import (
    Derivatives,
    FlatObjective,
    Scalar,
    Vector,
    binding,
    choose,
    clip_to_bounds,
    decrease,
    empty_aux,
    flatten,
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
    - `control`: the trust radius, or the weight of the cubic term.
    - `trial`, `predicted`, `model`: the next point, how far the objective should fall
      there, and what is known of the step.
    - `last`: the trial is the closing step.
    - `first_value`, `largest`: the objective at the start, and the largest absolute
      value so far of each parameter.
    - `rejected`, `quiet`: trials rejected, and steps that barely mattered, in a row.
    - `aux`, `stop`, `evaluations`: as their names say.
    """

    here: Derivatives
    scale: Vector
    control: Scalar
    trial: Vector
    predicted: Scalar
    model: ModelStep
    last: Bool[Array, ""]
    first_value: Scalar
    largest: Vector
    rejected: Int[Array, ""]
    quiet: Int[Array, ""]
    aux: PyTree
    stop: Any
    evaluations: Int[Array, ""]


class AbstractDenseNewton(optx.AbstractMinimiser):
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
    def begin(self, radius: Scalar) -> Scalar:
        """The control at the start, given a reasonable length of the first step."""

    @abc.abstractmethod
    def adapt(self, control: Scalar, ratio: Scalar, size: Scalar, newton: Array) -> Scalar:
        """The next control, after a step of this size.

        Its actual decrease was `ratio` of the prediction; `-inf` stands for a trial that
        failed.
        """

    def init(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        f_struct: PyTree,
        aux_struct: PyTree,
        tags: frozenset[object],
    ) -> NewtonState:
        """Nothing is evaluated yet: the first step evaluates the start."""
        del f_struct, tags
        _, x = flatten(fn, y, args, options)
        zero, zeros, no = jnp.zeros((), x.dtype), jnp.zeros_like(x), jnp.asarray(False)
        nothing = Derivatives(zero, zeros, jnp.zeros((x.size, x.size), x.dtype))
        none = jnp.asarray(0)
        return NewtonState(
            here=nothing,
            scale=jnp.ones_like(x),
            control=zero,
            trial=x,
            predicted=zero,
            model=ModelStep(zeros, no, zero, no),
            last=no,
            first_value=zero,
            largest=zeros,
            rejected=none,
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
        state: NewtonState,
        tags: frozenset[object],
    ) -> tuple[PyTree, NewtonState, Any]:
        """Evaluate the trial, take or reject it, and choose the next one."""
        del tags
        objective, x = flatten(fn, y, args, options)
        there, aux = objective.derivatives(state.trial, self.forward)
        begins = state.evaluations == 0
        ratio = jnp.where(begins, 1.0, _ratio(state, x, there, self.noise))
        closes = state.last & ~begins & _gradient_fell(state, there, objective)
        accepted = begins | (ratio > 1e-4) | closes
        moved = jnp.where(accepted, state.trial, x)
        here = choose(accepted, there, state.here)
        scale = jnp.where(accepted, _scale(state.scale, here, moved, begins), state.scale)
        control = jnp.where(
            begins,
            self.begin(_first_radius(here, moved, scale)),
            self.adapt(
                state.control,
                ratio,
                norm_of(state.scale * (state.trial - x)),
                state.model.newton,
            ),
        )
        taken = eqx.tree_at(
            lambda s: (s.here, s.scale, s.control, s.first_value, s.largest, s.rejected),
            state,
            (
                here,
                scale,
                control,
                jnp.where(begins, there.value, state.first_value),
                jnp.maximum(state.largest, jnp.abs(moved)),
                jnp.where(accepted, 0, state.rejected + 1),
            ),
        )
        following = self._propose(taken, objective, moved, accepted)
        stop = _judge(following, state, there, objective, moved)
        aux = choose(accepted, aux, state.aux)
        following = eqx.tree_at(
            lambda s: (s.aux, s.stop, s.evaluations),
            following,
            (aux, stop, state.evaluations + 1),
            is_leaf=lambda leaf: leaf is None,
        )
        return objective.unravel(moved), following, aux

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
        small = jnp.abs(step) <= self.rtol * jnp.abs(x)
        small = jnp.all(small) | (self.norm(step) <= self.atol)
        # Towards a minimum at zero or of vanishing curvature no step is ever small
        # against the parameters; there it must be small against the way so far.
        slight = jnp.all(jnp.abs(step) <= self.rtol * state.largest)
        fallen = state.first_value - here.value
        slight = slight & (predicted <= jnp.finfo(x.dtype).eps * fallen) & model.newton
        quiet = jnp.where(accepted, jnp.where(slight, state.quiet + 1, 0), state.quiet)
        return eqx.tree_at(
            lambda s: (s.model, s.trial, s.predicted, s.quiet, s.last),
            state,
            (model, trial, predicted, quiet, model.newton & (small | (quiet >= 3))),
        )

    def terminate(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: NewtonState,
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
        state: NewtonState,
        tags: frozenset[object],
        result: Any,
    ) -> tuple[PyTree, Any, dict[str, Any]]:
        """Adds the statistics."""
        del tags, result
        objective, x = flatten(fn, y, args, options)
        gradient = state.here.gradient
        held = binding(x, gradient, objective.lower, objective.upper)
        statistics = {
            "stop": state.stop,
            "objective": state.here.value,
            "gradient_norm": jnp.max(jnp.abs(jnp.where(held, 0.0, gradient))),
            "function_evaluations": state.evaluations,
            "derivative_evaluations": state.evaluations,
        }
        return y, aux, statistics


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


def _gradient_fell(
    state: NewtonState, there: Derivatives, objective: FlatObjective
) -> Bool[Array, ""]:
    """Whether the closing step brought the gradient nearer to zero."""
    held = binding(state.trial, there.gradient, objective.lower, objective.upper)
    before = norm_of(jnp.where(held, 0.0, state.here.gradient) / state.scale)
    after = norm_of(jnp.where(held, 0.0, there.gradient) / state.scale)
    rose = there.value - state.here.value > rounding(state.here.value, 0.0)
    return there.are_finite() & (after <= before) & ~rose


def _scale(old: Vector, here: Derivatives, x: Vector, begins: Array) -> Vector:
    """The root of each diagonal curvature, so that steps do not depend on units.

    Where it vanishes, slope over size of the parameter has the same unit. From one
    iteration to the next it may fall by no more than a half.
    """
    size = jnp.where(x == 0, 1.0, jnp.abs(x))
    curvature = jnp.abs(jnp.diagonal(here.hessian))
    epsilon = jnp.finfo(x.dtype).eps
    least = jnp.sqrt(epsilon) * jnp.abs(here.gradient) / size
    squared = jnp.maximum(curvature, least)
    new = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    return jnp.where(begins, new, jnp.maximum(new, 0.5 * old))


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
    begins = old.evaluations == 0
    here, epsilon = new.here, jnp.finfo(x.dtype).eps
    held = binding(x, here.gradient, objective.lower, objective.upper)
    slope = jnp.where(held, 0.0, jnp.abs(here.gradient))
    pull, size = norm_of(slope / new.scale), norm_of(new.scale * x)
    root = jnp.sqrt(epsilon)
    # What a Newton step could still gain, and whether that is lost in rounding.
    gain = 0.5 * pull**2 / jnp.maximum(new.model.lowest, 4 * epsilon)
    gain = jnp.where(new.model.newton, new.predicted, gain)
    fallen = new.first_value - here.value
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
    stop = STOP.where(stuck, STOP.stalled, STOP.running)
    stop = STOP.where(stuck & near & lost, STOP.objective, stop)
    stop = STOP.where(closed, STOP.where(old.quiet >= 3, STOP.objective, STOP.step), stop)
    stop = STOP.where(vanished, STOP.gradient, stop)
    falls = (here.value < new.first_value) & jnp.any(jnp.abs(x) > 1e20)
    stop = STOP.where(falls | (there.value == -jnp.inf), STOP.unbounded, stop)
    stop = STOP.where(new.model.flat & jnp.all(slope == 0) & ~jnp.all(held), STOP.flat, stop)
    stop = STOP.where(begins & ~there.are_finite(), STOP.nonfinite_start, stop)
    return STOP.where(is_running(old.stop), stop, old.stop)


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

    def begin(self, radius: Scalar) -> Scalar:
        """The radius."""
        return radius

    def adapt(self, control: Scalar, ratio: Scalar, size: Scalar, newton: Array) -> Scalar:
        """A quarter of a bad step; twice a good one."""
        del newton
        shorter = 0.25 * size
        longer = jnp.maximum(control, 2.0 * size)
        return jnp.where(ratio < 0.25, shorter, jnp.where(ratio > 0.75, longer, control))


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

    def begin(self, radius: Scalar) -> Scalar:
        """As much curvature as the scaled Hessian has itself, at this length."""
        return 1 / radius

    def adapt(self, control: Scalar, ratio: Scalar, size: Scalar, newton: Array) -> Scalar:
        """Larger after a bad step, smaller after a good one."""
        del size, newton
        tiny = jnp.finfo(control.dtype).tiny ** 0.5
        smaller = jnp.maximum(control * 0.3, tiny)
        larger = control * jnp.where(ratio < 0, 8.0, 2.0)
        return jnp.where(ratio < 0.1, larger, jnp.where(ratio > 0.9, smaller, control))
