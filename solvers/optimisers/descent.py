"""What methods share that go down a slope without comparing values at each step.

They take their steps on trust, so the way is watched from outside: the best point is
kept, a point where the objective is no number is left again by half the step, and it is
told when to stop. On batches no single value is worth much: the whole objective is
looked at once in an epoch, and only for the best point.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from solvers.optimisers.base import STOP, choose, full_bounds, is_running, to_optimistix
from solvers.optimisers.batches import Batches, first_order


QUIET_STEPS = 5
"""Steps in a row that must change next to nothing before a method stops for it."""

HALVINGS = 40
"""Times in a row that a step into a region without finite values is halved."""


class Track(eqx.Module):
    """What is remembered of the way: the best point, the last sound one, why it stops.

    - `steps`: evaluations so far, also the number of the next batch.
    - `value`: the last objective; on batches that of the last batch.
    - `sound`: the last point with finite values; `best`, `best_value`: the best one.
    - `quiet`, `halvings`: how often in a row steps changed nothing, or were halved.
    - `order`: the permutation of the epoch, on batches.
    """

    steps: Int[Array, ""]
    value: Float[Array, ""]
    sound: PyTree
    best: PyTree
    best_value: Float[Array, ""]
    quiet: Int[Array, ""]
    halvings: Int[Array, ""]
    stop: Any
    order: Array | None


class Slope(eqx.Module):
    """The objective at a point: the value, its gradient, and its auxiliary output.

    - `judged`: the objective as it enters the choice of the best point; no number where
      it is unknown.
    - `finite`: whether this and all else that a step needs are finite.
    """

    value: Float[Array, ""]
    gradient: PyTree
    auxiliary: Any
    judged: Float[Array, ""]
    finite: Bool[Array, ""]


def begin(
    function: Callable[..., Any], y: PyTree, args: PyTree, batches: Batches | None, dtype: Any
) -> Track:
    """The track before the first step.

    Raises `ValueError` if there are batches and the driver has fixed the shape of `args`.
    """
    nothing = jnp.asarray(jnp.inf, dtype)
    if batches is not None:
        _check_batches(function, y, args, batches)
    return Track(
        steps=jnp.asarray(0),
        value=nothing,
        sound=y,
        best=y,
        best_value=nothing,
        quiet=jnp.asarray(0),
        halvings=jnp.asarray(0),
        stop=STOP.running,
        order=first_order(batches, args),
    )


def _check_batches(function: Any, y: PyTree, args: PyTree, batches: Batches) -> None:
    def first(y: PyTree, args: PyTree) -> Any:
        rows, _ = batches.draw(args, jnp.asarray(0), batches.order(args, jnp.asarray(0)))
        return function(y, rows)[0]

    batches.count(args)
    try:
        eqx.filter_eval_shape(first, y, args)
    except ValueError as error:
        if "Closure-converted" not in str(error):
            raise
        raise ValueError(
            "optimistix.minimise fixes the shape of `args`, so it cannot go through batches: "
            "use solvers.optimisers.base.optimise."
        ) from error


def draw(
    function: Callable[..., Any], y: PyTree, args: PyTree, batches: Batches | None, track: Track
) -> tuple[PyTree, Track, Array | None]:
    """The `args` of this step, the track, and the objective on all rows.

    The last is `None` without batches, and no number but where an epoch begins.
    """
    if batches is None:
        return args, track, None
    assert track.order is not None
    rows, order = batches.draw(args, track.steps, track.order)
    whole = jax.lax.cond(
        track.steps % batches.count(args) == 0,
        lambda: function(y, args)[0],
        lambda: jnp.full_like(track.value, jnp.nan),
    )
    return rows, eqx.tree_at(lambda t: t.order, track, order), whole


def value_and_gradient(function: Callable[[Any], Any], forward: bool) -> Callable[[Any], Any]:
    """`y` to `((value, gradient), auxiliary)`, in reverse mode or in forward mode.

    `function` returns the value and an auxiliary output.
    """
    if not forward:

        def reverse(y: PyTree) -> Any:
            (value, auxiliary), gradient = jax.value_and_grad(function, has_aux=True)(y)
            return (value, gradient), auxiliary

        return reverse

    def doubled(y: PyTree) -> Any:
        value, auxiliary = function(y)
        return value, (value, auxiliary)

    def forwards(y: PyTree) -> Any:
        gradient, (value, auxiliary) = jax.jacfwd(doubled, has_aux=True)(y)
        return (value, gradient), auxiliary

    return forwards


def all_finite(*trees: PyTree) -> Bool[Array, ""]:
    """Whether all numbers are finite."""
    leaves = jax.tree.leaves(trees)
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def project(y: PyTree, options: dict[str, Any]) -> PyTree:
    """The nearest point between the bounds; also in the metric of any diagonal scaling."""
    lower, upper = full_bounds(y, options.get("lower"), options.get("upper"))
    return jax.tree.map(jnp.clip, y, lower, upper)


def projected_gradient(y: PyTree, gradient: PyTree, options: dict[str, Any]) -> PyTree:
    """How far `y` moves if it steps down the gradient and is projected; zero at a minimum."""
    moved = project(jax.tree.map(jnp.subtract, y, gradient), options)
    return jax.tree.map(jnp.subtract, y, moved)


def observe(
    method: Any, track: Track, y: PyTree, slope: Slope, options: dict[str, Any]
) -> Track:
    """The track after an evaluation at `y`: the best point and whether to stop.

    `method` has the fields `rtol`, `atol`, `norm` and `batches`. Without batches it stops
    where the projected gradient is at most `atol`, or after `QUIET_STEPS` steps that
    change both `y` and the objective by no more than `rtol` and `atol` allow, if the
    gradient says as well that little is to be gained; small steps alone (a learning rate
    that decays to nothing) are no success.
    """
    better = slope.finite & (slope.judged < track.best_value)
    halvings = jnp.where(slope.finite, 0, track.halvings + 1)
    quiet = track.quiet
    stop = STOP.where(slope.judged == -jnp.inf, STOP.unbounded, STOP.running)
    stop = STOP.where(~slope.finite & (halvings > HALVINGS), STOP.stalled, stop)
    if method.batches is None:
        gradient = projected_gradient(y, slope.gradient, options)
        moved = jax.tree.map(jnp.subtract, y, track.sound)
        small = method.norm(moved) <= method.atol + method.rtol * method.norm(y)
        change = jnp.abs(slope.value - track.value)
        small &= change <= method.atol + method.rtol * jnp.abs(slope.value)
        quiet = jnp.where(slope.finite & small, quiet + 1, 0)
        gain = jax.tree.map(lambda g, x: g * jnp.maximum(jnp.abs(x), 1), gradient, y)
        level = jnp.sqrt(method.rtol) * jnp.maximum(jnp.abs(slope.value), 1)
        done = (quiet >= QUIET_STEPS) & (method.norm(gain) <= level)
        stop = STOP.where(done, STOP.objective, stop)
        stationary = slope.finite & (method.norm(gradient) <= method.atol)
        stop = STOP.where(stationary, STOP.gradient, stop)
    lost = ~slope.finite & (track.steps == 0)
    stop = STOP.where(lost & (slope.judged != -jnp.inf), STOP.nonfinite_start, stop)
    return Track(
        steps=track.steps + 1,
        value=jnp.where(slope.finite, slope.value, track.value),
        sound=choose(slope.finite, y, track.sound),
        best=choose(better, y, track.best),
        best_value=jnp.where(better, slope.judged, track.best_value),
        quiet=quiet,
        halvings=halvings,
        stop=STOP.where(is_running(track.stop), stop, track.stop),
        order=track.order,
    )


def advance(track: Track, y: PyTree, updated: PyTree, finite: Array, options: Any) -> PyTree:
    """Where to evaluate next: the updated point, or half-way back to the last sound one.

    `track` is that after `observe`. A method that has stopped stays.
    """
    back = jax.tree.map(lambda a, b: a + (b - a) / 2, track.sound, y)
    onward = choose(finite & all_finite(updated), project(updated, options), back)
    return choose(is_running(track.stop), onward, y)


class AbstractDescent(optx.AbstractMinimiser):
    """A method that goes down by a rule for its steps; the state it keeps has a `track`.

    - `batches`: see a fresh batch of `args` in each step; they are `Rows` then. Only with
      `solvers.optimisers.base.optimise`: optimistix's own driver fixes the shape of `args`.
    - `keep_best`: return the best point seen; on batches that among the beginnings of
      epochs, where the whole objective is evaluated, and the end. Otherwise the last.
    - `rtol`, `atol`, `norm`: when to stop, see `observe`. On batches it runs until it is
      out of steps, and says so.
    """

    batches: eqx.AbstractVar[Batches | None]
    keep_best: eqx.AbstractVar[bool]
    rtol: eqx.AbstractVar[float]
    atol: eqx.AbstractVar[float]
    norm: eqx.AbstractVar[Callable[[PyTree], Any]]

    def terminate(
        self, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any
    ) -> tuple[Array, Any]:
        """Whether the track has ended."""
        del fn, y, args, options, tags
        return to_optimistix(state.track.stop)

    def postprocess(
        self,
        fn: Any,
        y: Any,
        aux: Any,
        args: Any,
        options: Any,
        state: Any,
        tags: Any,
        result: Any,
    ) -> tuple[PyTree, Any, dict[str, Any]]:
        """The point to return and its objective, evaluated anew if that is not known."""
        del options, tags, result
        track: Track = state.track
        statistics: dict[str, Any] = {"stop": track.stop}
        if self.keep_best and self.batches is None:
            return track.best, aux, statistics | {"objective": track.best_value}
        value = fn(y, args)[0]
        if self.keep_best:
            better = value < track.best_value
            y = choose(better, y, track.best)
            value = jnp.where(better, value, track.best_value)
        return y, aux, statistics | {"objective": value}
